"""From a table of activations to evidence: statistics, strata, and examples of each split."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Integer

from jsaeval.autointerp.draws import further, hashed
from jsaeval.autointerp.evidence import (
    INTERVALS,
    KINDS,
    SPLITS,
    Evidence,
    Example,
    Kind,
    Split,
    Statistics,
    TokenTable,
)
from jsaeval.autointerp.sparse import OfLatent, SparseLatents
from jsaeval.autointerp.windows import Windows, cut_windows
from jsaeval.corpus.masks import Masks
from jsaeval.corpus.rows import Rows


BINS = 40  # of the histogram of activations
LEAST = 20  # activations that a latent needs
_NEAR = 8  # tokens on each side of the largest activation; contexts that share them are the same


@dataclass(frozen=True)
class Amounts:
    """How many examples of each kind, at most; `interval`: in each interval."""

    top: int
    interval: int
    active: int
    random: int


@dataclass(frozen=True)
class Sizes:
    """How many examples of each split."""

    explain: Amounts = Amounts(top=10, interval=2, active=16, random=10)
    calibrate: Amounts = Amounts(top=5, interval=1, active=0, random=10)
    score: Amounts = Amounts(top=10, interval=2, active=16, random=20)


def evidence(
    sparse: SparseLatents,
    rows: Rows,
    masks: Masks,
    latents: Iterable[int] | None = None,
    seed: int = 0,
    sizes: Sizes = Sizes(),
) -> list[Evidence]:
    """What is known of latents.

    An example depends on the corpus, the latent and the seed; not on the other latents, nor on batches or devices. With
    another size of one kind those of the others stay the same.

    Args:
        sparse: where they fire.
        rows: the corpus.
        masks: `metric` says which tokens count.
        latents: which; default all of the table.
        seed: of splits and draws.
        sizes: how many examples.

    Raises:
        InputError: the table does not hold a latent.
    """
    corpus = _Corpus.of(rows, masks, seed)
    return [
        _of_latent(int(latent), sparse, corpus, sizes) for latent in (sparse.latents if latents is None else latents)
    ]


@dataclass(frozen=True)
class _Corpus:
    """What all latents share.

    Attributes:
        tokens: of the rows.
        windows: of the corpus.
        places: (row, start, stop, document, first, begins, split) of each window; a list is faster to read one by one.
        n_windows: of each split.
        seen: how often each token stands in the split `explain`.
        seed: of the draws.
    """

    tokens: Integer[np.ndarray, "row position"]
    windows: Windows
    places: list[tuple[int, int, int, int, int, bool, int]]
    n_windows: Int[np.ndarray, " split"]
    seen: Int[np.ndarray, " vocab"]
    seed: int

    @classmethod
    def of(cls, rows: Rows, masks: Masks, seed: int) -> "_Corpus":
        tokens, windows = np.asarray(rows.tokens), cut_windows(rows, masks, seed)
        documents = [set(windows.document[windows.split == i].tolist()) for i in range(len(SPLITS))]
        assert len(set.union(*documents)) == sum(map(len, documents)), "a document is in two splits"
        columns = windows.row, windows.start, windows.stop, windows.document, windows.first, windows.begins
        explain = np.asarray(masks.metric) & (windows.at >= 0)
        explain[explain] = windows.split[windows.at[explain]] == SPLITS.index("explain")
        return cls(
            tokens,
            windows,
            list(zip(*(column.tolist() for column in (*columns, windows.split)), strict=True)),
            np.bincount(windows.split, minlength=len(SPLITS)),
            np.bincount(tokens[explain]),
            seed,
        )

    def draw(self, latent: int, kind: Kind, position: Integer[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The order in which positions of the corpus, counted through all rows, come in a random draw."""
        return np.argsort(further(hashed(self.seed, latent, KINDS.index(kind)), position), kind="stable")


