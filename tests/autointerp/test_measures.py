"""Formulas, by hand, against numpy and scipy, and by their invariances."""

import numpy as np
import pytest
from scipy import stats

from jsaeval.autointerp import measures


# A record by hand: activations, and what was simulated. Means 1 and 2; squares of a sum to 10, of a − s to 7.
A, S = np.array([0.0, 0.0, 1.0, 3.0]), np.array([0.0, 1.0, 2.0, 5.0])
ONE = np.ones(4)


def random(n=200, seed=0):
    rng = np.random.default_rng(seed)
    a = np.where(rng.random(n) < 0.4, rng.random(n), 0)
    return a, np.round(a * 4 + rng.normal(0, 1, n)), rng.integers(1, 5, n).astype(float)


def test_by_hand():
    """Σ(a − ā)² = 6, Σ(s − s̄)² = 14, Σ(a − ā)(s − s̄) = 9; Σ(a − s)² = 6, Σ|a − s| = 4, Σ|a| = 4."""
    assert measures.pearson(A, S, ONE) == pytest.approx(9 / np.sqrt(6 * 14), abs=1e-12)
    assert measures.activation_prediction_loss(A, S, ONE) == pytest.approx(6 / 6, abs=1e-12)
    assert measures.r2_uncentred(A, S, ONE) == pytest.approx(1 - 6 / 10, abs=1e-12)
    assert measures.absolute_deviation_explained(A, S, ONE) == pytest.approx(1 - 4 / 4, abs=1e-12)
    # Ranks 1.5 1.5 3 4 and 1 2 3 4.
    assert measures.spearman(A, S, ONE) == pytest.approx(4.5 / np.sqrt(4.5 * 5), abs=1e-12)


def test_bills_scores_as_in_their_code():
    """`scoring.py`: np.corrcoef; 1 − mean((a − s)²) / mean(a²); 1 − mean|a − s| / mean|a|."""
    a, s, _ = random()
    one = np.ones(len(a))
    assert measures.pearson(a, s, one) == pytest.approx(np.corrcoef(a, s)[0, 1], abs=1e-6)
    assert measures.r2_uncentred(a, s, one) == pytest.approx(1 - np.mean((a - s) ** 2) / np.mean(a**2), abs=1e-6)
    assert measures.absolute_deviation_explained(a, s, one) == pytest.approx(
        1 - np.mean(np.abs(a - s)) / np.mean(np.abs(a)), abs=1e-6
    )


def test_spearman_is_that_of_scipy():
    a, s, _ = random()
    assert measures.spearman(a, s, np.ones(len(a))) == pytest.approx(stats.spearmanr(a, s).statistic, abs=1e-12)


@pytest.mark.parametrize(
    "formula",
    [
        measures.activation_prediction_loss,
        measures.pearson,
        measures.spearman,
        measures.r2_uncentred,
        measures.absolute_deviation_explained,
    ],
)
def test_a_weight_is_a_repetition(formula):
    a, s, w = random()
    repeated = [np.repeat(x, w.astype(int)) for x in (a, s)]
    assert formula(a, s, w) == pytest.approx(formula(*repeated, np.ones(int(w.sum()))), abs=1e-12)
    assert formula(a, s, w) == pytest.approx(formula(a, s, 3 * w), abs=1e-12)
    assert formula(a, s, w) != pytest.approx(formula(a, s, np.ones(len(a))), abs=1e-6)


def test_whoever_says_nothing_scores_nothing():
    a, _, w = random()
    mean = np.full(len(a), np.average(a, weights=w))
    assert measures.activation_prediction_loss(a, mean, w) == pytest.approx(1, abs=1e-12)
    assert measures.pearson(a, mean, w) == measures.spearman(a, mean, w) == 0
    assert measures.activation_prediction_loss(a, a, w) == 0 and measures.r2_uncentred(a, a, w) == 1
    # About 0, not about the mean: predicting the mean explains something.
    assert measures.r2_uncentred(a, mean, w) > 0.2


def test_a_simulation_of_the_opposite_is_negative():
    a, _, w = random()
    assert measures.pearson(a, -a, w) == pytest.approx(-1) and measures.spearman(a, -a, w) == pytest.approx(-1)


