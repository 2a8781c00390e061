"""The host language model: one decoder for every family, its blocks stacked on a leading axis.

Llama (Touvron et al. 2023, arXiv 2302.13971): RMS norm (Zhang & Sennrich 2019), rotary positions, grouped-query
attention (Ainslie et al. 2023), SwiGLU (Shazeer 2020). Qwen2 adds biases to queries, keys and values; Qwen3 norms
queries and keys per head; Mistral may limit the attention window. Gemma (2024, arXiv 2403.08295): scaled embeddings,
GeGLU. Gemma 2 (2024, arXiv 2408.00118): norms after attention and MLP too, windows in every other block, soft caps on
scores and logits; Gemma 3 (2025, arXiv 2503.19786): normed queries and keys instead of the caps, another rotary base in
blocks with a window. GPT-2 (Radford et al. 2019): layer norm, learned positions, biases everywhere, a plain GELU MLP,
tied embeddings. GPT-NeoX and Pythia (Black et al. 2022, arXiv 2204.06745): layer norm, rotary positions on a part of
each head, attention and MLP in parallel.

Stacked blocks make the loop over them one compiled body, and a *traced* block range makes one program serve every
hook. Queries, keys and values are one matrix, grouped by key-value head, so that it is one matrix product and can still
be split along heads; the gate and the up-projection likewise along the hidden width. `jsaeval.mesh` says how they are
split over devices, and what `summed` is.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jsaeval.lm.card import LMCard
from jsaeval.lm.config import DecoderConfig
from jsaeval.lm.protocol import Block, Tap, looks_at, no_tap
from jsaeval.lm.rotary import rotate
from jsaeval.mesh import joined, looked_up, own_part, splits_by_name, summed
from jsaeval.numerics import wide, wide_dtype


@splits_by_name
class Blocks(eqx.Module):
    """Weights of all blocks.

    `part` of `qkv`: the queries of one key-value head, then its key, then its value; `group_width` of `out`: what the
    heads of these queries write, one after the other. `branch` of `up`: the gate and the up-projection, or the
    up-projection alone.
    """

    attn_norm: Float[Array, "block d_model"]
    qkv: Float[Array, "block d_model kv_head part d_head"]
    out: Float[Array, "block kv_head group_width d_model"]
    mlp_norm: Float[Array, "block d_model"]
    up: Float[Array, "block branch d_model d_mlp"]
    down: Float[Array, "block d_mlp d_model"]
    attn_norm_bias: Float[Array, "block d_model"] | None = None
    qkv_bias: Float[Array, "block kv_head part d_head"] | None = None
    q_norm: Float[Array, "block d_head"] | None = None
    k_norm: Float[Array, "block d_head"] | None = None
    out_bias: Float[Array, "block d_model"] | None = None
    mlp_norm_bias: Float[Array, "block d_model"] | None = None
    up_bias: Float[Array, "block branch d_mlp"] | None = None
    down_bias: Float[Array, "block d_model"] | None = None
    attn_out_norm: Float[Array, "block d_model"] | None = None
    mlp_out_norm: Float[Array, "block d_model"] | None = None


@splits_by_name
class Decoder(eqx.Module):
    """A `jsaeval.lm.protocol.HostLM`; see there for what each method promises."""

    embedding: Float[Array, "vocab d_model"]
    blocks: Blocks
    final_norm: Float[Array, " d_model"]
    rope_frequency: Float[Array, " half"]
    positions: Float[Array, "context d_model"] | None = None
    final_norm_bias: Float[Array, " d_model"] | None = None
    lm_head: Float[Array, "vocab d_model"] | None = None
    local_rope_frequency: Float[Array, " half"] | None = None
    config: DecoderConfig = eqx.field(static=True, kw_only=True)
    card: LMCard = eqx.field(static=True, default=LMCard())

    @property
    def n_blocks(self) -> int:
        return self.config.n_blocks

    @property
    def d_model(self) -> int:
        return self.config.d_model

    @property
    def vocab(self) -> int:
        return self.config.vocab

    @property
    def unembedding(self) -> Float[Array, "vocab d_model"]:
        return self.embedding if self.lm_head is None else self.lm_head

    @property
    def logit_cap(self) -> float | None:
        return self.config.logit_cap

    def embed(self, tokens: Int[Array, "row position"]) -> Float[Array, "row position d_model"]:
        residual = looked_up(lambda index: jnp.take(self.embedding, index, axis=0), tokens, self.embedding)
        if self.config.embedding_scale != 1.0:
            residual *= jnp.asarray(self.config.embedding_scale, residual.dtype)
        if self.positions is not None:
            residual += self.positions[None, : tokens.shape[1]]
        return residual

    def run(
        self,
        residual: Float[Array, "row position d_model"],
        start: Block,
        stop: Block,
        tap: Tap = no_tap,
        state: PyTree = None,
    ) -> tuple[Float[Array, "row position d_model"], PyTree]:
        windows = None if self.config.windows is None else jnp.asarray(self.config.windows, jnp.int32)

        def body(index, carry):
            weights = jax.tree.map(lambda w: lax.dynamic_index_in_dim(w, index, 0, keepdims=False), self.blocks)
            window = None if windows is None else windows[index]
            return self._block(weights, index, window, carry[0], tap, carry[1])

        return lax.fori_loop(start, stop, body, (residual, state))

    def final(self, residual: Float[Array, "row position d_model"]) -> Float[Array, "row position d_model"]:
        return self._norm(residual, self.final_norm, self.final_norm_bias)

    def _norm(self, x, weight, bias=None):
        return gained(self._standardise(x), weight, bias, x.dtype)

    def _standardise(self, x):
        return standardise(x, self.config.norm_eps, centre=self.config.norm == "layer")

    def _block(self, weights, index, window, residual, tap, state):
        w = weights
        residual, state = tap("hook_resid_pre", index, residual, state)

        z = self._attention(w, self._norm(residual, w.attn_norm, w.attn_norm_bias), window)
        z, state = _tap_split("attn.hook_z", z, self.config.n_kv_heads, index, tap, state)
        attn_out = add(summed(jnp.einsum("btgw,gwd->btd", z, w.out)), w.out_bias)
        if w.attn_out_norm is not None:
            attn_out = self._norm(attn_out, w.attn_out_norm)
        attn_out, state = tap("hook_attn_out", index, attn_out, state)
        after = residual + attn_out
        if not self.config.parallel:
            residual, state = tap("hook_resid_mid", index, after, state)
            after = residual

        normed = self._standardise(residual)
        if looks_at(tap, "ln2.hook_normalized"):
            normed, state = tap("ln2.hook_normalized", index, normed.astype(residual.dtype), state)
        mlp_in = gained(normed, w.mlp_norm, w.mlp_norm_bias, residual.dtype)
        mlp_in, state = tap("mlp.hook_in", index, mlp_in, state)
        hidden, state = _tap_split("mlp.hook_post", self._hidden(w, mlp_in), self.config.d_mlp, index, tap, state)
        mlp_out = add(summed(hidden @ w.down), w.down_bias)
        if w.mlp_out_norm is not None:
            mlp_out = self._norm(mlp_out, w.mlp_out_norm)
        mlp_out, state = tap("hook_mlp_out", index, mlp_out, state)
        return tap("hook_resid_post", index, after + mlp_out, state)

    def _hidden(self, weights, x) -> Float[Array, "row position d_mlp"]:
        # Branch by branch: 0.66 of the time of one product with both, whose result has to be taken apart (2 x86 cores).
        first, *rest = [
            add(x @ weights.up[i], None if weights.up_bias is None else weights.up_bias[i])
            for i in range(len(weights.up))
        ]
        hidden = _ACTIVATIONS[self.config.activation](first)
        return hidden * rest[0] if self.config.gated else hidden

    def _attention(self, weights, x, window) -> Float[Array, "row position kv_head group_width"]:
        row, position, _ = x.shape
        config = self.config
        qkv = add(jnp.einsum("btd,dgph->btgph", x, weights.qkv), weights.qkv_bias)
        heads = qkv.shape[2], config.queries_per_kv, config.d_head
        q = qkv[..., :-2, :].reshape(row, position, -1, config.d_head)
        k, v = qkv[..., -2, :], qkv[..., -1, :]
        if weights.q_norm is not None:
            q, k = (
                gained(standardise(part, config.norm_eps), weight, None, part.dtype)
                for part, weight in ((q, weights.q_norm), (k, weights.k_norm))
            )
        frequency = self.rope_frequency
        if self.local_rope_frequency is not None:
            frequency = jnp.where(window > 0, self.local_rope_frequency, frequency)
        q, k = (rotate(part, frequency, config.rope_attention_factor) for part in (q, k))
        scale = (config.query_scalar or config.d_head) ** 0.5
        z = attend(q.reshape(row, position, *heads), k, v, _causal(position, window), scale, config.attn_logit_cap)
        return z.reshape(row, position, heads[0], -1)


def _tap_split(
    site: str, part: Float[Array, "row position part ..."], size: int, index: Block, tap: Tap, state: PyTree
) -> tuple[Float[Array, "row position part ..."], PyTree]:
    """The tap sees what all devices hold of an axis that has `size` entries without padding, flattened."""
    if not looks_at(tap, site):
        return part, state
    whole = joined(part, axis=2)[:, :, :size]
    flat, state = tap(site, index, whole.reshape(*whole.shape[:2], -1), state)
    return own_part(flat.reshape(whole.shape), part, axis=2), state


_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def standardise(x: Float[Array, "... width"], eps: float, centre: bool = False) -> Float[Array, "... width"]:
    """x / sqrt(mean(x²) + eps), of x − mean(x) for layer norm (`centre`), in float32 or better."""
    normed = wide(x)
    if centre:
        normed -= jnp.mean(normed, axis=-1, keepdims=True)
    return normed * lax.rsqrt(jnp.mean(jnp.square(normed), axis=-1, keepdims=True) + eps)


def gained(
    normed: Float[Array, "... width"],
    weight: Float[Array, " width"],
    bias: Float[Array, " width"] | None,
    dtype: jnp.dtype,
) -> Float[Array, "... width"]:
    """normed · weight + bias in a dtype; the product is in the dtype of the weight."""
    return add((normed.astype(weight.dtype) * jnp.broadcast_to(weight, normed.shape)).astype(dtype), bias)


def add(x: Float[Array, "..."], bias: Float[Array, "..."] | None) -> Float[Array, "..."]:
    """x + bias over trailing axes, where there is a bias."""
    return x if bias is None else x + jnp.broadcast_to(bias, x.shape)


def attend(
    q: Float[Array, "row query kv_head group d_head"],
    k: Float[Array, "row key kv_head d_head"],
    v: Float[Array, "row key kv_head d_head"],
    visible: Bool[Array, "query key"],
    scale: float,
    cap: float | None = None,
) -> Float[Array, "row query kv_head group d_head"]:
    """softmax(s) v, where `group` queries share a key-value head; the softmax in float32 or better.

    s = q·k / scale, or cap tanh(q·k / (scale cap)) where there is a soft cap.
    """
    # With rows and heads in front, both are plain batched matrix products: 0.65 of the time of one contraction over
    # (query, kv_head, group) on 2 x86 cores.
    q, k, v = jnp.transpose(q, (0, 2, 3, 1, 4)), jnp.transpose(k, (0, 2, 1, 3)), jnp.transpose(v, (0, 2, 1, 3))
    scores = jnp.einsum("bngqh,bnkh->bngqk", q, k, preferred_element_type=wide_dtype(q.dtype)) / scale
    if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
    scores = jnp.where(jnp.broadcast_to(visible, scores.shape), scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.transpose(jnp.einsum("bngqk,bnkh->bngqh", weights, v), (0, 3, 1, 2, 4))


def _causal(position: int, window: Int[Array, ""] | None) -> Bool[Array, "query key"]:
    """Key j is visible to query i iff 0 <= i - j, and i - j < window where there is one (0: none)."""
    index = jnp.arange(position, dtype=jnp.int32)
    distance = index[:, None] - index[None, :]
    visible = distance >= 0
    if window is None:
        return visible
    return visible & ((distance < window) | (window == 0))
