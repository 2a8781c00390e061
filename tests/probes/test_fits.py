"""Probes against their optimality conditions, against scipy, and on data whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from jsaeval.errors import InputError
from jsaeval.mesh import make_mesh
from jsaeval.probes.fit import STRENGTHS, Examples, fit_probes, wanted
from jsaeval.probes.logistic import fit_logistic as fit_logistic_plain
from jsaeval.probes.ranking import by_mean_difference
from jsaeval.probes.scores import scores
from jsaeval.probes.single import RIDGE, single_probes


fit_logistic = jax.jit(fit_logistic_plain, static_argnums=4)


def data(n=300, k=12, seed=0, noise=1.0):
    """Sparse features of very different sizes, of which three decide."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.standard_normal((n, k)) - 0.5, 0) * np.exp(rng.standard_normal(k))
    score = x[:, :3] / x[:, :3].std(axis=0) @ np.array([2.0, -2.0, 1.0])
    y = score + noise * rng.logistic(size=n) > np.median(score)
    return x.astype(np.float32), y


def objective(x, y, w, b, c, penalty):
    z = x.astype(float) @ w + b
    size = np.abs(w).sum() if penalty == "l1" else w @ w / 2
    return np.mean(np.logaddexp(0, z) - y * z) + size / (c * len(y))


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("k", [12, 400])
def test_no_other_weights_are_better(penalty, k):
    """Of the same objective in float64, from zero and from what was found; also with more features than examples."""
    x, y = data(k=k)
    strengths = np.array([100.0, 1.0, 0.01])
    fits = fit_logistic(
        jnp.asarray(x), jnp.asarray(y), jnp.ones((1, len(y)), bool), jnp.asarray(strengths, jnp.float32), penalty
    )
    assert bool(fits.converged.all())
    for i, c in enumerate(strengths):
        w, b = np.asarray(fits.weights[0, i], float), float(fits.bias[0, i])
        own = objective(x, y, w, b, c, penalty)
        assert float(fits.objective[0, i]) == pytest.approx(own, rel=1e-4)
        rng = np.random.default_rng(0)
        scale = 1e-3 * np.abs(w).max() + 1e-6
        for _ in range(20):
            assert objective(x, y, w + scale * rng.standard_normal(k), b, c, penalty) > own * (1 - 1e-5)
        if penalty == "l2" and k == 12:
            best = minimize(lambda p, c=c: objective(x, y, p[:-1], p[-1], c, "l2"), np.zeros(k + 1), method="BFGS")
            assert own <= best.fun * (1 + 1e-4)


def test_l1_has_exact_zeros_and_meets_its_conditions():
    x, y = data(k=40)
    c = 0.5
    fits = fit_logistic(
        jnp.asarray(x), jnp.asarray(y), jnp.ones((1, len(y)), bool), jnp.asarray([c], jnp.float32), "l1"
    )
    w, b = np.asarray(fits.weights[0, 0], float), float(fits.bias[0, 0])
    gradient = ((1 / (1 + np.exp(-(x @ w + b)))) - y) @ x
    assert 2 < (w != 0).sum() < 30
    np.testing.assert_allclose(c * gradient[w != 0], -np.sign(w[w != 0]), atol=2e-2)
    assert (np.abs(c * gradient[w == 0]) < 1 + 2e-2).all()


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_examples_that_do_not_count_change_nothing(penalty):
    x, y = data()
    counts = np.arange(len(y)) < 200
    turned = y.copy()
    turned[200:] = ~y[200:]
    strengths = jnp.asarray([1.0], jnp.float32)
    folds = jnp.asarray(np.stack([counts, np.ones_like(counts)]))
    fits = [fit_logistic(jnp.asarray(x), jnp.asarray(labels), folds, strengths, penalty) for labels in (y, turned)]
    alone = fit_logistic(jnp.asarray(x[:200]), jnp.asarray(y[:200]), folds[:1, :200], strengths, penalty)
    size = float(jnp.abs(alone.weights).max())
    np.testing.assert_allclose(fits[0].weights[0], fits[1].weights[0], atol=1e-5 * size)
    np.testing.assert_allclose(fits[0].objective[0], alone.objective[0], rtol=1e-4)
    assert float(jnp.abs(fits[0].weights[1] - fits[1].weights[1]).max()) > 0.1 * size


