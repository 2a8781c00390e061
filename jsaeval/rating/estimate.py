"""Numbers of ratings with 95 % intervals: what is resampled is items, whose units stay together; raters stay the same.

So an interval says what other items would have given with these raters. An estimate is
{"value", "ci95": [low, high], "n": what it is of, "items"}; "ci95" is absent where there are fewer than `LEAST_ITEMS`
items or nearly every tenth resample has no value; a value that is not defined is None, with "reason".
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jsaeval.stats.agreement import Coefficient, Ratings, pairable, resampled
from jsaeval.stats.bootstrap import interval, kept_counts
from jsaeval.stats.correlation import spearman, spearmans


# With fewer, resamples say next to nothing of other items.
LEAST_ITEMS = 5


class Sample(NamedTuple):
    """Numbers of units and which item each is of."""

    values: Float[np.ndarray, " unit"]
    items: tuple[str, ...]

    def there(self) -> "Sample":
        """Without the units that have none."""
        keep = np.flatnonzero(np.isfinite(self.values))
        return Sample(self.values[keep], tuple(self.items[i] for i in keep))

    def resampled(self, seed: int) -> Float[np.ndarray, "resample unit"]:
        """How often each unit is in each resample of the items."""
        names = {name: i for i, name in enumerate(dict.fromkeys(self.items))}
        return kept_counts(len(names), seed)[:, [names[name] for name in self.items]]


def seed_of(seed: int, *names: str) -> int:
    """Draws for one thing do not depend on those for another."""
    return int.from_bytes(hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()[:8], "big")


def mean(sample: Sample, seed: int) -> dict[str, Any]:
    """The mean over units."""
    return _of_units(sample, seed, _means)


def median(sample: Sample, seed: int) -> dict[str, Any]:
    """The median over units."""
    return _of_units(sample, seed, _medians)


def difference(a: Sample, b: Sample, seeds: tuple[int, int]) -> dict[str, Any]:
    """Mean of a − mean of b, of groups that are resampled independently. "clear": whether the interval excludes 0, None
    without one. "n" and "items" are those of the smaller group."""
    a, b = a.there(), b.there()
    if not len(a.values) or not len(b.values):
        return _nothing("one of the two groups has no ratings") | {"clear": None}
    n, items = min(len(a.values), len(b.values)), min(len(set(a.items)), len(set(b.items)))
    value = float(a.values.mean() - b.values.mean())
    samples = _means(a.values, a.resampled(seeds[0])) - _means(b.values, b.resampled(seeds[1]))
    found = estimate(value, samples, n, items)
    ends = found.get("ci95")
    return found | {"clear": None if ends is None else not ends[0] <= 0 <= ends[1]}


def within_raters(
    a: Float[np.ndarray, "a rater"],
    b: Float[np.ndarray, "b rater"],
    items: tuple[Sequence[str], Sequence[str]],
    seeds: tuple[int, int],
) -> dict[str, Any]:
    """Mean over raters, of those who scored both groups, of their own mean of a − their own mean of b.

    Raters who are lenient with everything, but gave one group more of their scores, make a difference between groups;
    not this one.

    Args:
        a: what raters gave to the units of a group, NaN: nothing.
        b: the same of the other.
        items: which item each unit of a and of b is of.
        seeds: of the resamples of items, of each group; those of `difference`.

    Returns:
        An estimate, with "raters" how many; "n" and "items" are those that these raters scored, of the smaller group.
    """
    both = np.isfinite(a).any(0) & np.isfinite(b).any(0)
    if not both.any():
        return _nothing("nobody has scored both groups") | {"raters": 0}
    means, resampled_means, n, n_items = [], [], [], []
    for values, names, seed in zip((a[:, both], b[:, both]), items, seeds, strict=True):
        scored = np.flatnonzero(np.isfinite(values).any(1))
        values, names = values[scored], tuple(names[i] for i in scored.tolist())
        counts = Sample(values[:, 0], names).resampled(seed)
        means.append(_of_raters(values, np.ones((1, len(names)))))
        resampled_means.append(_of_raters(values, counts))
        n.append(len(names))
        n_items.append(len(set(names)))
    value = float((means[0] - means[1]).mean())
    # A rater without items of both groups in a resample has no difference there.
    gaps = resampled_means[0] - resampled_means[1]
    there = np.isfinite(gaps)
    samples = np.where(there.any(1), np.where(there, gaps, 0.0).sum(1) / np.maximum(there.sum(1), 1), np.nan)
    return estimate(value, samples, min(n), min(n_items)) | {"raters": int(both.sum())}


def _of_raters(
    values: Float[np.ndarray, "unit rater"], counts: Float[np.ndarray, "resample unit"]
) -> Float[np.ndarray, "resample rater"]:
    """The mean of each rater; NaN without a unit."""
    there = np.isfinite(values)
    n = counts @ there.astype(np.float64)
    return np.divide(counts @ np.where(there, values, 0.0), n, out=np.full(n.shape, math.nan), where=n > 0)


def agreement(coefficient: Coefficient, ratings: Ratings, items: Sequence[str], seed: int) -> dict[str, Any]:
    """A coefficient of agreement; "n": units that two raters or more have rated."""
    value, samples, n_items = resampled(coefficient, ratings, items, seed)
    n = int(pairable(ratings).sum())
    if not n:
        return _nothing("no unit was rated by two raters")
    if math.isnan(value):
        return _nothing("all ratings are the same") | {"n": n, "items": n_items}
    return estimate(value, samples, n, n_items)


def correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], seed: int, least: int = 3) -> dict[str, Any]:
    """Spearman's rank correlation of pairs, each of which is an item of its own."""
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    if len(x) < least:
        return _nothing(f"{len(x)} with both, at least {least} are needed") | {"n": len(x), "items": len(x)}
    value = spearman(x, y)
    if math.isnan(value):
        return _nothing("one of the two is the same everywhere") | {"n": len(x), "items": len(x)}
    return estimate(value, spearmans(x, y, seed), len(x), len(x))


def estimate(value: float, samples: Float[np.ndarray, " resample"], n: int, items: int) -> dict[str, Any]:
    """With the interval over the resamples in which there is a value, if those are nearly all."""
    defined = samples[np.isfinite(samples)]
    ends = interval(defined) if items >= LEAST_ITEMS and len(defined) >= 0.9 * len(samples) else None
    return {"value": value} | ({} if ends is None else {"ci95": list(ends)}) | {"n": n, "items": items}


def _of_units(
    sample: Sample,
    seed: int,
    statistic: Callable[[Float[np.ndarray, " unit"], Float[np.ndarray, "resample unit"]], np.ndarray],
) -> dict[str, Any]:
    sample = sample.there()
    if not len(sample.values):
        return _nothing("no ratings")
    value = float(statistic(sample.values, np.ones((1, len(sample.values))))[0])
    return estimate(value, statistic(sample.values, sample.resampled(seed)), len(sample.values), len(set(sample.items)))


def _means(
    values: Float[np.ndarray, " unit"], counts: Float[np.ndarray, "resample unit"]
) -> Float[np.ndarray, " resample"]:
    return counts @ values / counts.sum(1)


def _medians(
    values: Float[np.ndarray, " unit"], counts: Float[np.ndarray, "resample unit"]
) -> Float[np.ndarray, " resample"]:
    """Of an even number the mean of the two in the middle."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[:, order], 1)
    half = below[:, -1:] / 2
    return (values[order][(below >= half).argmax(1)] + values[order][(below > half).argmax(1)]) / 2


def _nothing(why: str) -> dict[str, Any]:
    return {"value": None, "reason": why, "n": 0, "items": 0}
