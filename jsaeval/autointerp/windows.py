"""The corpus cut into windows, and its documents split into *explain*, *calibrate* and *score*.

Documents of the same text are in one split.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from jsaeval.autointerp.draws import uniform
from jsaeval.autointerp.evidence import SPLITS, WINDOW, Split
from jsaeval.corpus.masks import Masks
from jsaeval.corpus.rows import Rows


SHARES: dict[Split, float] = {"explain": 0.5, "calibrate": 0.2, "score": 0.3}


@dataclass(frozen=True)
class Windows:
    """All windows of a corpus, in the order of row and position, and which one each token is in.

    Attributes:
        row: number of the row of each window.
        start: position of its first token.
        stop: position after its last token.
        document: number of its document.
        first: position in the row at which its stretch of the document begins.
        begins: whether it is all that the LM sees: nothing stands before it but BOS at position 0, which belongs to no
            document (or to the first one, where it counts).
        split: index in `SPLITS` of the split of its document.
        at: the window of each token; -1: none.
    """

    row: Int[np.ndarray, " window"]
    start: Int[np.ndarray, " window"]
    stop: Int[np.ndarray, " window"]
    document: Int[np.ndarray, " window"]
    first: Int[np.ndarray, " window"]
    begins: Bool[np.ndarray, " window"]
    split: Int[np.ndarray, " window"]
    at: Int[np.ndarray, "row position"]

    def of(self, split: Split) -> Int[np.ndarray, " own"]:
        """The windows of a split."""
        return np.flatnonzero(self.split == SPLITS.index(split))


def cut_windows(rows: Rows, masks: Masks, seed: int = 0, shares: dict[Split, float] = SHARES) -> Windows:
    """Cut every run of counted tokens of a document in a row into pieces of nearly equal length, as few as `WINDOW`
    allows.

    Args:
        rows: the corpus. Where nothing is known of its documents, each row counts as one.
        masks: `metric` says which tokens count.
        seed: of the split of documents.
        shares: the chance of a document to come into each split.
    """
    documents = documents_of(rows, masks)
    n_rows, positions = documents.shape
    counted = np.asarray(masks.metric) & (documents >= 0)
    another = np.ones(documents.shape, bool)
    another[:, 1:] = documents[:, 1:] != documents[:, :-1]
    heads = np.maximum.accumulate(np.where(another.ravel(), np.arange(documents.size), 0))
    begin = np.argmax(documents >= 0, axis=1)  # the text of each row
    bos = ~np.asarray(masks.metric)[:, 0] if rows.documents is None else np.asarray(rows.documents)[:, 0] < 0
    edges = another.copy()
    edges[:, 1:] |= counted[:, 1:] != counted[:, :-1]
    first = np.flatnonzero(edges)
    length = np.diff(first, append=documents.size)
    first, length = (own[counted.ravel()[first]] for own in (first, length))

    pieces = -(-length // WINDOW)
    run = np.repeat(np.arange(len(first)), pieces)
    piece = np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = first[run] + length[run] * piece // pieces[run]
    stop = first[run] + length[run] * (piece + 1) // pieces[run]

    at = np.full(documents.size, -1, np.int32)
    at[_ranges(start, stop)] = np.repeat(np.arange(len(start), dtype=np.int32), stop - start)
    document = documents.ravel()[start]
    row = start // positions
    head = heads[start] - row * positions
    return Windows(
        row,
        start - row * positions,
        stop - row * positions,
        document,
        head,
        (head == begin[row]) & (head <= 1) & bos[row],
        split_of(texts_of(np.asarray(rows.tokens), documents).ravel()[start], seed, shares),
        at.reshape(n_rows, positions),
    )


def split_of(
    document: Integer[np.ndarray, " n"], seed: int = 0, shares: dict[Split, float] = SHARES
) -> Int[np.ndarray, " n"]:
    """Index in `SPLITS` of the split that each document is in; it depends on nothing but its number and the seed."""
    edges: Float[np.ndarray, " edge"] = np.cumsum([shares[split] for split in SPLITS])[:-1]
    return np.searchsorted(edges, uniform(seed, document), side="right")


def texts_of(
    tokens: Integer[np.ndarray, "row position"], documents: Integer[np.ndarray, "row position"]
) -> Integer[np.ndarray, "row position"]:
    """The first document that has the same text as that of each token: mostly itself; -1: none."""
    own = documents >= 0
    number, text = documents[own], np.ascontiguousarray(tokens[own], np.int64)
    known, edges = dict[bytes, int](), np.flatnonzero(np.diff(number, prepend=-1, append=-1))
    for start, stop in itertools.pairwise(edges.tolist()):
        number[start:stop] = known.setdefault(text[start:stop].tobytes(), int(number[start]))
    found = documents.copy()
    found[own] = number
    return found


def documents_of(rows: Rows, masks: Masks) -> Integer[np.ndarray, "row position"]:
    """The document of each token, -1: none. Where nothing is known of documents, each row is one, from its first
    counted token on."""
    if rows.documents is None:
        numbers = np.arange(len(rows.tokens), dtype=np.int32)[:, None]
        return np.where(np.logical_or.accumulate(np.asarray(masks.metric), axis=1), numbers, np.int32(-1))
    documents = np.array(rows.documents)
    # Where BOS counts, it counts to the document that follows.
    bos = np.asarray(masks.metric[:, 0]) & (documents[:, 0] < 0)
    documents[bos, 0] = documents[bos, min(1, documents.shape[1] - 1)]
    return documents


def _ranges(start: Int[np.ndarray, " n"], stop: Int[np.ndarray, " n"]) -> Int[np.ndarray, " total"]:
    """All numbers of the ranges `start .. stop - 1`, which do not overlap."""
    length = stop - start
    return np.arange(length.sum()) + np.repeat(start - np.cumsum(length) + length, length)