def test_single_probes_against_scipy():
    """Also of a constant feature, one that separates, a huge one and a tiny one."""
    x, y = data(k=200)
    x[:, 0], x[:, 1], x[:, 2], x[:, 3] = 7.0, y, 1e4 + 1e3 * x[:, 5], 1e-6 * x[:, 6]
    found = single_probes(jnp.asarray(x), jnp.asarray(y), jnp.ones(len(y), bool))
    assert bool(found.converged.all()) and int(found.iterations) < 30
    entropy = -np.mean(np.where(y, np.log(y.mean()), np.log(1 - y.mean())))
    assert float(found.weight[0]) == 0 and float(found.bce[0]) == pytest.approx(entropy, abs=1e-5)
    for j in (1, 2, 3, 4, 50, 199):
        f = x[:, j].astype(float)
        f = (f - f.mean()) / f.std()

        def loss(p, f=f):
            z = p[0] * f + p[1]
            return np.mean(np.logaddexp(0, z) - y * z) + RIDGE * p[0] ** 2

        best = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9})
        assert float(found.objective[j]) == pytest.approx(best.fun, abs=1e-5), j
    logits = np.asarray(found.logits(jnp.asarray(x)))
    bce = np.mean(np.logaddexp(0, logits) - y[:, None] * logits, axis=0)
    np.testing.assert_allclose(found.bce, bce, atol=1e-4)


def test_ranking_by_hand():
    x = np.array([[2, 0, 1, 0], [4, 0, 1, 0], [0, 3, 1, 0], [0, 0, 1, 0]], np.float32)
    y = np.array([True, True, False, False])
    # Sizes where not 0: 3, 3, 1, –; scaled means of yes and no: 1 and 0, 0 and ½, 1 and 1, 0 and 0.
    folds = jnp.asarray([[True] * 4, [False, True, True, True]])
    both, few = by_mean_difference(jnp.asarray(x), jnp.asarray(y), folds).tolist()
    assert both == [0, 1, 2, 3] and few[:2] == [0, 1]
    assert by_mean_difference(jnp.asarray(x), jnp.asarray(~y), folds).tolist()[0] == both
    for most in (3, len(both) + 1):
        assert by_mean_difference(jnp.asarray(x), jnp.asarray(y), folds, most).tolist() == [both[:most], few[:most]]


