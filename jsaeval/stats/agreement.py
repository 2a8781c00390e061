"""Agreement between raters, on a table of unit × rater with NaN where somebody did not rate.

Every coefficient can be resampled: `counts` says how often each unit is in each resample, so that units which belong
together (the intervals of an item) can come and go together.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from jsaeval.stats.bootstrap import kept_counts


Level = Literal["nominal", "ordinal", "interval"]
Ratings = Float[np.ndarray, "unit rater"]
Counts = Float[np.ndarray, "resample unit"]
Coefficient = Callable[[Ratings, Counts], Float[np.ndarray, " resample"]]


def krippendorff_alpha(ratings: Ratings, level: Level) -> float:
    """Krippendorff's α, the agreement beyond chance of any number of raters (Krippendorff 2011, "Computing
    Krippendorff's Alpha-Reliability").

    α = 1 − D_o / D_e. Of every unit u with m_u ≥ 2 ratings, all ordered pairs (c, v) of its ratings are counted with
    weight 1 / (m_u − 1); n_c is how many of the n values of such units are c, then
    D_o = Σ_u Σ_pairs δ²(c, v) / (m_u − 1) / n and D_e = Σ_cv n_c n_v δ²(c, v) / (n (n − 1)), with
    δ² = [c ≠ v] (nominal), (c − v)² (interval), (Σ_{g=c..v} n_g − (n_c + n_v) / 2)² (ordinal).

    Args:
        ratings: NaN where there is none.
        level: of measurement; nominal: names, ordinal: ranks, interval: numbers whose differences mean something.

    Returns:
        1: perfect; 0: as by chance; NaN where no unit has two ratings, or all of those are the same.
    """
    return float(alphas(ratings, np.ones((1, len(ratings))), level)[0])


def alphas(ratings: Ratings, counts: Counts, level: Level) -> Float[np.ndarray, " resample"]:
    """`krippendorff_alpha` of each resample of the units."""
    tally = _Tally.of(ratings)
    keep = tally.sizes >= 2
    table, sizes, weights = tally.table[keep], tally.sizes[keep], counts[:, keep]
    n_c = weights @ table
    n = n_c.sum(1)
    if level == "nominal":
        within = weights @ ((sizes**2 - (table**2).sum(1)) / (sizes - 1))
        between = n**2 - (n_c**2).sum(1)
    else:
        # The ordinal distance is that of places: half of those at a value and all below it.
        place = np.cumsum(n_c, 1) - n_c / 2 if level == "ordinal" else np.tile(tally.values, (len(n), 1))
        place = place - _ratio((place * n_c).sum(1), n)[:, None]  # or squares of large numbers would cancel
        # Of m ratings x, the squared differences of all ordered pairs add up to 2 m Σ x² − 2 (Σ x)².
        pairs = 2 * sizes * (place**2 @ table.T) - 2 * (place @ table.T) ** 2
        within = (weights * pairs / (sizes - 1)).sum(1)
        between = 2 * n * (place**2 * n_c).sum(1) - 2 * (place * n_c).sum(1) ** 2
    several = (n_c > 0).sum(1) > 1
    return np.where(several, 1 - _ratio((n - 1) * within, np.where(several, between, 0.0)), np.nan)


def gwet_ac1(ratings: Ratings, n_values: int) -> float:
    """Gwet's AC1 of any number of raters (Gwet 2008, "Computing inter-rater reliability and its variance in the
    presence of high agreement"; ratings missing as in Gwet 2014, Handbook of Inter-Rater Reliability, 4th ed., ch. 5).

    AC1 = (p_a − p_e) / (1 − p_e). p_a: mean over units with r_u ≥ 2 ratings of Σ_k r_uk (r_uk − 1) / (r_u (r_u − 1));
    p_e = Σ_k π_k (1 − π_k) / (q − 1), π_k: mean over units with r_u ≥ 1 of r_uk / r_u. Unlike α and κ it stays high
    where nearly everybody gives the same answer.

    Args:
        ratings: NaN where there is none; every value is a name.
        n_values: q, how many values there are to choose from, chosen or not.

    Returns:
        1: perfect; 0: as by chance; NaN where no unit has two ratings.
    """
    return float(ac1s(ratings, np.ones((1, len(ratings))), n_values)[0])


def ac1s(ratings: Ratings, counts: Counts, n_values: int) -> Float[np.ndarray, " resample"]:
    """`gwet_ac1` of each resample of the units."""
    tally = _Tally.of(ratings)
    q = max(n_values, len(tally.values), 2)
    rated, several = tally.sizes >= 1, tally.sizes >= 2
    sizes = np.where(several, tally.sizes, 2)
    same = (tally.table * (tally.table - 1)).sum(1) / (sizes * (sizes - 1))
    observed = _ratio(counts @ (same * several), counts @ several)
    shares = tally.table / np.maximum(tally.sizes, 1)[:, None]
    share = _ratio(counts @ shares, (counts @ rated)[:, None])
    chance = (share * (1 - share)).sum(1) / (q - 1)
    return _ratio(observed - chance, 1 - chance)


def resampled(
    coefficient: Coefficient, ratings: Ratings, clusters: Sequence[object], seed: int
) -> tuple[float, Float[np.ndarray, " resample"], int]:
    """A coefficient, and what it is when the clusters of units are drawn anew.

    Args:
        coefficient: `alphas` or `ac1s`, with the last argument given.
        ratings: NaN where there is none.
        clusters: which cluster each unit belongs to.
        seed: of the draws.

    Returns:
        (its value, its value in each resample, how many clusters have a unit that two raters rated); NaN where it
        is not defined.
    """
    rated = np.flatnonzero(np.isfinite(ratings).sum(1)).tolist()
    ratings, clusters = ratings[rated], [clusters[i] for i in rated]
    if not pairable(ratings).any():
        return math.nan, np.full(1, np.nan), 0
    names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    cluster = np.array([names[name] for name in clusters], np.int64)
    value = float(coefficient(ratings, np.ones((1, len(ratings))))[0])
    n = len(np.unique(cluster[pairable(ratings)]))
    return value, coefficient(ratings, kept_counts(len(names), seed)[:, cluster]), n


def pairable(ratings: Ratings) -> Bool[np.ndarray, " unit"]:
    """Which units two raters or more have rated."""
    return np.isfinite(ratings).sum(1) >= 2


@dataclass(frozen=True)
class _Tally:
    """How often each value was given to each unit."""

    values: Float[np.ndarray, " value"]
    table: Float[np.ndarray, "unit value"]
    sizes: Float[np.ndarray, " unit"]

    @classmethod
    def of(cls, ratings: Ratings) -> "_Tally":
        unit, rater = np.nonzero(np.isfinite(ratings))
        values, place = np.unique(ratings[unit, rater], return_inverse=True)
        table = np.zeros((len(ratings), len(values)))
        np.add.at(table, (unit, place), 1.0)
        return cls(values, table, table.sum(1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
