"""Activations in training: against those of the package, closed forms, and the papers' pseudo-gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.sparsify import batch_topk, jumprelu, step, topk
from jsaeval.sae import activations


RNG = np.random.default_rng(0)
PRE = jnp.asarray(RNG.standard_normal((3, 7, 20)), jnp.float32)


@pytest.mark.parametrize("k", [1, 4, 20])
def test_topk_is_that_of_the_package_for_any_k(k):
    np.testing.assert_array_equal(topk(PRE, jnp.asarray(float(k)), 20), activations.topk(PRE, k))


def test_topk_with_several_k_mapped():
    ks = jnp.asarray([2.0, 5.0])
    mapped = jax.vmap(lambda k: topk(PRE, k, 5))(ks)
    for z, k in zip(mapped, (2, 5), strict=True):
        np.testing.assert_array_equal(z, activations.topk(PRE, k))


def test_batch_topk_keeps_k_latents_a_token_on_average_and_minds_the_mask():
    mask = jnp.asarray(RNG.random((3, 7)) < 0.6)
    z, threshold = batch_topk(PRE, jnp.asarray(3.0), mask)
    kept = np.asarray((z != 0) & mask[..., None])
    assert kept.sum() == 3 * int(mask.sum())
    values = np.sort(np.maximum(np.asarray(PRE)[np.asarray(mask)], 0).ravel())[::-1]
    assert values[kept.sum() - 1] > float(threshold) >= values[kept.sum()]


def test_step_counts_and_its_gradient_is_the_papers():
    threshold, width = jnp.full(20, 0.3), 0.5
    np.testing.assert_array_equal(step(PRE, threshold, width), np.asarray(PRE) > 0.3)
    by_pre, by_threshold = jax.grad(lambda p, t: step(p, t, width).sum(), argnums=(0, 1))(PRE, threshold)
    near = (np.abs(np.asarray(PRE) - 0.3) < width / 2).sum(axis=(0, 1))
    np.testing.assert_allclose(by_threshold, -near / width, rtol=1e-6)
    assert not np.asarray(by_pre).any()
    # On average over the batch it is minus the density of pre at the threshold, which is what an L0 must have.
    many = jnp.asarray(RNG.standard_normal((1, 200_000, 1)), jnp.float32)
    slope = jax.grad(lambda t: step(many, t, 0.2).mean())(jnp.full(1, 0.3))
    density = np.exp(-0.045) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(slope, [-density], rtol=0.03)


def test_jumprelu_and_its_gradient():
    threshold, width = jnp.full(20, 0.3), 0.5
    np.testing.assert_array_equal(jumprelu(PRE, threshold, width), activations.jumprelu(PRE, threshold))
    weight = jnp.asarray(RNG.standard_normal(PRE.shape), jnp.float32)
    by_pre, by_threshold = jax.grad(lambda p, t: (weight * jumprelu(p, t, width)).sum(), argnums=(0, 1))(PRE, threshold)
    pre, w = np.asarray(PRE), np.asarray(weight)
    np.testing.assert_allclose(by_pre, np.where(pre > 0.3, w, 0))
    near = np.abs(pre - 0.3) < width / 2
    np.testing.assert_allclose(by_threshold, -0.3 / width * np.where(near, w, 0).sum(axis=(0, 1)), rtol=1e-5)
