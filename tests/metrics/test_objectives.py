"""The differentiable metrics: the numbers of the report, and gradients that finite differences confirm."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.forward.batch import batch_statistics
from jsaeval.metrics.objectives import downstream_loss, downstream_reconstruction, l1, mse
from jsaeval.run.evaluate import summarise
from tests.tiny import tiny_lm, tiny_sae


OBJECTIVES = (mse, l1, downstream_reconstruction, downstream_loss)
IDS = [f.__name__ for f in OBJECTIVES]


def to(dtype, tree):
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


@pytest.mark.parametrize("kind", ["relu", *(pytest.param(own, marks=pytest.mark.slow) for own in ("topk", "jumprelu"))])
def test_same_numbers_as_the_report(kind, lm, tokens):
    sae = tiny_sae(kind)
    statistics = jax.jit(lambda lm, sae, t: batch_statistics(lm, [sae], t))(lm, sae, tokens)
    (report,) = summarise(lm, [sae], [statistics])
    for objective in OBJECTIVES:
        value = jax.jit(objective)(lm, sae, tokens)
        np.testing.assert_allclose(value, report[objective.__name__].value, rtol=2e-5, err_msg=objective.__name__)


@pytest.mark.parametrize(
    "hook", ["blocks.1.hook_resid_post", pytest.param("blocks.1.hook_mlp_out", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=IDS)
def test_gradients_against_finite_differences(objective, hook, tokens):
    """Central differences in float64 along random directions of all parameters of the SAE at once."""
    rows = np.asarray(tokens[:2, :9])
    with jax.enable_x64(True):
        lm, sae = tiny_lm(jnp.float64), to(jnp.float64, tiny_sae("topk", hook=hook))
        value = jax.jit(lambda sae, lm, t: objective(lm, sae, t))
        grad = jax.jit(jax.grad(lambda sae, lm, t: objective(lm, sae, t)))(sae, lm, rows)
        leaves, structure = jax.tree.flatten(sae)
        for seed in range(3):
            rng, step = np.random.default_rng(seed), 1e-6
            direction = [jnp.asarray(rng.standard_normal(leaf.shape)) for leaf in leaves]
            up, down = (
                jax.tree.unflatten(structure, [p + sign * step * d for p, d in zip(leaves, direction, strict=True)])
                for sign in (1, -1)
            )
            numeric = (value(up, lm, rows) - value(down, lm, rows)) / (2 * step)
            exact = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(grad), direction, strict=True))
            np.testing.assert_allclose(exact, numeric, rtol=1e-5)
            assert abs(float(exact)) > 1e-4


def test_training_on_an_objective_lowers_it(lm, tokens):
    """Twenty steps down the gradient of the end-to-end loss."""
    sae = tiny_sae("relu")
    step = jax.jit(jax.value_and_grad(lambda sae, lm, t: downstream_loss(lm, sae, t)))
    losses = []
    for _ in range(20):
        loss, grad = step(sae, lm, tokens)
        losses.append(float(loss))
        sae = jax.tree.map(lambda p, g: p - 0.1 * g, sae, grad)
    assert losses[-1] < 0.8 * losses[0]
