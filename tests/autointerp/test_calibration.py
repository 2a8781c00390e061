import numpy as np
import pytest

from jsaeval.autointerp.calibration import calibrate


def test_violators_are_pooled():
    fitted = calibrate(np.array([1.0, 2, 3, 4]), np.array([0.0, 5, 3, 9]))
    np.testing.assert_allclose(fitted(np.array([1.0, 2, 3, 4])), [0, 4, 4, 9])


def test_it_is_linear_between_knots_and_constant_outside():
    fitted = calibrate(np.array([0.0, 10]), np.array([1.0, 3]))
    np.testing.assert_allclose(fitted(np.array([-5.0, 0, 2.5, 10, 11])), [1, 1, 1.5, 3, 3])


def test_ties_are_one_knot_and_weights_are_repetitions():
    s, a, w = np.array([0.0, 0, 1, 1, 2]), np.array([1.0, 3, 9, 0, 4]), np.array([1.0, 3, 2, 1, 2])
    fitted, repeated = calibrate(s, a, w), calibrate(*(np.repeat(x, w.astype(int)) for x in (s, a)))
    assert len(fitted.simulated) == 3
    at = np.linspace(-1, 3, 20)
    np.testing.assert_allclose(fitted(at), repeated(at))
    # 2.5 at 0; 6 and 4 are out of order: (3 · 6 + 2 · 4) / 5
    np.testing.assert_allclose(fitted(s), [2.5, 2.5, 5.2, 5.2, 5.2])


def test_a_constant_simulation_becomes_the_mean():
    a = np.random.default_rng(0).random(50)
    np.testing.assert_allclose(calibrate(np.full(50, 7.0), a)(np.array([0.0, 7, 100])), a.mean())


def test_the_order_of_a_simulation_is_kept():
    """One that is wrong all along is not turned round, as by a line with a negative slope: it becomes the mean."""
    s = np.arange(20.0)
    np.testing.assert_allclose(calibrate(s, -s)(s), -9.5)


def test_no_monotone_map_is_better():
    rng = np.random.default_rng(1)
    s, a = rng.random(40), rng.random(40)
    fitted = calibrate(s, a)(s)
    order = np.argsort(s)
    assert (np.diff(fitted[order]) >= 0).all()
    best = np.square(a - fitted).sum()
    for _ in range(200):
        other = np.maximum.accumulate(fitted[order] + rng.normal(0, 0.05, 40))
        assert np.square(a[order] - other).sum() >= best - 1e-12


def test_no_tokens():
    with pytest.raises(ValueError, match="no tokens"):
        calibrate(np.zeros(0), np.zeros(0))
