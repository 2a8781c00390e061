"""Effects on logits against the formula of each norm in float64, and against finite steps of a real forward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from jsaeval.forward.decoder_neighbours import decoder_neighbours
from jsaeval.forward.logit_effects import logit_effects, reaches_logits
from jsaeval.hooks import SITES, parse_hook
from jsaeval.lm.adapters import BlockwiseLM
from tests.tiny import CONFIG, GEMMA2, make_lm, random_tensors


GPT2 = dataclasses.replace(CONFIG, family="gpt2", norm="layer", rotary_dims=0, activation="gelu_tanh")


def host(norm):
    if norm == "layer":
        return make_lm(GPT2, random_tensors(GPT2, biases=True))
    if norm == "gemma":
        return make_lm(GEMMA2, random_tensors(GEMMA2, out_norms=True))
    return make_lm(CONFIG, random_tensors())


def oracle(lm, d, norm):
    """U (gain ⊙ d), of d − mean d for layer norm."""
    gain = np.asarray(lm.final_norm, np.float64)
    d = np.asarray(d, np.float64)
    if norm == "layer":
        d = d - d.mean(1, keepdims=True)
    return (d * gain) @ np.asarray(lm.unembedding, np.float64).T


@pytest.fixture
def directions():
    d = np.random.default_rng(3).standard_normal((7, 16)).astype(np.float32)
    d[4] = 0
    d[5] = 2.5  # a layer norm takes all of it away
    return jnp.asarray(d * [[1e-2], [1], [30], [1], [1], [1], [1]], jnp.float32)


@pytest.mark.parametrize("norm", ["rms", "layer", "gemma"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_against_the_formula(norm, chunk, directions):
    lm = host(norm)
    logits = oracle(lm, directions, norm)
    got = logit_effects(lm, directions, n=6, bins=8, chunk=chunk)
    scale = np.linalg.norm(directions, axis=1, keepdims=True) + 1e-9
    np.testing.assert_allclose(got.top / scale, -np.sort(-logits, axis=1)[:, :6] / scale, atol=3e-5)
    np.testing.assert_allclose(got.bottom / scale, np.sort(logits, axis=1)[:, :6] / scale, atol=3e-5)
    picked = np.take_along_axis(logits, got.top_ids, 1), np.take_along_axis(logits, got.bottom_ids, 1)
    np.testing.assert_allclose(got.top / scale, picked[0] / scale, atol=3e-5)
    np.testing.assert_allclose(got.bottom / scale, picked[1] / scale, atol=3e-5)
    assert (got.counts.sum(1) == lm.vocab).all() and got.edges.shape == (7, 9)
    np.testing.assert_allclose(got.edges[:, [0, -1]], np.stack([got.bottom[:, 0], got.top[:, 0]], 1), rtol=1e-6)
    for i in (0, 1, 2, 3, 6):
        inner = got.edges[i, 1:-1]
        unclear = np.abs(logits[i][:, None] - inner).min(1) < 1e-4 * scale[i]
        counts = np.diff([0, *(logits[i][:, None] < inner).sum(0), lm.vocab])
        assert np.abs(counts - got.counts[i]).sum() <= 2 * unclear.sum()


def test_it_is_the_slope_of_the_logits(directions):
    """Beside any residual stream: what a step along d changes is effect / rms(r), less the growth of the norm."""
    lm = host("layer")
    r = jnp.asarray(np.random.default_rng(5).standard_normal((1, 1, 16)) * 3, jnp.float32)
    d = directions[6]
    centred = np.asarray(r[0, 0] - r.mean(), np.float64)
    d64 = np.asarray(d, np.float64) - np.asarray(d, np.float64).mean()
    d = d - jnp.asarray(centred * (d64 @ centred) / (centred @ centred), jnp.float32)
    _, slope = jax.jvp(lambda r: lm.final(r) @ lm.unembedding.T, (r,), (d[None, None],))
    got = logit_effects(lm, d[None], n=lm.vocab)
    order = np.argsort(got.top_ids[0])
    np.testing.assert_allclose(got.top[0][order] / centred.std(), slope[0, 0], atol=2e-5)


class Bare(BlockwiseLM):
    """A host without blocks and without a norm."""

    blocks = ()
    W: Array

    @property
    def unembedding(self):
        return self.W

    def embed(self, tokens):
        return self.W[tokens]

    def apply(self, block, residual, at):
        return residual

    def final(self, residual):
        return residual


def test_a_host_without_a_norm(lm, directions):
    """Whatever the final map is, its own derivative is taken."""
    got = logit_effects(Bare(W=lm.unembedding), directions, n=3)
    logits = np.asarray(directions, np.float64) @ np.asarray(lm.unembedding, np.float64).T
    np.testing.assert_allclose(got.top, -np.sort(-logits, axis=1)[:, :3], rtol=1e-4, atol=1e-5)


def test_bfloat16(directions):
    lm = make_lm(CONFIG, random_tensors(), jnp.bfloat16)
    got = logit_effects(lm, directions[1:4], n=3)
    want = -np.sort(-oracle(lm, directions[1:4], "rms"), axis=1)[:, :3]
    assert got.top.dtype == np.float32
    np.testing.assert_allclose(got.top, want, rtol=0.05)


def test_which_hooks_reach_the_logits():
    """Those whose activation is part of the residual stream; a transcoder counts where it writes."""
    sites = [site for site in SITES if reaches_logits(parse_hook(f"blocks.0.{site}"))]
    assert sites == ["hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post"]
    assert reaches_logits(parse_hook("blocks.0.mlp.hook_in:hook_mlp_out"))


@pytest.mark.parametrize("chunk", [None, 2])
def test_neighbours(chunk):
    W = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    W[3], W[7] = 0, W[1] * 4
    asked = np.array([1, 3, 7, 11, 0])
    got = decoder_neighbours(jnp.asarray(W), asked, n=4, chunk=chunk)
    wide = W.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)
    cosines = unit[asked] @ unit.T
    cosines[np.arange(5), asked] = -np.inf
    np.testing.assert_allclose(got.cosines, -np.sort(-cosines, axis=1)[:, :4], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines, got.latents, 1), got.cosines, atol=1e-6)
    assert got.latents[0, 0] == 7 and got.cosines[0, 0] == pytest.approx(1)
    assert not (got.latents == asked[:, None]).any() and (got.cosines[1] == 0).all()


def test_few_or_no_neighbours():
    W = jnp.eye(3)
    assert decoder_neighbours(W, np.array([2]), n=10).latents.tolist() == [[0, 1]]
    assert decoder_neighbours(W, np.array([], np.int32), n=10).latents.shape == (0, 2)
