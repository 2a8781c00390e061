"""Spearman's correlation, beside scipy's."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from jsaeval.stats.correlation import spearman, spearmans


def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    for n in (3, 10, 50):
        x, y = rng.integers(0, 5, n).astype(np.float64), rng.standard_normal(n)
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert spearman(x, np.exp(x)) == pytest.approx(1.0) and spearman(x, -(x**3)) == pytest.approx(-1.0)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_resamples_keep_pairs_and_rank_anew():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(40)
    assert np.allclose(spearmans(x, 2 * x + 1, 0), 1.0)
    samples = spearmans(x, x + rng.standard_normal(40), 0)
    assert samples.shape == (1000,) and 0.05 < samples.std() < 0.2
    assert np.isnan(spearmans(np.array([1.0, 2.0]), np.array([1.0, 2.0]), 0)).any()  # twice the same pair
