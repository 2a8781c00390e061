"""Named tensors of one block each → the stacked, fused arrays of a `Decoder`.

Every source of weights presents itself as `Tensors`, with Hugging Face's Llama names and orientation
(`model.layers.{i}.self_attn.q_proj.weight`, shape (out, in)), and with `self_attn.out_norm` and `mlp.out_norm` for
norms that Llama has not; only this file knows how they are laid out. Nothing is read before it is asked for, and then
only the part that is: on a mesh each process reads what its devices hold.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jsaeval.errors import InputError
from jsaeval.lm.card import LMCard
from jsaeval.lm.config import DecoderConfig, RopeScaling
from jsaeval.lm.decoder import Blocks, Decoder
from jsaeval.lm.rotary import inverse_frequencies
from jsaeval.mesh import array_of, replicate, spec_of
from jsaeval.numerics import wide_dtype


# Stored by some writers although they follow from the configuration, or repeat the tied embedding.
_REDUNDANT = re.compile(r"rotary_emb\.inv_freq$|^lm_head\.weight$|\.(attn|attention)\.(masked_)?bias$")

Index = tuple[slice, ...]
Read = Callable[[Index], np.ndarray]


@dataclass(frozen=True)
class Tensors:
    """An open source of weights: the names it has, a function that reads one, and what to call it in errors.

    `read` may give a view of a file; `shape`, where it is cheaper to ask for than to read.
    """

    names: frozenset[str]
    read: Callable[[str], np.ndarray]
    where: str
    shape: Callable[[str], tuple[int, ...]] | None = None

    def shape_of(self, name: str) -> tuple[int, ...]:
        return self.read(name).shape if self.shape is None else self.shape(name)


@dataclass(frozen=True)
class LazyArray:
    """An array that is read part by part: `array[index]`, with a slice for every axis."""

    shape: tuple[int, ...]
    read: Read

    def __getitem__(self, index: Index) -> np.ndarray:
        return self.read(index)

    def whole(self) -> np.ndarray:
        return self.read((slice(None),) * len(self.shape))


def stack(config: DecoderConfig, tensors: Tensors) -> dict[str, LazyArray]:
    """The arrays of a model.

    Args:
        config: the decoder's shape; every tensor is checked against it.
        tensors: where they come from.

    Returns:
        Arrays by field name, see `Decoder`; those of `Decoder.blocks` as `blocks.*`.

    Raises:
        InputError: a tensor is missing, has the wrong shape, or is one that the decoder would not use.
    """
    used = set()

    def need(name: str, *shape: int) -> str:
        if name not in tensors.names:
            raise InputError(f"{tensors.where}: tensor {name!r} is missing")
        used.add(name)
        if (found := tensors.shape_of(name)) != shape:
            raise InputError(f"{tensors.where}: tensor {name!r} has shape {found}, the configuration says {shape}")
        return name

    def plain(name: str, *shape: int) -> LazyArray:
        need(name, *shape)
        return LazyArray(shape, lambda index: tensors.read(name)[index])

    c = config
    arrays = {
        "embedding": plain("model.embed_tokens.weight", c.vocab, c.d_model),
        "final_norm": plain("model.norm.weight", c.d_model),
    }
    if "model.norm.bias" in tensors.names:
        arrays["final_norm_bias"] = plain("model.norm.bias", c.d_model)
    if not c.rotary_dims:
        arrays["positions"] = plain("model.embed_positions.weight", c.context, c.d_model)
    if not c.tied_embedding:
        arrays["lm_head"] = plain("lm_head.weight", c.vocab, c.d_model)
    blocks = [_block(c, f"model.layers.{i}", tensors, need) for i in range(c.n_blocks)]
    for name, first in blocks[0].items():
        if missing := [i for i, block in enumerate(blocks) if name not in block]:
            raise InputError(f"{tensors.where}: block {missing[0]} has no {name}, but block 0 has")
        arrays[f"blocks.{name}"] = _stacked([block[name] for block in blocks], first.shape)
    unused = sorted(name for name in tensors.names - used if not _REDUNDANT.search(name))
    if unused:
        raise InputError(f"{tensors.where}: tensor {unused[0]!r} has no place in a {c.family} decoder")
    return arrays


def _stacked(blocks: list[LazyArray], shape: tuple[int, ...]) -> LazyArray:
    return LazyArray((len(blocks), *shape), lambda index: np.stack([own[index[1:]] for own in blocks[index[0]]]))


def _block(c: DecoderConfig, layer: str, tensors: Tensors, need: Callable[..., str]) -> dict[str, LazyArray]:
    """The arrays of one block, see `Blocks`. Axes that a mesh may split are cut before anything is copied."""
    attn, mlp, read = f"{layer}.self_attn", f"{layer}.mlp", tensors.read
    heads = {"q": c.n_heads * c.d_head, "k": c.n_kv_heads * c.d_head, "v": c.n_kv_heads * c.d_head}
    group = c.queries_per_kv * c.d_head
    branches = ("gate", "up") if c.gated else ("up",)
    out: dict[str, LazyArray] = {}

    def by_kv_head(kind: str, index: Index) -> np.ndarray:
        """(kv_head, part, d_head, ...) of the three projections; parts: the head's queries, its key, its value."""
        kv, *rest = index
        names = [f"{attn}.{part}_proj.{kind}" for part in "qkv"]
        per_head = [read(name).reshape(c.n_kv_heads, -1, c.d_head, *read(name).shape[1:]) for name in names]
        return np.concatenate([part[kv, :, :, *rest] for part in per_head], axis=1)

    def qkv(index: Index) -> np.ndarray:
        d_model, kv, part, d_head = index
        return by_kv_head("weight", (kv, d_model)).transpose(3, 0, 1, 2)[:, :, part, d_head]

    def written(index: Index) -> np.ndarray:
        kv, width, d_model = index
        by_head = read(f"{attn}.o_proj.weight").reshape(c.d_model, c.n_kv_heads, group)
        return by_head[d_model, kv, width].transpose(1, 2, 0)

    def up(index: Index) -> np.ndarray:
        branch, d_model, d_mlp = index
        return np.stack([read(f"{mlp}.{name}_proj.weight")[d_mlp, d_model].T for name in branches[branch]])

    def up_bias(index: Index) -> np.ndarray:
        return np.stack([read(f"{mlp}.{name}_proj.bias")[index[1]] for name in branches[index[0]]])

    def down(index: Index) -> np.ndarray:
        return read(f"{mlp}.down_proj.weight")[index[::-1]].T

    for part, rows in heads.items():
        need(f"{attn}.{part}_proj.weight", rows, c.d_model)
    for name in branches:
        need(f"{mlp}.{name}_proj.weight", c.d_mlp, c.d_model)
    need(f"{attn}.o_proj.weight", c.d_model, heads["q"])
    need(f"{mlp}.down_proj.weight", c.d_model, c.d_mlp)
    parts = c.queries_per_kv + 2
    out["qkv"] = LazyArray((c.d_model, c.n_kv_heads, parts, c.d_head), qkv)
    out["out"] = LazyArray((c.n_kv_heads, group, c.d_model), written)
    out["up"] = LazyArray((len(branches), c.d_model, c.d_mlp), up)
    out["down"] = LazyArray((c.d_mlp, c.d_model), down)
    if f"{attn}.q_proj.bias" in tensors.names:
        for part, rows in heads.items():
            need(f"{attn}.{part}_proj.bias", rows)
        shape = (c.n_kv_heads, parts, c.d_head)
        out["qkv_bias"] = LazyArray(shape, lambda index: by_kv_head("bias", index[:1])[:, index[1], index[2]])
    if f"{mlp}.up_proj.bias" in tensors.names:
        for name in branches:
            need(f"{mlp}.{name}_proj.bias", c.d_mlp)
        out["up_bias"] = LazyArray((len(branches), c.d_mlp), up_bias)
    vectors = {
        "attn_norm": (f"{layer}.input_layernorm.weight", c.d_model),
        "mlp_norm": (f"{layer}.post_attention_layernorm.weight", c.d_model),
        "q_norm": (f"{attn}.q_norm.weight", c.d_head),
        "k_norm": (f"{attn}.k_norm.weight", c.d_head),
        "attn_norm_bias": (f"{layer}.input_layernorm.bias", c.d_model),
        "mlp_norm_bias": (f"{layer}.post_attention_layernorm.bias", c.d_model),
        "attn_out_norm": (f"{attn}.out_norm.weight", c.d_model),
        "mlp_out_norm": (f"{mlp}.out_norm.weight", c.d_model),
        "out_bias": (f"{attn}.o_proj.bias", c.d_model),
        "down_bias": (f"{mlp}.down_proj.bias", c.d_model),
    }
    for field, (name, size) in vectors.items():
        if name in tensors.names or field in c.norms:
            need(name, size)
            out[field] = LazyArray((size,), lambda index, name=name: read(name)[index])
    return out


