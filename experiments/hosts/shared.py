"""What the scripts of this folder share: weights of a shipped LM under plain names, a quick SAE, checks, a table."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

import jsaeval
from jsaeval.corpus.rows import text_rows
from jsaeval.lm.card import LMCard
from jsaeval.lm.decoder import Decoder
from jsaeval.lm.load import load_tokenizer
from jsaeval.lm.protocol import HostLM, logit_cap_of
from jsaeval.mesh import make_mesh, place
from jsaeval.report.numbers import number
from jsaeval.run.evaluate import Results


HOOK = "blocks.1.hook_resid_post"
HEADLINES = ("explained_variance", "downstream_loss", "ce_increase", "ce_recovered_zero", "downstream_fvu", "l0")


class BlockWeights(NamedTuple):
    """One Llama block; matrices map from their first axes to their last."""

    attn_norm: Float[Array, " d_model"]
    q: Float[Array, "d_model head d_head"]
    k: Float[Array, "d_model kv_head d_head"]
    v: Float[Array, "d_model kv_head d_head"]
    o: Float[Array, "head d_head d_model"]
    mlp_norm: Float[Array, " d_model"]
    gate: Float[Array, "d_model d_mlp"]
    up: Float[Array, "d_model d_mlp"]
    down: Float[Array, "d_mlp d_model"]


def block_weights(lm: Decoder) -> list[BlockWeights]:
    """The blocks of a Llama without biases."""
    blocks, c = lm.blocks, lm.config
    found = []
    for i in range(c.n_blocks):
        qkv = blocks.qkv[i]
        found.append(
            BlockWeights(
                attn_norm=blocks.attn_norm[i],
                q=qkv[:, :, :-2].reshape(c.d_model, c.n_heads, c.d_head),
                k=qkv[:, :, -2],
                v=qkv[:, :, -1],
                o=blocks.out[i].reshape(c.n_heads, c.d_head, c.d_model),
                mlp_norm=blocks.mlp_norm[i],
                gate=blocks.up[i, 0],
                up=blocks.up[i, 1],
                down=blocks.down[i],
            )
        )
    return found


def card_for(lm: Decoder, name: str) -> LMCard:
    """The card of another model of the same tokenizer. It has no hash, because that is one of weight files."""
    return dataclasses.replace(lm.card, name=name, sha256="")


def rows(lm: HostLM, n: int, context: int = 128) -> Int[np.ndarray, "row position"]:
    """The leading rows of AG News."""
    return np.asarray(text_rows("ag-news", load_tokenizer(lm), n, context).tokens)


def logits(lm: HostLM, tokens: Int[Array, "row position"]) -> Float[Array, "row position vocab"]:
    """What the protocol says the logits are."""
    z, cap = lm.final(lm.run(lm.embed(tokens), 0, lm.n_blocks)[0]) @ lm.unembedding.T, logit_cap_of(lm)
    return z if cap is None else cap * jnp.tanh(z / cap)


def largest_difference(lm: HostLM, forward: Callable[[Array], Array], tokens: Int[np.ndarray, "row position"]) -> float:
    """Between the logits through the protocol and those of the model's own forward pass."""
    ids = jnp.asarray(tokens)
    return float(jnp.max(jnp.abs(eqx.filter_jit(logits)(lm, ids) - jax.jit(forward)(ids))))


def shares_buffers(lm: HostLM, weights: PyTree) -> bool:
    """Whether the LM holds the buffers of these weights and no other, also where a run places it on one device."""

    def buffers(tree: PyTree) -> set[int]:
        return {array.unsafe_buffer_pointer() for array in jax.tree.leaves(tree) if eqx.is_array(array)}

    placed = place(eqx.filter(lm, eqx.is_array), make_mesh(1))
    return buffers(weights) == buffers(lm) == buffers(placed)


def quick_sae(
    lm: HostLM, tokens: Int[np.ndarray, "row position"], width: int = 768, k: int = 16, steps: int = 300
) -> jsaeval.SAE:
    """A TopK SAE at `HOOK`, trained for seconds on `jsaeval.mse`, with batches of 8 rows."""
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((width, lm.d_model)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    zeros = jnp.zeros(lm.d_model)
    sae = jsaeval.SAE(
        W_enc=jnp.asarray(rows.T.copy()),
        b_enc=jnp.zeros(width),
        W_dec=jnp.asarray(rows),
        b_dec=zeros,
        b_pre=zeros,
        activation="topk",
        k=k,
        card=jsaeval.SAECard("quick", HOOK),
    )
    optimiser = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    @eqx.filter_jit
    def step(lm, sae, state, batch):
        updates, state = optimiser.update(jax.grad(jsaeval.mse, argnums=1)(lm, sae, batch), state)
        sae = eqx.apply_updates(sae, updates)
        unit = sae.W_dec / jnp.linalg.norm(sae.W_dec, axis=-1, keepdims=True)
        return dataclasses.replace(sae, W_dec=unit), state

    state: Any = optimiser.init(sae)  # type: ignore
    for _ in range(steps):
        sae, state = step(lm, sae, state, jnp.asarray(tokens[draw.choice(len(tokens), 8)]))
    return sae


def show(results: Results) -> None:
    """Headline metrics of every SAE with their 95 % intervals, and what splicing in x itself does."""
    for sae in results.saes:
        print(f"{sae.name} at {sae.hook.name} of {results.lm['name']}:")
        for id in HEADLINES:
            value = sae.metrics[id]
            low, high = value.ci95 or (value.value, value.value)
            print(f"  {id:20} {number(value.value):>9}  [{number(low)}, {number(high)}]")
    for name, controls in results.controls.items():
        kl = controls.metrics["identity"]["downstream_loss"].value
        print(f"identity at {name}: KL {kl:.1e} nats")


def disagreement(one: Results, other: Results) -> float:
    """The largest relative difference of any metric of any SAE."""
    pairs = [(a[id], b[id]) for a, b in zip(one.saes, other.saes, strict=True) for id in a.metrics if id in b.metrics]
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)
