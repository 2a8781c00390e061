"""Spearman's rank correlation, and what it is when pairs are drawn anew."""

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from jsaeval.stats.bootstrap import RESAMPLES


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Pearson's correlation of ranks, tied values sharing the mean of theirs; NaN where one side is constant."""
    return float(_of_ranks(x[None], y[None])[0])


def spearmans(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], seed: int, resamples: int = RESAMPLES
) -> Float[np.ndarray, " resample"]:
    """`spearman` of each resample of n pairs drawn with replacement, ranked anew."""
    drawn = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    return _of_ranks(x[drawn], y[drawn])


def _of_ranks(x: Float[np.ndarray, "resample n"], y: Float[np.ndarray, "resample n"]) -> Float[np.ndarray, " resample"]:
    x, y = (rankdata(own, axis=1) - (own.shape[1] + 1) / 2 for own in (x, y))
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), size, out=np.full(len(x), np.nan), where=size > 0)