def build(
    config: DecoderConfig, arrays: Mapping[str, LazyArray], card: LMCard, dtype: jnp.dtype, mesh: Mesh | None = None
) -> Decoder:
    """A `Decoder` from the arrays of `stack`: on the default device, or padded and split on a mesh (`jsaeval.mesh`).

    Raises:
        InputError: a weight is NaN or infinite.
    """

    bad: dict[str, None] = {}

    def on_devices(name: str, array: LazyArray) -> jax.Array:
        own = wide_dtype(dtype) if config.wide_norms and name.endswith("norm") else dtype

        def read(index: Index) -> np.ndarray:
            part = np.asarray(array[index], own)
            if not np.isfinite(part).all():
                bad[name] = None
            return part

        if mesh is None:
            return jnp.asarray(read((slice(None),) * len(array.shape)))
        owner, field = (Blocks, name.removeprefix("blocks.")) if name.startswith("blocks.") else (Decoder, name)
        return array_of(array.shape, spec_of(owner, field), mesh, read)

    device = {name: on_devices(name, array) for name, array in arrays.items()}
    if bad:
        raise InputError(f"{card.source}: NaN or Inf in the weights ({', '.join(bad)})")

    def frequencies(theta: float, scaling: RopeScaling | None) -> jax.Array:
        host = np.asarray(inverse_frequencies(config.rotary_dims, theta, scaling), wide_dtype(dtype))
        return jnp.asarray(host) if mesh is None else replicate(host, mesh)

    local = None if config.local_rope_theta is None else frequencies(config.local_rope_theta, None)
    blocks = {name.removeprefix("blocks."): device.pop(name) for name in list(device) if name.startswith("blocks.")}
    return Decoder(
        **device,
        blocks=Blocks(**blocks),
        rope_frequency=frequencies(config.rope_theta, config.rope_scaling),
        local_rope_frequency=local,
        config=config,
        card=card,
    )
