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
_REDUNDANT = re.compile(r"rotary_emb\.inv_freq$|^lm_head\.weight$")


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
        Arrays by field name: `embedding`, `final_norm`, `lm_head` (unless tied) and `blocks.*`, see `Decoder`.

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

    def block(i: int) -> dict[str, np.ndarray]:
        attn, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        out = {
            "attn_norm": need(f"model.layers.{i}.input_layernorm.weight", c.d_model),
            "mlp_norm": need(f"model.layers.{i}.post_attention_layernorm.weight", c.d_model),
            "qkv": _by_kv_head(
                c, *(need(f"{attn}.{p}_proj.weight", rows, c.d_model) for p, rows in head_rows.items())
            ).transpose(3, 0, 1, 2),
            "out": need(f"{attn}.o_proj.weight", c.d_model, c.n_heads * c.d_head).T,
            "gate_up": np.stack([need(f"{mlp}.{p}_proj.weight", c.d_mlp, c.d_model).T for p in ("gate", "up")], axis=1),
            "down": need(f"{mlp}.down_proj.weight", c.d_model, c.d_mlp).T,
        }
        if f"{attn}.q_proj.bias" in tensors.names:
            out["qkv_bias"] = _by_kv_head(c, *(need(f"{attn}.{p}_proj.bias", n) for p, n in head_rows.items()))
        if f"{attn}.q_norm.weight" in tensors.names:
            out["q_norm"] = need(f"{attn}.q_norm.weight", c.d_head)
            out["k_norm"] = need(f"{attn}.k_norm.weight", c.d_head)
        return out

    arrays = {
        "embedding": need("model.embed_tokens.weight", c.vocab, c.d_model),
        "final_norm": need("model.norm.weight", c.d_model),
    }
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
    frequency = inverse_frequencies(config.d_head, config.rope_theta, config.rope_scaling)
    return Decoder(
        embedding=device["embedding"],
        blocks=Blocks(**{k.removeprefix("blocks."): v for k, v in device.items() if k.startswith("blocks.")}),
        final_norm=device["final_norm"],
        lm_head=device.get("lm_head"),
        rope_frequency=jnp.asarray(frequency, wide_dtype(dtype)),
        config=config,
        card=card,
    )