@dataclass(frozen=True)
class _Hits:
    """The windows in which a latent fires, in their order, and its entries in them.

    The entries of the i-th window are `edges[i] .. edges[i + 1] - 1`.
    """

    entries: OfLatent
    window: Int[np.ndarray, " hit"]
    edges: Int[np.ndarray, " edge"]
    peak: Float[np.ndarray, " hit"]
    interval: Int[np.ndarray, " hit"]

    @classmethod
    def of(cls, entries: OfLatent, windows: Windows) -> "_Hits":
        window = windows.at[entries.row, entries.position]
        entries, window = OfLatent(*(own[window >= 0] for own in entries)), window[window >= 0]
        starts = np.flatnonzero(np.diff(window, prepend=-1))
        peak = np.maximum.reduceat(entries.value, starts) if len(starts) else entries.value
        share = peak.astype(np.float64) / peak.max(initial=np.finfo(peak.dtype).tiny)
        interval = np.clip(np.ceil(share * INTERVALS).astype(np.int64), 1, INTERVALS)
        return cls(entries, window[starts], np.append(starts, len(window)), peak, interval)


def _of_latent(latent: int, sparse: SparseLatents, corpus: _Corpus, sizes: Sizes) -> Evidence:
    entries = sparse.of(latent)
    hits = _Hits.of(entries, corpus.windows)
    strata = {}
    split_of_hit = corpus.windows.split[hits.window]
    for i, split in enumerate(SPLITS):
        strata[split] = np.bincount(hits.interval[split_of_hit == i], minlength=INTERVALS + 1)
        strata[split][0] = corpus.n_windows[i] - strata[split].sum()
    return Evidence(
        latent,
        _statistics(entries, sparse.n_tokens),
        _token_table(hits, corpus),
        _Drawn(latent, hits, corpus, sizes).examples(),
        strata,
        _problem(len(entries.value), strata),
    )


def _problem(fires: int, strata: dict[Split, Int[np.ndarray, " stratum"]]) -> str | None:
    if not fires:
        return "dead"
    if fires < LEAST:
        return f"{fires} examples, at least {LEAST} are needed"
    silent = [split for split, own in strata.items() if not own[1:].any()]
    return f"never fires in the split {' and '.join(silent)}" if silent else None