def examples(seed=0, n=600):
    x, y = data(n=n, k=40, seed=seed)
    return Examples.of(x[: n // 2], y[: n // 2], x[n // 2 :], y[n // 2 :])


def fitted(own, **flags):
    asked = wanted("mine", own.x_train.shape[1], **flags)
    return {(p.kind, p.k, p.penalty): p for p in fit_probes({"mine": own}, asked)}


def bce(probe, own):
    return scores(probe.logits, own.y_test)["bce"].value


def test_probes_find_what_decides():
    own = examples()
    found = fitted(own, ks=(1, 2, 4, 16, 64))
    assert set(found) == {("single", 1, None), ("dense", None, "l2")} | {
        ("k_sparse", k, penalty) for k in (1, 2, 4, 16) for penalty in ("l1", "l2")
    }
    single = found["single", 1, None]
    assert single.chosen[0] in (0, 1) and all(probe.converged for probe in found.values())
    assert set(found["k_sparse", 2, "l1"].chosen) == {0, 1}
    loss = {key: bce(probe, own) for key, probe in found.items()}
    assert loss["k_sparse", 2, "l1"] < loss["k_sparse", 1, "l1"] < np.log(2)
    in_sample = [found["k_sparse", k, "l1"].in_sample for k in (1, 2, 4)]
    assert in_sample == sorted(in_sample, reverse=True)
    assert loss["k_sparse", 1, "l2"] == pytest.approx(loss["single", 1, None], abs=0.02)
    assert all(probe.strength in STRENGTHS for key, probe in found.items() if key[0] != "single")
    assert all(probe.in_sample < np.log(2) for probe in found.values())


@pytest.mark.slow
def test_a_probe_does_not_depend_on_what_is_fitted_beside_it():
    """Nor on how many devices there are."""
    own, other = examples(), examples(seed=1)
    flags = {"kinds": ("single", "k_sparse", "dense"), "ks": (1, 5, 20)}
    alone = fit_probes({"mine": own}, wanted("mine", 40, **flags), make_mesh(1))
    both = {"other": other, "mine": own}
    asked = [probe for name in both for probe in wanted(name, 40, **flags)]
    beside = [probe for probe in fit_probes(both, asked) if probe.features == "mine"]
    for a, b in zip(alone, beside, strict=True):
        assert (a.kind, a.k, a.penalty, a.chosen, a.strength) == (b.kind, b.k, b.penalty, b.chosen, b.strength)
        np.testing.assert_allclose(a.logits, b.logits, atol=1e-5 * np.abs(a.logits).max())


def test_validation_examples_are_a_fifth_of_each_class():
    own = examples()
    assert own.validates.mean() == pytest.approx(0.2, abs=0.01)
    assert own.y_train[own.validates].mean() == pytest.approx(own.y_train.mean(), abs=0.01)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda a: a | {"y_test": np.ones_like(a["y_test"])}, "300 test examples have one label only"),
        (lambda a: a | {"x_test": a["x_test"][:, 1:]}, r"found \(300, 40\) and \(300, 39\)"),
        (lambda a: a | {"y_train": a["y_train"][1:]}, r"300 train examples with labels of shape \(299,\)"),
        (lambda a: a | {"x_train": a["x_train"] * np.nan}, "NaN or Inf in the train"),
    ],
)
def test_features_that_cannot_be_probed(change, line):
    own = examples()
    arrays = {name: getattr(own, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    with pytest.raises(InputError, match=line):
        Examples.of(**change(arrays))


def test_validation_does_not_choose_what_it_has_ranked():
    """Of noise, a probe on few features that validation examples helped to find looks good to them, and is not."""
    rng, losses = np.random.default_rng(0), []
    for _ in range(6):
        x, y = rng.standard_normal((500, 800)).astype(np.float32), rng.random(500) < 0.5
        own = Examples.of(x[:300], y[:300], x[300:], y[300:])
        losses.append(bce(fitted(own, kinds=("k_sparse",), ks=(16,), penalties=("l2",))["k_sparse", 16, "l2"], own))
    assert np.mean(losses) < 0.74  # log 2 is 0.693; with a ranking that saw them it is above 0.8


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_features_without_information(penalty):
    """Zeros, constants, and columns of zeros beside others."""
    x, y = data(k=16)
    own = Examples.of(np.zeros_like(x[:200]), y[:200], np.zeros_like(x[200:]), y[200:])
    constant = Examples.of(x[:200] * 0 + 7, y[:200], x[200:] * 0 + 7, y[200:])
    entropy = -np.mean(np.where(y[:200], np.log(y[:200].mean()), np.log(1 - y[:200].mean())))
    for examples in (own, constant):
        for probe in fitted(examples, kinds=("k_sparse",), ks=(1, 4), penalties=(penalty,)).values():
            assert probe.converged and probe.in_sample == pytest.approx(entropy, abs=1e-5)
            assert np.ptp(probe.logits) < 1e-4
    dead = x.copy()
    dead[:, 8:] = 0
    fits = fit_logistic(jnp.asarray(dead), jnp.asarray(y), jnp.ones((1, len(y)), bool), jnp.asarray([1.0]), penalty)
    assert bool(fits.converged.all()) and float(jnp.abs(fits.weights[0, 0, 8:]).max()) < 1e-6


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_labels_that_can_be_separated(penalty):
    """The objective falls on and on as the penalty weakens, and the fit follows it."""
    x, y = data(k=40, noise=0.0)
    strengths = np.array([1e4, 1e2, 1.0])
    fits = fit_logistic(
        jnp.asarray(x), jnp.asarray(y), jnp.ones((1, len(y)), bool), jnp.asarray(strengths, jnp.float32), penalty
    )
    for i, c in enumerate(strengths):
        w, b = np.asarray(fits.weights[0, i], float), float(fits.bias[0, i])
        own = objective(x, y, w, b, c, penalty)
        best = min(objective(x, y, w * t, b * t, c, penalty) for t in np.exp(np.linspace(-1, 1, 41)))
        assert own <= best * (1 + 2e-3)
