"""Activations and features of texts against the plain way: one text after the other, no padding, in numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.corpus.texts import text_tokens
from jsaeval.errors import InputError
from jsaeval.forward.splice import at_hook, prefix
from jsaeval.hooks import parse_hook
from jsaeval.lm.card import LMCard
from jsaeval.lm.load import load_lm, load_tokenizer
from jsaeval.mesh import make_mesh
from jsaeval.probes.activations import key_of, open_store, text_activations
from jsaeval.probes.features import Encoder, bag_of_words
from tests.tiny import tiny_sae


HOOKS = ("blocks.1.hook_resid_post", "blocks.1.attn.hook_z")


@pytest.fixture(scope="module")
def texts():
    """Fifty texts of 2 to 30 tokens, BOS first; two are the same."""
    rng = np.random.default_rng(0)
    made = [np.array([1, *rng.integers(3, 50, n)], np.int32) for n in rng.choice((1, 4, 9, 12, 29), 49)]
    return [*made, made[7]]


@functools.partial(jax.jit, static_argnums=1)
def plainly(lm, hook, ids):
    return at_hook(lm, hook, prefix(lm, hook, ids[None]))[0]


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("mesh", [(1, 1), pytest.param((8, 1), marks=pytest.mark.slow), (3, 2)])
def test_padding_and_devices_change_nothing(name, mesh, lm, texts):
    hook = parse_hook(name)
    devices = make_mesh(*mesh)
    last = text_activations(lm, hook, texts, devices, "last")
    every = text_activations(lm, hook, texts, devices, "tokens")
    for ids in texts:
        expected = np.asarray(plainly(lm, hook, jnp.asarray(ids)))
        scale = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(last[key_of(ids)], expected[-1:], atol=scale)
        np.testing.assert_allclose(every[key_of(ids)], expected[1:], atol=scale)


def tokens(texts):
    """Of different texts."""
    return sum(len(ids) for ids in {ids.tobytes(): ids for ids in texts}.values())


def test_nothing_is_computed_twice(lm, texts, tmp_path):
    hook, mesh, done = parse_hook(HOOKS[0]), make_mesh(1), []
    lm = named(lm)

    def again(part):
        done.clear()
        store = open_store(tmp_path / "cache", lm, hook, "highest", "last")
        found = text_activations(lm, hook, part, mesh, store=store, progress=lambda *own: done.append(own[1]))
        return np.concatenate([found[key_of(ids)] for ids in texts if key_of(ids) in found])

    again(texts[:20])
    assert sum(done) == tokens(texts[:20])
    everything = again(texts)
    assert sum(done) == tokens(texts) - tokens(texts[:20])
    assert np.array_equal(again(texts), everything) and not done
    # What was harmed from outside is computed again.
    for i, path in enumerate(sorted((tmp_path / "cache").glob("*/*"))):
        path.write_bytes(path.read_bytes()[: [10, -10][i % 2]])
    np.testing.assert_allclose(again(texts), everything, atol=1e-5 * np.abs(everything).max())
    assert sum(done) == tokens(texts) < sum(map(len, texts))


def test_what_was_done_before_a_stop_is_kept(lm, tmp_path, monkeypatch):
    monkeypatch.setattr("jsaeval.run.batches.CPU_TOKENS", 64)
    texts = [np.array([1, *range(3, 3 + n)], np.int32) for n in range(1, 40)]
    hook, calls = parse_hook(HOOKS[0]), []

    def stop():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    lm = named(lm)
    store = open_store(tmp_path, lm, hook, "highest", "last")
    with pytest.raises(KeyboardInterrupt):
        text_activations(lm, hook, texts, make_mesh(1), store=store, stop=stop)
    kept = open_store(tmp_path, lm, hook, "highest", "last")
    assert 3 <= sum(key_of(ids) in kept for ids in texts) < len(texts)


def test_another_lm_hook_or_precision_has_a_store_of_its_own(lm, tmp_path):
    hooks = [parse_hook(name) for name in HOOKS]
    folders = {
        open_store(tmp_path, named(lm, sha), hook, precision, kept).folder
        for sha in ("a", "b")
        for hook in hooks
        for precision in ("highest", "default")
        for kept in ("last", "tokens")
    }
    assert len(folders) == 16
    assert open_store(tmp_path, lm, hooks[0], "highest", "last").folder is None  # its weights have no hash


def test_the_oldest_activations_go(lm, tmp_path):
    lm, mesh = named(lm), make_mesh(1)
    for i, name in enumerate(HOOKS):
        store = open_store(tmp_path, lm, parse_hook(name), "highest", "last")
        store.limit = 500 if i else store.limit
        text_activations(lm, parse_hook(name), [np.array([1, 3 + j], np.int32) for j in range(3)], mesh, store=store)
    assert len(list(tmp_path.glob("*/*.values.npy"))) == len(list(tmp_path.glob("*/*.index.npz"))) == 1


def test_an_lm_that_gives_nan(lm, texts):
    broken = dataclasses.replace(lm, embedding=lm.embedding * jnp.nan)
    with pytest.raises(InputError, match="NaN or Inf at"):
        text_activations(broken, parse_hook(HOOKS[0]), texts[:2], make_mesh(1))


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
@pytest.mark.parametrize("mesh", [(1, 1), (4, 2)])
def test_tokens_are_encoded_first_and_pooled_after(kind, mesh):
    sae, rng = tiny_sae(kind), np.random.default_rng(0)
    texts = [rng.standard_normal((n, sae.d_in)).astype(np.float32) for n in (1, 5, 9, 2, 17, 5)]
    for pool, over in (("last", lambda v: v[-1]), ("mean", lambda v: v.mean(axis=0)), ("max", lambda v: v.max(axis=0))):
        found = Encoder(sae, pool, make_mesh(*mesh))(texts)
        for i, x in enumerate(texts):
            z = np.asarray(sae.encode(jnp.asarray(x)))
            y = np.asarray(sae.decode(jnp.asarray(z), jnp.asarray(x)))
            for own, expected in zip(found, (x, z, y, x - y), strict=True):
                np.testing.assert_allclose(own[i], over(expected), atol=2e-5 * np.abs(expected).max() + 1e-6)
    assert found.latents.shape == (6, sae.d_sae)


def test_bag_of_words_by_hand():
    texts = [np.array(ids, np.int32) for ids in ([1, 5, 6, 5], [1, 6, 7], [1, 9], [1, 8, 9, 6])]
    words = bag_of_words(texts, np.array([0, 1, 2]), most=3)
    # In training only 6 occurs in two texts; 1 is BOS, and 9 is in one training text.
    assert words.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_a_long_text_keeps_its_end():
    tokenizer = load_tokenizer(load_lm("tiny"))
    found = text_tokens(["one two three four five six seven", "one"], tokenizer, context=4)
    whole = tokenizer.encode(["one two three four five six seven", "one"])
    start = tokenizer.bos if tokenizer.bos is not None else tokenizer.eos
    assert found.ids[0].tolist() == [start, *whole[0][-3:]] and found.ids[1].tolist() == [start, *whole[1]]
    assert found.cut == (True, False)


def named(lm, sha256="aa"):
    return dataclasses.replace(lm, card=LMCard("tiny", sha256=sha256, context=64, bos=1, eos=2, pad=0))
