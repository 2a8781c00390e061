"""Latents as functions of text against the plain way: one text after the other, no padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.autointerp.activations import sparse_activations
from jsaeval.autointerp.function import LatentFunction
from jsaeval.corpus.masks import make_masks
from jsaeval.corpus.rows import Rows
from jsaeval.errors import InputError
from jsaeval.forward.splice import prefix, read_at_hook
from jsaeval.hooks import parse_hook
from jsaeval.lm.card import LMCard
from jsaeval.mesh import make_mesh
from tests.autointerp.test_activations import Table
from tests.tiny import HOOK, tiny_sae


@pytest.fixture(scope="module")
def texts():
    """Texts of 1 and 9 tokens, without BOS, and a latent of each."""
    rng = np.random.default_rng(0)
    made = [rng.integers(3, 50, n).astype(np.int32) for n in rng.choice((1, 9), 30)]
    return made, rng.integers(0, 40, 30).tolist()


@functools.partial(jax.jit, static_argnums=1)
def read_last(lm, hook, text):
    return read_at_hook(lm, hook, prefix(lm, hook, text[None]))[0][0, -1]


def plainly(lm, sae, hook, texts, latents):
    z = sae.encode(jnp.stack([read_last(lm, hook, jnp.asarray(text)) for text in texts]))
    return np.asarray(z)[np.arange(len(texts)), latents]


@pytest.mark.parametrize(("kind", "mesh"), [("topk", (3, 2)), ("gated", (1, 1))])
def test_padding_and_devices_change_nothing(kind, mesh, lm, texts):
    hook, sae = parse_hook(HOOK), tiny_sae(kind, k=20)
    function = LatentFunction(lm, sae, hook, mesh=make_mesh(*mesh), rows_at_once=7)
    begun = [np.concatenate([[1], text]).astype(np.int32) for text in texts[0]]
    expected = plainly(lm, sae, hook, begun, texts[1])
    assert 5 < (expected > 0).sum() < 30
    np.testing.assert_allclose(function(*texts), expected, atol=1e-5 * expected.max())
    np.testing.assert_allclose(function.exactly(begun, texts[1]), expected, atol=1e-5 * expected.max())
    np.testing.assert_array_equal(function(begun, texts[1]), function(*texts))  # BOS does not come twice
    assert function([], []).shape == (0,)


def test_a_transcoder_reads_its_own_hook(lm, texts):
    hook = parse_hook("blocks.1.ln2.hook_normalized:blocks.1.hook_mlp_out")
    sae = tiny_sae(d_out=16)
    function = LatentFunction(lm, sae, hook, mesh=make_mesh(1))
    some = [text for text in texts[0] if len(text) == 9]
    begun, latents = [np.concatenate([[1], text]).astype(np.int32) for text in some], texts[1][: len(some)]
    expected = plainly(lm, sae, hook, begun, latents)
    assert (expected > 0).any()
    np.testing.assert_allclose(function(some, latents), expected, atol=1e-5 * max(1, expected.max()))


def test_in_bfloat16_it_gives_what_the_evidence_holds():
    lm, sae = (jax.tree.map(lambda own: own.astype(jnp.bfloat16), own) for own in (Table(), tiny_sae()))
    tokens, hook, mesh = np.arange(3, 48).reshape(5, 9).astype(np.int32), parse_hook(HOOK), make_mesh(1)
    (table,) = sparse_activations(lm, [sae], hook, Rows("test", tokens, None, None), make_masks(tokens), mesh=mesh)
    texts, latents = np.repeat(tokens, 40, axis=0), np.tile(np.arange(40), 5)
    found = LatentFunction(lm, sae, hook, mesh=mesh, start=1).exactly(list(texts), latents.tolist()).reshape(5, 40)
    expected = np.zeros((5, 40), np.float32)
    for latent in range(40):
        own = table.of(latent)
        last = own.position == 8
        expected[own.row[last], latent] = own.value[last]
    assert (expected > 0).any()
    np.testing.assert_array_equal(found, expected)


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
