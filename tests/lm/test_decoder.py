import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.hooks import SITES
from jsaeval.lm.config import LinearRope, Llama3Rope, YarnRope
from jsaeval.lm.protocol import HostLM
from tests.lm import oracle
from tests.tiny import CONFIG, GEMMA, GEMMA2, GEMMA3, make_lm, random_tensors


SCALING = Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16)
YARN = YarnRope(factor=8.0, original_context=64, attention_factor=1.2, beta_fast=6.0, beta_slow=0.5)
ROTARY = dataclasses.replace(CONFIG, d_head=12, rotary_dims=12)
GPT = dataclasses.replace(CONFIG, n_kv_heads=4, norm="layer", activation="gelu", gated=False)
CASES = {
    "grouped heads": (CONFIG, {}),
    "one head each": (dataclasses.replace(CONFIG, n_kv_heads=4), {}),
    "one shared head": (dataclasses.replace(CONFIG, n_kv_heads=1), {}),
    "biases": (CONFIG, {"bias": True}),
    "normed queries and keys": (CONFIG, {"qk_norm": True}),
    "tied": (dataclasses.replace(CONFIG, tied_embedding=True), {}),
    "windows": (dataclasses.replace(CONFIG, windows=(0, 3, 7)), {}),
    "gpt2": (dataclasses.replace(GPT, activation="gelu_tanh", rotary_dims=0, tied_embedding=True), {"biases": True}),
    "gpt_neox": (dataclasses.replace(GPT, parallel=True, rotary_dims=2), {"biases": True}),
    "gpt_neox in sequence": (dataclasses.replace(GPT, rotary_dims=4), {"biases": True}),
    "biases everywhere": (CONFIG, {"biases": True}),
    "scaled rotary": (dataclasses.replace(ROTARY, rope_scaling=SCALING), {}),
    "linear rotary": (dataclasses.replace(ROTARY, rope_scaling=LinearRope(3.0)), {}),
    "yarn": (dataclasses.replace(ROTARY, rope_scaling=YARN), {}),
    "yarn, not truncated": (dataclasses.replace(ROTARY, rope_scaling=dataclasses.replace(YARN, truncate=False)), {}),
    "gemma": (GEMMA, {}),
    "gemma2": (GEMMA2, {"out_norms": True}),
    "gemma3": (GEMMA3, {"out_norms": True, "qk_norm": True}),
}


def logits(lm, tokens):
    residual, _ = lm.run(lm.embed(tokens), 0, lm.n_blocks)
    z, cap = jnp.einsum("btd,vd->btv", lm.final(residual), lm.unembedding), lm.logit_cap
    return z if cap is None else cap * jnp.tanh(z / cap)


def record(lm, tokens):
    """Every site of every block, through a tap."""
    seen = {}

    def tap(site, block, activation, state):
        seen[f"blocks.{block}.{site}"] = activation
        return activation, state

    residual = lm.embed(tokens)
    for i in range(lm.n_blocks):  # one block at a time, outside jit: the tap sees numbers
        with jax.disable_jit():
            residual, _ = lm.run(residual, i, i + 1, tap)
    return seen


@pytest.mark.parametrize("case", CASES)
def test_logits_and_every_hook_against_the_oracle(case, tokens):
    config, options = CASES[case]
    tensors = random_tensors(config, **options)
    rows = np.asarray(tokens[:2])
    with jax.enable_x64(True):
        lm = make_lm(config, tensors, jnp.float64)
        seen, ours = record(lm, jnp.asarray(rows)), jax.jit(logits)(lm, jnp.asarray(rows))
    single = jax.jit(logits)(make_lm(config, tensors), tokens[:2])
    for row in range(2):
        expected, expected_logits = oracle.run(config, tensors, rows[row])
        np.testing.assert_allclose(ours[row], expected_logits, atol=1e-11)
        np.testing.assert_allclose(single[row], expected_logits, atol=1e-4)
        assert set(seen) == set(expected)
        for name, x in expected.items():
            np.testing.assert_allclose(seen[name][row], x, atol=1e-11, err_msg=name)


