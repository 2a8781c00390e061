"""What raters see of text: short windows around tokens that fire, from the whole range of activations."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from jsaeval.autointerp.draws import hashed
from jsaeval.autointerp.sparse import OfLatent
from jsaeval.autointerp.windows import documents_of
from jsaeval.corpus.masks import Masks
from jsaeval.corpus.rows import Rows
from jsaeval.rating.study import INTERVALS, Window


EITHER_SIDE = 4  # tokens beside the one that fires (Bricken et al. 2023)


@dataclass(frozen=True)
class Contexts:
    """A corpus as raters see it.

    Attributes:
        tokens: of the rows.
        documents: of each token; -1: none.
        token_text: what is shown of a token id.
        seed: of draws.
    """

    tokens: Integer[np.ndarray, "row position"]
    documents: Integer[np.ndarray, "row position"]
    token_text: Callable[[int], str]
    seed: int

    @classmethod
    def of(cls, rows: Rows, masks: Masks, token_text: Callable[[int], str], seed: int) -> "Contexts":
        return cls(np.asarray(rows.tokens), documents_of(rows, masks), token_text, seed)

    def by_interval(self, entries: OfLatent, most: int, *keys: int) -> tuple[tuple[Window, ...], ...]:
        """Windows around activations of each of `INTERVALS` intervals of equal width in (0, max], drawn uniformly.

        No two of an item come from one document or have the same tokens, unless an interval would stay empty.

        Args:
            entries: where the latent fires, and how much.
            most: windows in an interval.
            keys: of the draw, besides the seed.
        """
        if not len(entries.value):
            return ((),) * INTERVALS
        largest = entries.value.max().astype(np.float64)
        share = entries.value.astype(np.float64) / largest
        interval = np.clip(np.ceil(share * INTERVALS).astype(np.int64), 1, INTERVALS)
        place = entries.row.astype(np.int64) * self.tokens.shape[1] + entries.position
        order = np.argsort(hashed(self.seed, *keys, place), kind="stable")
        documents = self.documents[entries.row, entries.position]
        taken: set[int] = set()
        seen: set[bytes] = set()
        found: list[tuple[Window, ...]] = [()] * INTERVALS
        # The strong intervals have the fewest; they choose first.
        for own in range(INTERVALS, 0, -1):
            inside = order[interval[order] == own].tolist()
            windows: list[Window] = []
            for entry in inside:
                if len(windows) == most:
                    break
                tokens = self._tokens(int(entries.row[entry]), int(entries.position[entry])).tobytes()
                if documents[entry] not in taken and tokens not in seen:
                    taken.add(int(documents[entry]))
                    seen.add(tokens)
                    windows.append(self._window(entries, share, entry))
            if inside and not windows:
                windows = [self._window(entries, share, inside[0])]
            found[own - 1] = tuple(windows)
        return tuple(found)

    def _around(self, row: int, position: int) -> tuple[int, int]:
        """Of a token and those beside it that are of the same document."""
        documents = self.documents[row]
        start, stop = position, position + 1
        while start and position - start < EITHER_SIDE and documents[start - 1] == documents[position]:
            start -= 1
        while stop < len(documents) and stop - position <= EITHER_SIDE and documents[stop] == documents[position]:
            stop += 1
        return start, stop

    def _tokens(self, row: int, position: int) -> Integer[np.ndarray, " own"]:
        return self.tokens[row, slice(*self._around(row, position))]

    def _window(self, entries: OfLatent, share: Float[np.ndarray, " entry"], entry: int) -> Window:
        row, position = int(entries.row[entry]), int(entries.position[entry])
        start, stop = self._around(row, position)
        near = (entries.row == row) & (entries.position >= start) & (entries.position < stop)
        shares = np.zeros(stop - start)
        shares[entries.position[near] - start] = share[near]
        texts = tuple(self.token_text(int(id)) for id in self.tokens[row, start:stop])
        return Window(texts, tuple(round(float(own), 3) for own in shares), position - start)
