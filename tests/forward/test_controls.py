"""Each control stream against the float64 oracle, and what its definition promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.corpus.masks import make_masks
from jsaeval.forward.batch import batch_statistics
from jsaeval.forward.controls import (
    Code,
    Controls,
    Replacement,
    control_names,
    control_replacements,
    random_directions,
    random_sae,
)
from jsaeval.forward.splice import at_hook, prefix
from jsaeval.hooks import parse_hook
from tests.forward import oracle
from tests.forward.test_batch import PAD, SPECIAL, as_jax, rows_with_everything, to
from tests.tiny import CONFIG, HOOK, make_lm, random_tensors, tiny_sae


KINDS = ("relu", "topk")


def make_controls(seed=3) -> Controls:
    rng = np.random.default_rng(seed)
    saes = [tiny_sae(kind) for kind in KINDS]
    random = [tiny_sae("jumprelu", seed=9 + i, d_sae=sae.d_sae) for i, sae in enumerate(saes)]
    shuffled = [dataclasses.replace(sae, W_dec=jnp.asarray(rng.permutation(sae.W_dec))) for sae in saes]
    components = [jnp.asarray(np.linalg.qr(rng.standard_normal((16, k)))[0].T, jnp.float32) for k in (3, 5)]
    mean = jnp.asarray(rng.standard_normal(16), jnp.float32)
    return Controls(jnp.int32(seed), mean, tuple(random), tuple(shuffled), tuple(components))


def as_replacement(name, controls, i, sae, row_id):
    """What the oracle puts in place of x, with latents only where the control has some of its own."""
    mean = np.asarray(controls.mean, np.float64)

    def replace(_, x):
        z, xhat = oracle.sae_oracle(sae, x)
        nothing = np.zeros_like(z)
        if name == "mean":
            return nothing, np.broadcast_to(mean, x.shape)
        if name == "identity":
            return nothing, x
        if name == "random_error":
            u = random_directions(controls.seed, jnp.asarray([row_id]), len(x), 16)[0]
            return nothing, x + np.linalg.norm(x - xhat, axis=1, keepdims=True) * np.asarray(u, np.float64)
        if name == "random_sae":
            return oracle.sae_oracle(controls.random_saes[i], x)
        if name == "permuted_decoder":
            shuffled = np.asarray(controls.shuffled[i].W_dec, np.float64)
            return nothing, z @ shuffled + np.asarray(sae.b_dec, np.float64)
        components = np.asarray(controls.components[i], np.float64)
        return nothing, mean + (x - mean) @ components.T @ components

    return replace


@pytest.mark.parametrize("names", [("no-special",), pytest.param(("all",), marks=pytest.mark.slow)])
def test_every_control_against_the_oracle(names):
    tokens, hook, tensors, row_ids = rows_with_everything(), parse_hook(HOOK), random_tensors(), [7, 3, 20, 0]
    masks = make_masks(tokens, SPECIAL, PAD, *names)
    with jax.enable_x64(True):
        lm, saes = make_lm(CONFIG, tensors, jnp.float64), [to(jnp.float64, tiny_sae(kind)) for kind in KINDS]
        controls = to(jnp.float64, make_controls())
        run = jax.jit(
            lambda lm, saes, tokens, masks, controls, ids: batch_statistics(
                lm, saes, tokens, hook=hook, masks=masks, mean=controls.mean, controls=controls, row_ids=ids
            )
        )
        got = run(lm, saes, jnp.asarray(tokens), as_jax(masks), controls, jnp.asarray(row_ids, jnp.int32))
        assert len(got.saes["ce"]) == len(saes) + len(control_names(len(saes)))
        for stream, (name, owner) in enumerate(control_names(len(saes)), start=len(saes)):
            sae, i = saes[owner], max(owner, 0)
            coded = controls.random_saes[i] if name == "random_sae" else sae
            for r, row in enumerate(tokens):
                replace = as_replacement(name, controls, i, sae, row_ids[r])
                own = tuple(m[r] for m in masks)
                _, expected, _ = oracle.line(CONFIG, tensors, coded, row, hook, own, np.asarray(controls.mean), replace)
                for column, value in expected.items():
                    np.testing.assert_allclose(
                        got.saes[column][stream][r], value, rtol=1e-8, atol=1e-8, err_msg=f"{name} {column} {r}"
                    )


def test_random_directions_belong_to_row_and_position():
    seed = jnp.int32(3)
    directions = random_directions(seed, jnp.arange(6), 20, 16)
    np.testing.assert_allclose(jnp.linalg.norm(directions, axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(random_directions(seed, jnp.asarray([4, 2]), 20, 16), directions[jnp.asarray([4, 2])])
    flat = np.asarray(directions).reshape(-1, 16)
    cosines = flat @ flat.T
    assert np.abs(cosines - np.eye(len(flat))).max() < 0.9  # no direction twice
    assert np.abs(flat.mean(0)).max() < 0.1
    other = random_directions(jnp.int32(4), jnp.arange(6), 20, 16)
    assert np.abs(np.sum(directions * other, axis=-1)).mean() < 0.4


@pytest.mark.parametrize("l0", [2.0, 10.0])
def test_the_random_sae_is_as_sparse_as_asked_and_as_good_as_it_can_be(l0):
    rng = np.random.default_rng(0)
    sample = jnp.asarray(rng.standard_normal((3000, 24)) + 5, jnp.float32)
    mean = jnp.mean(sample, axis=0)
    sae = random_sae(0, 96, jnp.float32(l0), mean, sample)
    z = sae.encode(sample)
    assert abs(float(jnp.count_nonzero(z)) / 3000 - l0) < 0.05 * l0

    def error(factor):
        scaled = dataclasses.replace(sae, W_dec=sae.W_dec * factor)
        return float(jnp.sum(jnp.square(sample - scaled.decode(z, sample))))

    assert error(1.0) < min(error(0.98), error(1.02))
    np.testing.assert_allclose(jnp.linalg.norm(sae.W_enc, axis=0), 1, rtol=1e-5)
    assert not np.allclose(random_sae(1, 96, jnp.float32(l0), mean, sample).W_enc, sae.W_enc)


def test_replacements_come_in_the_order_of_their_names(lm, tokens):
    controls = make_controls()
    saes = [tiny_sae(kind) for kind in KINDS]
    x = at_hook(lm, parse_hook(HOOK), prefix(lm, parse_hook(HOOK), tokens))
    own = [Replacement(s.decode(s.encode(x), x), Code(s, s.encode(x))) for s in saes]
    out = control_replacements(controls, x, x, own, jnp.arange(6))
    names = control_names(2)
    assert len(out) == len(names) and names[:2] == [("mean", -1), ("identity", -1)] and names[-1] == ("pca", 1)
    for (name, owner), replacement in zip(names, out, strict=True):
        error = x - replacement.reconstruction
        if name == "identity":
            assert float(jnp.abs(error).max()) < 1e-5
        if name == "random_error":
            expected = jnp.linalg.norm(x - own[owner].reconstruction, axis=-1)
            np.testing.assert_allclose(jnp.linalg.norm(error, axis=-1), expected, rtol=1e-4)
        if name == "pca":
            rows = (np.asarray(replacement.reconstruction) - np.asarray(controls.mean)).reshape(-1, 16)
            assert np.linalg.matrix_rank(rows, tol=1e-3) == (3, 5)[owner]
