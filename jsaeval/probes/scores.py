"""How good a probe is on examples that it has not seen: BCE, accuracy, AUC and F1, each with resampled values.

Resamples are of examples, and the same for every probe of a task, so the difference of two probes is resampled as a
pair.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jsaeval.stats.bootstrap import interval, row_counts


# Metric → whether more of it is better.
SCORES = {"bce": False, "accuracy": True, "auc": True, "f1": True}


@dataclass(frozen=True)
class Score:
    """A value, and what it is on each resample of the examples."""

    value: float
    samples: Float[np.ndarray, " resample"]

    def __sub__(self, other: "Score") -> "Score":
        """The paired difference from another probe on the same examples."""
        return Score(self.value - other.value, self.samples - other.samples)

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Over the resamples in which the score is defined, if those are nearly all."""
        defined = self.samples[np.isfinite(self.samples)]
        return interval(defined) if len(defined) >= 0.9 * len(self.samples) else None


Scores = dict[str, Score]


def scores(logits: Float[np.ndarray, " example"], labels: Bool[np.ndarray, " example"], seed: int = 0) -> Scores:
    """Scores by name.

    BCE in nats. F1 is scikit-learn's weighted one, as in `sae-probes`: the mean of both classes' F1, weighted with
    their shares. AUC counts ties as half; a resample without one of the classes has none.

    Args:
        logits: of yes; a probe says yes where they are positive.
        labels: of the examples.
        seed: of the resamples.
    """
    logits = np.asarray(logits, np.float64)
    counts = _resamples(len(labels), seed)
    total, yes = counts.sum(axis=1), counts @ labels
    said = logits > 0
    loss = np.logaddexp(0, logits) - labels * logits
    right = counts @ (said == labels)
    both, chosen = counts @ (said & labels), counts @ said
    neither = total - yes - chosen + both

    def f1(hits: np.ndarray, said: np.ndarray, there: np.ndarray) -> np.ndarray:
        return 2 * hits / np.maximum(said + there, 1)

    share = yes / total
    weighted = share * f1(both, chosen, yes) + (1 - share) * f1(neither, total - chosen, total - yes)
    values = {
        "bce": counts @ loss / total,
        "accuracy": right / total,
        "auc": auc(logits, labels, counts),
        "f1": weighted,
    }
    return {name: Score(float(own[0]), own[1:]) for name, own in values.items()}


@functools.lru_cache(maxsize=4)
def _resamples(n: int, seed: int) -> Float[np.ndarray, "resample example"]:
    """All examples once, then the resamples; the same for every probe of a task."""
    return np.concatenate([np.ones((1, n)), row_counts(n, seed)])


def auc(
    logits: Float[np.ndarray, " example"],
    labels: Bool[np.ndarray, " example"],
    counts: Float[np.ndarray, "resample example"],
) -> Float[np.ndarray, " resample"]:
    """P(a yes has the larger logit of a yes and a no) + ½ P(equal), per weighting; NaN without both classes."""
    order = np.argsort(logits, kind="stable")
    weights, yes = counts[:, order], labels[order]
    first = np.flatnonzero(np.diff(logits[order], prepend=-np.inf) > 0)
    pos = np.add.reduceat(weights * yes, first, axis=1)
    neg = np.add.reduceat(weights * ~yes, first, axis=1)
    below = np.cumsum(neg, axis=1) - neg
    pairs = pos.sum(axis=1) * neg.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.sum(pos * (below + neg / 2), axis=1) / np.where(pairs > 0, pairs, np.nan)


def to_json(found: Scores) -> dict[str, Any]:
    """As in `report.json`."""
    out = {}
    for name, score in found.items():
        ends = score.ci95
        out[name] = {"value": score.value} | ({} if ends is None else {"ci95": list(ends)})
    return out