class _Drawn:
    """The examples of one latent.

    Every kind goes through its candidates in one order, over all splits at once, and takes what there is still room
    for; a document is in one split only, so one set of those that are taken will do.
    """

    def __init__(self, latent: int, hits: _Hits, corpus: _Corpus, sizes: Sizes):
        self._latent, self._hits, self._corpus = latent, hits, corpus
        self._amounts = [getattr(sizes, split) for split in SPLITS]
        self._hit_of = {window: i for i, window in enumerate(hits.window.tolist())}

    def examples(self) -> dict[Split, tuple[Example, ...]]:
        found: list[list[Example]] = [[] for _ in SPLITS]
        orders = self._top(), self._by_interval(), self._active(), self._random()
        for kind, order in zip(KINDS, orders, strict=True):
            for window, entry in order:
                found[self._corpus.places[window][-1]].append(self._example(kind, window, entry))
        return {split: tuple(own) for split, own in zip(SPLITS, found, strict=True)}

    def _top(self) -> Iterator[tuple[int, None]]:
        """Windows with the largest activations, of different documents, with different tokens around the largest."""
        take = _Taken([own.top for own in self._amounts])
        contexts: set[tuple[int, bytes]] = set()
        for i in np.argsort(-self._hits.peak, kind="stable").tolist():
            if take.full:
                return
            window = int(self._hits.window[i])
            row, start, stop, document, *_, split = self._corpus.places[window]
            if not take.may(split, document):
                continue
            a, b = self._hits.edges[i : i + 2]
            focus = int(self._hits.entries.position[a + self._hits.entries.value[a:b].argmax()])
            near = slice(max(start, focus - _NEAR), min(stop, focus + _NEAR + 1))
            context = split, self._corpus.tokens[row, near].tobytes()
            if context not in contexts:
                contexts.add(context)
                take(split, document)
                yield window, None

    def _by_interval(self) -> Iterator[tuple[int, None]]:
        """Windows by the interval of their largest activation; the high intervals, which have the fewest, go first."""
        hits = self._hits
        take = _Taken([own.interval for own in self._amounts])
        drawn = self._draw("interval", hits.window)
        for i in drawn[np.argsort(-hits.interval[drawn], kind="stable")].tolist():
            window = int(hits.window[i])
            *_, document, _, _, split = self._corpus.places[window]
            if take.may(split, document, int(hits.interval[i])):
                take(split, document, int(hits.interval[i]))
                yield window, None

    def _active(self) -> Iterator[tuple[int, int]]:
        """Windows around activations drawn uniformly from all that are not 0, and the entry of each."""
        entries, take = self._hits.entries, _Taken([own.active for own in self._amounts])
        position = entries.row.astype(np.int64) * self._corpus.tokens.shape[1] + entries.position
        window = self._corpus.windows.at[entries.row, entries.position]
        order = self._corpus.draw(self._latent, "active", position)
        for entry, own in zip(order.tolist(), window[order].tolist(), strict=True):
            if take.full:
                return
            *_, document, _, _, split = self._corpus.places[own]
            if take.may(split, document):
                take(split, document)
                yield own, entry

    def _random(self) -> Iterator[tuple[int, None]]:
        """Windows drawn uniformly from all."""
        take = _Taken([own.random for own in self._amounts])
        for window in self._draw("random", np.arange(len(self._corpus.places))).tolist():
            if take.full:
                return
            *_, document, _, _, split = self._corpus.places[window]
            if take.may(split, document):
                take(split, document)
                yield window, None

    def _draw(self, kind: Kind, window: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Indices of windows in random order."""
        windows = self._corpus.windows
        position = windows.row[window].astype(np.int64) * self._corpus.tokens.shape[1] + windows.start[window]
        return self._corpus.draw(self._latent, kind, position)

    def _example(self, kind: Kind, window: int, entry: int | None) -> Example:
        row, start, stop, document, first, begins, _ = self._corpus.places[window]
        entries, tokens = self._hits.entries, self._corpus.tokens[row]
        activations, interval, hit = np.zeros(stop - start, np.float32), 0, self._hit_of.get(window)
        if hit is not None:
            own = slice(*self._hits.edges[hit : hit + 2])
            activations[entries.position[own] - start] = entries.value[own]
            interval = int(self._hits.interval[hit])
        focus = int(activations.argmax()) if entry is None else int(entries.position[entry]) - start
        before, tokens = tokens[first:start], tokens[start:stop]
        return Example(kind, interval, document, row, start, before, tokens, activations, focus, begins)


class _Taken:
    """Which documents are taken, and how much room is left."""

    def __init__(self, room: list[int]):
        self._room, self._left = room, {}
        self._documents: set[int] = set()
        self._wanted = sum(room)

    @property
    def full(self) -> bool:
        """Whether nothing more may come, where there is one stratum."""
        return not self._wanted

    def may(self, split: int, document: int, stratum: int = 0) -> bool:
        return self._left.get((split, stratum), self._room[split]) > 0 and document not in self._documents

    def __call__(self, split: int, document: int, stratum: int = 0) -> None:
        self._left[split, stratum] = self._left.get((split, stratum), self._room[split]) - 1
        self._documents.add(document)
        self._wanted -= 1


def _statistics(entries: OfLatent, n_tokens: int) -> Statistics:
    value = entries.value.astype(np.float64)
    largest = float(value.max(initial=0.0))
    counts, edges = np.histogram(value, BINS, (0.0, largest or 1.0))
    return Statistics(n_tokens, len(value), largest, float(value.mean()) if len(value) else 0.0, edges, counts)


def _token_table(hits: _Hits, corpus: _Corpus) -> TokenTable:
    entries = hits.entries
    window = corpus.windows.at[entries.row, entries.position]
    explain = corpus.windows.split[window] == SPLITS.index("explain")
    ids, place = np.unique(corpus.tokens[entries.row, entries.position][explain], return_inverse=True)
    total = np.bincount(place, entries.value[explain].astype(np.float64), minlength=len(ids))
    seen, n_tokens = corpus.seen[ids], int(corpus.seen.sum())
    fires = np.bincount(place, minlength=len(ids))
    return TokenTable(ids, seen, fires, total / np.maximum(seen, 1), float(total.sum()) / max(1, n_tokens), n_tokens)