def test_levels():
    """Bills' discretisation: floor, so that what is below a tenth of the largest is 0 and only the largest is 10."""
    a = np.array([-1.0, 0.0, 0.19, 0.2, 1.0, 1.99, 2.0, 3.0])
    np.testing.assert_array_equal(measures.levels_of(a, 2.0), [0, 0, 0, 1, 5, 9, 10, 10])
    np.testing.assert_array_equal(measures.levels_of(a, 0.0), np.zeros(8))
    np.testing.assert_array_equal(measures.levels_of(np.array([0.3, 0.7], np.float32), float(np.float32(0.7))), [4, 10])


def test_expected_levels():
    """Of what lies on levels alone, renormalised; 0 where nothing does."""
    p = np.zeros((3, 11))
    p[0, [2, 10]] = 0.1, 0.3
    p[1, 7] = 1e-9
    np.testing.assert_allclose(measures.expected_levels(p), [8, 7, 0], atol=1e-6)
    np.testing.assert_allclose(measures.expected_levels(np.full(11, 0.01)), 5)


def test_likelihood_skill():
    levels, w = np.array([0, 0, 0, 10]), np.ones(4)
    marginal = measures.marginal(levels, 11, w)
    np.testing.assert_allclose(marginal, (np.array([3] + [0] * 9 + [1]) + 1) / 15)
    same = np.tile(marginal, (4, 1))
    assert measures.likelihood_skill(levels, same, marginal, w) == pytest.approx(0, abs=5e-3)
    certain = np.eye(11)[levels]
    assert measures.likelihood_skill(levels, certain, marginal, w) == pytest.approx(1, abs=1e-3)
    # By hand: NLL of a uniform distribution is log 11, smoothed or not; one that says nothing counts as uniform.
    expected = 1 - np.log(11) / -np.mean(np.log([4 / 15] * 3 + [2 / 15]))
    for p in (np.full((4, 11), 0.02), np.zeros((4, 11))):
        assert measures.likelihood_skill(levels, p, marginal, w) == pytest.approx(expected, abs=1e-12)
    wrong = np.eye(11)[[10, 10, 10, 0]]
    assert -10 < measures.likelihood_skill(levels, wrong, marginal, w) < -3


def test_the_marginal_of_weighted_levels():
    """Weights count tokens relative to each other: their scale is that of the number of tokens."""
    levels = np.array([0, 1, 1])
    found = measures.marginal(levels, 3, np.array([4.0, 1, 1]))
    np.testing.assert_allclose(found, (np.array([2.0, 1, 0]) + 1) / 6)


def test_thresholds_and_balanced_accuracy():
    s, yes = np.array([0.0, 0, 0, 2, 2, 5]), np.array([False, False, True, False, True, True])
    w = np.ones(6)
    assert measures.threshold(s, yes, w) == 0
    assert measures.balanced_accuracy(s > 0, yes, w) == pytest.approx((2 / 3 + 2 / 3) / 2)
    # Balanced: a hundred times as many of one class change nothing.
    assert measures.balanced_accuracy(s > 0, yes, np.where(yes, 100, 1.0)) == pytest.approx(2 / 3)
    assert measures.threshold(s, yes, np.where(yes, 100, 1.0)) == 0
    assert measures.threshold(np.full(4, 3.0), yes[2:], w[2:]) == -np.inf


def test_the_best_threshold_by_trying_all():
    rng = np.random.default_rng(2)
    s, w = np.round(rng.random(60), 1), rng.random(60)
    yes = rng.random(60) < s
    found = measures.threshold(s, yes, w)
    tried = {t: measures.balanced_accuracy(s > t, yes, w) for t in (-np.inf, *np.unique(s))}
    assert tried[found] == pytest.approx(max(tried.values()))


def test_auc_counts_pairs():
    rng = np.random.default_rng(3)
    s, w, yes = np.round(rng.random(50), 1), rng.random(50), rng.random(50) < 0.3
    gap = s[yes][:, None] - s[~yes][None]
    pairs = w[yes][:, None] * w[~yes][None]
    assert measures.auc(s, yes, w) == pytest.approx(np.average((gap > 0) + (gap == 0) / 2, weights=pairs))
