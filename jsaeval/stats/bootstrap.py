"""Percentile bootstrap over rows (Efron & Tibshirani 1993, §13.3).

A resample is a vector of row counts, so every sum of the table is resampled by one matrix product, and a ratio of sums
resamples its numerator and denominator together.
"""

import functools

import numpy as np
from jaxtyping import Float


RESAMPLES = 1000


def row_counts(n_rows: int, seed: int, resamples: int = RESAMPLES) -> Float[np.ndarray, "resample row"]:
    """How often each row appears in each resample of `n_rows` rows drawn with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_rows, np.full(n_rows, 1 / n_rows), size=resamples).astype(np.float64)


@functools.lru_cache(maxsize=8)
def kept_counts(n_rows: int, seed: int) -> Float[np.ndarray, "resample row"]:
    """`row_counts`, kept for the next statistic of the same rows; it cannot be written to."""
    counts = row_counts(n_rows, seed)
    counts.setflags(write=False)
    return counts


def interval(samples: Float[np.ndarray, " resample"], level: float = 0.95) -> tuple[float, float] | None:
    """The central interval of resampled values; None where one of them is not finite."""
    if not np.isfinite(samples).all():
        return None
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
