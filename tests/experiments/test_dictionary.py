"""What is trained is what is saved: the exported SAE encodes and decodes as the dictionary did."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training import dictionary
from experiments.training.recipe import Recipe
from jsaeval.sae.load import load_sae, save_sae


SCALE = 2.5
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 9, 16)), jnp.float32)
MASK = jnp.ones((4, 9), bool)


def random_dictionary(recipe):
    p = dictionary.initial(recipe, RNG.standard_normal(16).astype(np.float32))
    return jax.tree.map(lambda w: w + 0.1 * jnp.asarray(RNG.standard_normal(w.shape), jnp.float32), p)


@pytest.mark.parametrize("architecture", ["relu", "topk", "batch_topk", "jumprelu", "gated", "matryoshka"])
def test_export(architecture, tmp_path):
    recipe = Recipe(architecture, sparsity=(5,), width=40)
    p = random_dictionary(recipe)
    coded = dictionary.encode(p, recipe, jnp.asarray(5.0), X * SCALE, MASK)
    sae = dictionary.export(p, recipe, 5, float(coded.threshold), SCALE)
    z = sae.encode(X)
    np.testing.assert_array_equal(z != 0, coded.z != 0)
    np.testing.assert_allclose(z, coded.z / SCALE, atol=1e-5)
    np.testing.assert_allclose(sae.decode(z), dictionary.decode(p, coded.z) / SCALE, atol=1e-5)
    for format, path in (("jsaeval", tmp_path / "a.safetensors"), ("saelens", tmp_path / "a")):
        save_sae(sae, path, format=format)
        np.testing.assert_allclose(load_sae(path).encode(X), z, atol=1e-5)


def test_matryoshka_averages_over_nested_dictionaries():
    recipe = Recipe("matryoshka", sparsity=(5,), width=32)
    p = random_dictionary(recipe)
    z = dictionary.encode(p, recipe, jnp.asarray(5.0), X, MASK).z
    by_hand = np.mean(
        [
            np.square(np.asarray(X) - np.asarray(z[..., :m]) @ np.asarray(p.W_dec[:m]) - np.asarray(p.b_dec)).sum(-1)
            for m in (2, 4, 8, 16, 32)
        ],
        axis=0,
    )
    whole, trained_on = dictionary.squared_error(p, recipe, z, X)
    np.testing.assert_allclose(trained_on, by_hand, rtol=1e-4)
    np.testing.assert_allclose(whole, np.square(X - dictionary.decode(p, z)).sum(-1), rtol=1e-4)


def test_only_dead_latents_are_revived():
    recipe = Recipe("topk", sparsity=(4,), width=32)
    p = random_dictionary(recipe)
    z = dictionary.encode(p, recipe, jnp.asarray(4.0), X, MASK).z
    dead = jnp.arange(32) >= 24
    value, gradient = jax.value_and_grad(dictionary.revive)(p, z, X, MASK, dead)
    rest = np.asarray(X) - np.asarray(dictionary.decode(p, z))
    pre = np.maximum(np.asarray((X - p.b_dec) @ p.W_enc + p.b_enc)[..., 24:], 0)  # all 8 are among the best 128
    left = np.square(rest - pre @ np.asarray(p.W_dec)[24:]).sum(-1).mean() / np.square(rest).sum(-1).mean()
    np.testing.assert_allclose(value, left, rtol=1e-4)
    moved = np.asarray(jnp.abs(gradient.W_dec).sum(-1) > 0)
    assert moved[24:].any() and not moved[:24].any()
    assert dictionary.revive(p, z, X, MASK, jnp.zeros(32, bool)) == 0


def test_unit_rows():
    p = dictionary.unit_rows(random_dictionary(Recipe(width=8, sparsity=(2,))))
    np.testing.assert_allclose(np.linalg.norm(p.W_dec, axis=1), 1, rtol=1e-6)
    assert dataclasses.is_dataclass(p)
