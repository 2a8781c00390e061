import numpy as np

from jsaeval.stats.bootstrap import interval, row_counts


def test_counts_are_resamples_of_all_rows():
    counts = row_counts(50, seed=1)
    assert counts.shape == (1000, 50)
    np.testing.assert_array_equal(counts.sum(axis=1), 50)
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.2)
    np.testing.assert_array_equal(counts, row_counts(50, seed=1))
    assert (counts != row_counts(50, seed=2)).any()


def test_coverage_of_the_mean():
    """95 % intervals of a mean of 200 exponential values contain the true mean in about 95 % of trials."""
    rng, hits, counts = np.random.default_rng(0), 0, row_counts(200, seed=0)
    for _ in range(500):
        low, high = interval(counts @ rng.exponential(size=200) / 200)
        hits += low <= 1 <= high
    assert 0.91 <= hits / 500 <= 0.98


def test_width_of_the_interval_of_a_mean():
    values = np.random.default_rng(0).standard_normal(400)
    low, high = interval(row_counts(400, seed=0) @ values / 400)
    np.testing.assert_allclose(high - low, 2 * 1.96 * values.std() / 20, rtol=0.1)


def test_undefined_values_have_no_interval():
    assert interval(np.array([1.0, np.nan])) is None
