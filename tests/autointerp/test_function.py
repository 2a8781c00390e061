"""Latents as functions of text against the plain way: one text after the other, no padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.autointerp.function import LatentFunction
from jsaeval.errors import InputError
from jsaeval.forward.splice import prefix, read_at_hook
from jsaeval.hooks import parse_hook
from jsaeval.lm.card import LMCard
from jsaeval.mesh import make_mesh
from tests.tiny import HOOK, tiny_sae


@pytest.fixture(scope="module")
def texts():
    """Texts of 1 to 9 tokens, without BOS, and a latent of each."""
    rng = np.random.default_rng(0)
    made = [rng.integers(3, 50, n).astype(np.int32) for n in rng.choice((1, 5, 9), 30)]
    return made, rng.integers(0, 40, 30).tolist()


@functools.partial(jax.jit, static_argnums=2)
def encoded(lm, sae, hook, text):
    return sae.encode(read_at_hook(lm, hook, prefix(lm, hook, text[None]))[0][0, -1])


def plainly(lm, sae, hook, texts, latents):
    pairs = zip(texts, latents, strict=True)
    return np.array([encoded(lm, sae, hook, jnp.asarray(text))[latent] for text, latent in pairs])


@pytest.mark.parametrize(("kind", "mesh"), [("topk", (3, 2)), ("gated", (1, 1))])
def test_padding_and_devices_change_nothing(kind, mesh, lm, texts):
    hook, sae = parse_hook(HOOK), tiny_sae(kind, k=20)
    function = LatentFunction(lm, sae, hook, mesh=make_mesh(*mesh), rows_at_once=7)
    begun = [np.concatenate([[1], text]).astype(np.int32) for text in texts[0]]
    expected = plainly(lm, sae, hook, begun, texts[1])
    assert 5 < (expected > 0).sum() < 30
    np.testing.assert_allclose(function(*texts), expected, atol=1e-5 * expected.max())
    np.testing.assert_allclose(function.exactly(begun, texts[1]), expected, atol=1e-5 * expected.max())
    assert function([], []).shape == (0,)


def test_a_transcoder_reads_its_own_hook(lm, texts):
    hook = parse_hook("blocks.1.ln2.hook_normalized:blocks.1.hook_mlp_out")
    sae = tiny_sae(d_out=16)
    function = LatentFunction(lm, sae, hook, mesh=make_mesh(1))
    begun = [np.concatenate([[1], text]).astype(np.int32) for text in texts[0][:6]]
    expected = plainly(lm, sae, hook, begun, texts[1][:6])
    np.testing.assert_allclose(function(texts[0][:6], texts[1][:6]), expected, atol=1e-5 * max(1, expected.max()))


def test_what_texts_begin_with(lm, texts):
    hook, sae, mesh = parse_hook(HOOK), tiny_sae(), make_mesh(1)
    nameless = dataclasses.replace(lm, card=LMCard())
    with pytest.raises(InputError, match="neither BOS nor EOS"):
        LatentFunction(nameless, sae, hook, mesh=mesh)
    assert LatentFunction(nameless, sae, hook, mesh=mesh, start=4).start == 4
    assert LatentFunction(dataclasses.replace(lm, card=LMCard(eos=2)), sae, hook, mesh=mesh).start == 2


def test_errors(lm, texts):
    hook, mesh = parse_hook(HOOK), make_mesh(1)
    with pytest.raises(InputError, match="latents 3 to 40: the SAE has 40"):
        LatentFunction(lm, tiny_sae(), hook, mesh=mesh)(texts[0][:2], [3, 40])
    broken = dataclasses.replace(lm, embedding=lm.embedding * jnp.nan)
    with pytest.raises(InputError, match="NaN or Inf"):
        LatentFunction(broken, tiny_sae(), hook, mesh=mesh)(texts[0][:2], [3, 4])
