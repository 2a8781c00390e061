"""How near a simulation comes to the activations: formulas on tokens, each with a weight. Float64 on the host.

a: activations; s: simulated ones; w: weights of tokens, positive. None of the formulas is defined for a latent that is
the same at every token: callers see to that. A simulation that is the same everywhere says nothing, and scores 0 in
correlations, as in Bricken et al. 2023 (Bills' code gives NaN).
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from jsaeval.autointerp.explanation import LEVELS


# Share of a uniform distribution in what simulators say of levels, so that no level is impossible. A server that lists
# its 15 likeliest tokens gives the others nothing at all.
SMOOTHING = 1e-3

Tokens = Float[np.ndarray, " token"]


def constant(x: Tokens) -> bool:
    """Whether all values are the same."""
    return bool(np.ptp(x) == 0)


def activation_prediction_loss(a: Tokens, s: Tokens, w: Tokens) -> float:
    """E[(a − s)²] / E[(a − E a)²] of calibrated s: 0 is perfect, 1 no better than the mean, and it may be more."""
    return float(_mean(np.square(a - s), w) / _mean(np.square(a - _mean(a, w)), w))


def pearson(a: Tokens, s: Tokens, w: Tokens) -> float:
    """Correlation over all tokens together, −1 to 1 (Bills et al. 2023, `ev_correlation_score`)."""
    if constant(s):
        return 0.0
    a, s = a - _mean(a, w), s - _mean(s, w)
    return float(_mean(a * s, w) / np.sqrt(_mean(np.square(a), w) * _mean(np.square(s), w)))


def spearman(a: Tokens, s: Tokens, w: Tokens) -> float:
    """Correlation of ranks, −1 to 1 (Bricken et al. 2023); the rank is the weight below and half of the ties."""
    return pearson(_ranks(a, w), _ranks(s, w), w)


def r2_uncentred(a: Tokens, s: Tokens, w: Tokens) -> float:
    """1 − E[(a − s)²] / E[a²] of calibrated s (Bills et al. 2023, `rsquared_score`; about 0, not about the mean)."""
    return float(1 - _mean(np.square(a - s), w) / _mean(np.square(a), w))


def absolute_deviation_explained(a: Tokens, s: Tokens, w: Tokens) -> float:
    """1 − E|a − s| / E|a| of calibrated s (Bills et al. 2023, `absolute_dev_explained_score`)."""
    return float(1 - _mean(np.abs(a - s), w) / _mean(np.abs(a), w))


def levels_of(a: Tokens, largest: float) -> Int[np.ndarray, " token"]:
    """Activations as levels 0 to 10: min(10, ⌊10 max(a, 0) / largest⌋), 0 where `largest` is not positive.

    Source: Bills et al. 2023, `normalize_activations`.
    """
    if largest <= 0:
        return np.zeros(len(a), np.int64)
    top = LEVELS - 1
    return np.minimum(top, np.floor(top * np.maximum(np.asarray(a, np.float64), 0) / largest)).astype(np.int64)


def expected_levels(p: Float[np.ndarray, "*token level"]) -> Float[np.ndarray, "*token"]:
    """Σ v p_v / Σ p_v over levels v; 0 where no level has any probability.

    Source: Bills et al. 2023, `compute_expected_value`.
    """
    p = np.asarray(p, np.float64)
    total = p.sum(axis=-1)
    return np.divide(p @ np.arange(p.shape[-1]), total, out=np.zeros(p.shape[:-1]), where=total > 0)


def marginal(levels: Int[np.ndarray, " token"], n_levels: int, w: Tokens) -> Float[np.ndarray, " level"]:
    """How often each level is seen: (n_v + 1) / (n + levels), where the weights of all n tokens add up to n."""
    seen = np.bincount(levels, w * (len(w) / w.sum()), minlength=n_levels)
    return (seen + 1) / (len(w) + n_levels)


def likelihood_skill(
    levels: Int[np.ndarray, " token"],
    p: Float[np.ndarray, "token level"],
    marginal: Float[np.ndarray, " level"],
    w: Tokens,
) -> float:
    """1 − NLL / NLL_0 of true levels: NLL under what the simulator says of each token, NLL_0 under the marginal.

    A proposal of this package, not a published score: it uses the whole distribution, of which the expected level is
    one number. 1 is certainty of the truth, 0 no better than the marginal; it has no lower bound.
    """
    total = p.sum(axis=1, keepdims=True)
    given = np.divide(p, total, out=np.full(p.shape, 1 / p.shape[1]), where=total > 0)
    given = (1 - SMOOTHING) * given + SMOOTHING / p.shape[1]
    said = np.log(given[np.arange(len(levels)), levels])
    return float(1 - _mean(said, w) / _mean(np.log(marginal[levels]), w))


def threshold(s: Tokens, yes: Bool[np.ndarray, " token"], w: Tokens) -> float:
    """The t for which "s > t" has the best balanced accuracy; of several the smallest. Both classes are there."""
    values, index = np.unique(s, return_inverse=True)
    there, not_there = (np.bincount(index, w * own, minlength=len(values)) for own in (yes, ~yes))
    # Of t = −∞ and of each value: what lies above of the one class and at or below of the other.
    above = 1 - np.concatenate([[0], np.cumsum(there)]) / there.sum()
    below = np.concatenate([[0], np.cumsum(not_there)]) / not_there.sum()
    # Ties are exact ones, but for rounding.
    best = np.flatnonzero(above + below >= (above + below).max() - 1e-12)[0]
    return -np.inf if best == 0 else float(values[best - 1])


def balanced_accuracy(said: Bool[np.ndarray, " token"], yes: Bool[np.ndarray, " token"], w: Tokens) -> float:
    """½ P(said | yes) + ½ P(not said | not yes): ½ for whoever always says the same."""
    return float((_mean(said[yes], w[yes]) + _mean(~said[~yes], w[~yes])) / 2)


def auc(s: Tokens, yes: Bool[np.ndarray, " token"], w: Tokens) -> float:
    """P(a yes has the larger s of a yes and a no) + ½ P(equal)."""
    values, index = np.unique(s, return_inverse=True)
    there, not_there = (np.bincount(index, w * own, minlength=len(values)) for own in (yes, ~yes))
    smaller = np.cumsum(not_there) - not_there / 2
    return float((there * smaller).sum() / (there.sum() * not_there.sum()))


def _ranks(x: Tokens, w: Tokens) -> Tokens:
    _, index = np.unique(x, return_inverse=True)
    there = np.bincount(index, w)
    return (np.cumsum(there) - there / 2)[index]


def _mean(x: np.ndarray, w: Tokens) -> np.floating:
    return np.average(np.asarray(x, np.float64), weights=w)
