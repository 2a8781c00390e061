"""A trigram model with interpolated Kneser-Ney smoothing: what a language model must clearly beat.

Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling", §2.7: absolute discounting,
where the shorter contexts count in how many different contexts a token was seen, not how often.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer


@dataclass(frozen=True)
class Level:
    """Counts of n-grams, their totals per context, and the number of different tokens after each context.

    Keys are sorted; that of an n-gram is key(context) · vocab + token.
    """

    keys: Integer[np.ndarray, " gram"]
    counts: Integer[np.ndarray, " gram"]
    contexts: Integer[np.ndarray, " context"]
    totals: Integer[np.ndarray, " context"]
    kinds: Integer[np.ndarray, " context"]
    discount: float

    @staticmethod
    def of(keys: np.ndarray, counts: np.ndarray, vocab: int) -> "Level":
        contexts, first, kinds = np.unique(keys // vocab, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        discount = once / (once + 2 * twice) if once else 0.5
        return Level(keys, counts, contexts, totals, kinds, float(discount))

    def interpolate(self, context: np.ndarray, key: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """max(c − D, 0) / total + D · kinds / total · p(shorter); p(shorter) where the context was never seen."""
        count, total, kinds = (
            _look_up(self.keys, self.counts, key),
            _look_up(self.contexts, self.totals, context),
            _look_up(self.contexts, self.kinds, context),
        )
        divisor = np.maximum(total, 1)
        seen = np.maximum(count - self.discount, 0) / divisor + self.discount * kinds / divisor * shorter
        return np.where(total > 0, seen, shorter)


@dataclass(frozen=True)
class Trigram:
    """p(token | the two before it)."""

    unigram: Float[np.ndarray, " vocab"]
    bigram: Level
    trigram: Level

    @staticmethod
    def fit(rows: Integer[np.ndarray, "row position"], vocab: int) -> "Trigram":
        """Count the trigrams inside rows."""
        rows = rows.astype(np.int64)
        a, b, c = (rows[:, i : rows.shape[1] - 2 + i].ravel() for i in range(3))
        keys, counts = np.unique((a * vocab + b) * vocab + c, return_counts=True)
        pairs, preceded = np.unique(keys % vocab**2, return_counts=True)
        tokens, endings = np.unique(pairs % vocab, return_counts=True)
        unigram = np.ones(vocab)  # every token once more, so that none is impossible
        unigram[tokens] += endings
        return Trigram(unigram / unigram.sum(), Level.of(pairs, preceded, vocab), Level.of(keys, counts, vocab))

    def loss(self, rows: Integer[np.ndarray, "row position"]) -> Float[np.ndarray, "row position-2"]:
        """−log p of each token from position 2 on, nats."""
        rows, vocab = rows.astype(np.int64), len(self.unigram)
        a, b, c = (rows[:, i : rows.shape[1] - 2 + i] for i in range(3))
        p = self.bigram.interpolate(b, b * vocab + c, self.unigram[c])
        return -np.log(self.trigram.interpolate(a * vocab + b, (a * vocab + b) * vocab + c, p))


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