def test_is_a_host_lm(lm):
    assert isinstance(lm, HostLM)
    assert (lm.n_blocks, lm.d_model, lm.vocab, lm.unembedding.shape) == (3, 16, 50, (50, 16))


def test_traced_bounds_equal_static_ones(lm, tokens):
    run = jax.jit(lambda lm, x, start, stop: lm.run(x, start, stop)[0])
    x = lm.embed(tokens)
    for start, stop in ((0, 3), (1, 2), (2, 2)):
        static = jax.jit(lambda lm, x, a=start, b=stop: lm.run(x, a, b)[0])(lm, x)
        np.testing.assert_allclose(run(lm, x, jnp.int32(start), jnp.int32(stop)), static, rtol=1e-6, atol=1e-6)
    assert run._cache_size() == 1


def test_no_token_sees_the_future(lm, tokens):
    """The gradient of position t's output with respect to later embeddings is exactly zero."""
    x = lm.embed(tokens[:1])
    grad = jax.grad(lambda x: lm.final(lm.run(x, 0, 3)[0])[0, 7].sum())(x)
    assert float(jnp.abs(grad[0, :8]).min(axis=-1).max()) > 0
    assert float(jnp.abs(grad[0, 8:]).max()) == 0


@pytest.mark.parametrize("site", SITES)
def test_a_tap_can_replace(site, lm, tokens):
    """What a tap returns is what the block goes on with, at every site."""
    tensors, row = random_tensors(), np.asarray(tokens[0])
    _, expected = oracle.run(CONFIG, tensors, row, splice=lambda name, x: x * 0.5 if name == f"blocks.1.{site}" else x)

    def tap(name, block, activation, state):
        half = (block == 1) & jnp.bool_(name == site)
        return jnp.where(half, activation * 0.5, activation), state

    residual, _ = jax.jit(lambda lm, t: lm.run(lm.embed(t), 0, 3, tap))(lm, tokens[:1])
    np.testing.assert_allclose(jnp.einsum("btd,vd->btv", lm.final(residual), lm.unembedding)[0], expected, atol=2e-5)


def test_a_tap_carries_state(lm, tokens):
    def tap(site, block, activation, state):
        return activation, state.at[block].add(1)

    _, calls = jax.jit(lambda lm, t: lm.run(lm.embed(t), 1, 3, tap, jnp.zeros(3, jnp.int32)))(lm, tokens)
    assert calls.tolist() == [0, len(SITES), len(SITES)]


def test_sites_that_nobody_looks_at_cost_nothing(lm, tokens):
    """The program with a tap that says where it looks is the one without a tap but for that site."""

    def at(*sites):
        def tap(site, block, activation, state):
            return (activation * 2 if site in sites else activation), state

        tap.sites = sites
        return str(jax.make_jaxpr(lambda lm, t: lm.run(lm.embed(t), 0, 3, tap)[0])(lm, tokens))

    without = str(jax.make_jaxpr(lambda lm, t: lm.run(lm.embed(t), 0, 3)[0])(lm, tokens))
    assert at() == without
    assert all(at(site).count("mul") == without.count("mul") + 1 for site in SITES)


def test_bfloat16_stays_bfloat16(tokens):
    lm = make_lm(CONFIG, random_tensors(), jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.tree_at(lambda m: m.rope_frequency, lm, None))} == {
        jnp.dtype(jnp.bfloat16)
    }
    assert lm.rope_frequency.dtype == jnp.float32
    residual, _ = lm.run(lm.embed(tokens), 0, 3)
    assert residual.dtype == jnp.bfloat16
    full = make_lm(CONFIG, random_tensors())
    exact, _ = full.run(full.embed(tokens), 0, 3)
    np.testing.assert_allclose(residual.astype(jnp.float32), exact, atol=0.1 * float(jnp.abs(exact).max()))
