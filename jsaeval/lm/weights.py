"""Named tensors of one block each → the stacked, fused arrays of a `Decoder`.

Every source of weights presents itself as `Tensors`, with Hugging Face's Llama names and orientation
(`model.layers.{i}.self_attn.q_proj.weight`, shape (out, in)); only this file knows how they are laid out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jsaeval.errors import InputError
from jsaeval.lm.card import LMCard
from jsaeval.lm.config import DecoderConfig
from jsaeval.lm.decoder import Blocks, Decoder
from jsaeval.lm.rotary import inverse_frequencies
from jsaeval.numerics import wide_dtype


# Stored by some writers although they follow from the configuration, or repeat the tied embedding.
_REDUNDANT = re.compile(r"rotary_emb\.inv_freq$|^lm_head\.weight$|\.(attn|attention)\.(masked_)?bias$")


@dataclass(frozen=True)
class Tensors:
    """An open source of weights: the names it has, a function that reads one, and what to call it in errors."""

    names: frozenset[str]
    read: Callable[[str], np.ndarray]
    where: str


def stack(config: DecoderConfig, tensors: Tensors) -> dict[str, np.ndarray]:
    """Collect all tensors of a model.

    Args:
        config: the decoder's shape; every tensor is checked against it.
        tensors: where they come from.

    Returns:
        Arrays by field name, see `Decoder`; those of `Decoder.blocks` as `blocks.*`.

    Raises:
        InputError: a tensor is missing, has the wrong shape, or is one that the decoder would not use.
    """
    used = set()

    def need(name: str, *shape: int) -> np.ndarray:
        if name not in tensors.names:
            raise InputError(f"{tensors.where}: tensor {name!r} is missing")
        used.add(name)
        tensor = tensors.read(name)
        if tensor.shape != shape:
            raise InputError(
                f"{tensors.where}: tensor {name!r} has shape {tensor.shape}, the configuration says {shape}"
            )
        return tensor

    c = config
    head_rows = {"q": c.n_heads * c.d_head, "k": c.n_kv_heads * c.d_head, "v": c.n_kv_heads * c.d_head}
    branches = ("gate", "up") if c.gated else ("up",)

    def optional(out: dict[str, np.ndarray], field: str, name: str, *shape: int) -> None:
        if name in tensors.names:
            out[field] = need(name, *shape)

    def block(i: int) -> dict[str, np.ndarray]:
        layer = f"model.layers.{i}"
        attn, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        projections = [need(f"{attn}.{part}_proj.weight", n, c.d_model) for part, n in head_rows.items()]
        ups = [need(f"{mlp}.{name}_proj.weight", c.d_mlp, c.d_model).T for name in branches]
        out = {
            "attn_norm": need(f"{layer}.input_layernorm.weight", c.d_model),
            "mlp_norm": need(f"{layer}.post_attention_layernorm.weight", c.d_model),
            "qkv": _by_kv_head(c, *projections).transpose(3, 0, 1, 2),
            "out": need(f"{attn}.o_proj.weight", c.d_model, head_rows["q"]).T.reshape(c.n_kv_heads, -1, c.d_model),
            "up": np.stack(ups, axis=1),
            "down": need(f"{mlp}.down_proj.weight", c.d_model, c.d_mlp).T,
        }
        if f"{attn}.q_proj.bias" in tensors.names:
            out["qkv_bias"] = _by_kv_head(c, *(need(f"{attn}.{part}_proj.bias", n) for part, n in head_rows.items()))
        if f"{mlp}.up_proj.bias" in tensors.names:
            out["up_bias"] = np.stack([need(f"{mlp}.{name}_proj.bias", c.d_mlp) for name in branches])
        optional(out, "q_norm", f"{attn}.q_norm.weight", c.d_head)
        optional(out, "k_norm", f"{attn}.k_norm.weight", c.d_head)
        optional(out, "attn_norm_bias", f"{layer}.input_layernorm.bias", c.d_model)
        optional(out, "mlp_norm_bias", f"{layer}.post_attention_layernorm.bias", c.d_model)
        optional(out, "out_bias", f"{attn}.o_proj.bias", c.d_model)
        optional(out, "down_bias", f"{mlp}.down_proj.bias", c.d_model)
        return out

    arrays = {
        "embedding": need("model.embed_tokens.weight", c.vocab, c.d_model),
        "final_norm": need("model.norm.weight", c.d_model),
    }
    optional(arrays, "final_norm_bias", "model.norm.bias", c.d_model)
    if not c.rotary_dims:
        arrays["positions"] = need("model.embed_positions.weight", c.context, c.d_model)
    if not c.tied_embedding:
        arrays["lm_head"] = need("lm_head.weight", c.vocab, c.d_model)
    for i in range(c.n_blocks):
        for name, tensor in block(i).items():
            key = f"blocks.{name}"
            if key not in arrays:
                arrays[key] = np.empty((c.n_blocks, *tensor.shape), tensor.dtype)
            arrays[key][i] = tensor
    unused = sorted(name for name in tensors.names - used if not _REDUNDANT.search(name))
    if unused:
        raise InputError(f"{tensors.where}: tensor {unused[0]!r} has no place in a {c.family} decoder")
    return arrays


def _by_kv_head(c: DecoderConfig, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Rows of the three projections → (kv_head, part, d_head, ...); parts: the head's queries, its key, its value."""
    rest = q.shape[1:]
    q = q.reshape(c.n_kv_heads, c.queries_per_kv, c.d_head, *rest)
    k, v = (x.reshape(c.n_kv_heads, 1, c.d_head, *rest) for x in (k, v))
    return np.concatenate([q, k, v], axis=1)


def build(config: DecoderConfig, arrays: dict[str, np.ndarray], card: LMCard, dtype: jnp.dtype) -> Decoder:
    """A `Decoder` on the default device from the arrays of `stack`.

    Raises:
        InputError: a weight is NaN or infinite.
    """
    device = {name: jnp.asarray(array, dtype) for name, array in arrays.items()}
    finite = jax.jit(lambda tree: jax.tree.map(lambda x: jnp.isfinite(x).all(), tree))(device)
    bad = [name for name, is_finite in finite.items() if not is_finite]
    if bad:
        raise InputError(f"{card.source}: NaN or Inf in the weights ({', '.join(bad)})")
    frequency = inverse_frequencies(config.rotary_dims, config.rope_theta, config.rope_scaling)
    blocks = {name.removeprefix("blocks."): device.pop(name) for name in list(device) if name.startswith("blocks.")}
    return Decoder(
        **device,
        blocks=Blocks(**blocks),
        rope_frequency=jnp.asarray(frequency, wide_dtype(dtype)),
        config=config,
        card=card,
    )
