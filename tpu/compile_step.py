"""Compile the evaluation step for a TPU slice on a machine without one, and print what it needs per chip.

    pip install '.[tpu]'
    python tpu/compile_step.py --topology v5e:2x4

The real TPU compiler (libtpu) runs on the host, so a program that it refuses, or that does not fit, shows here and not
on the pod. Rows are split over the chips, and with `--model` weights are, too. No speed is measured: there is no TPU.
"""

import os
import re
from dataclasses import dataclass
from typing import Literal


# Before libtpu loads: look for no TPU and ask no metadata server.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import jax
import jax.numpy as jnp
import tyro
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jsaeval
from jsaeval.corpus.masks import Masks
from jsaeval.forward.controls import Controls
from jsaeval.hooks import Hook
from jsaeval.lm.config import DecoderConfig
from jsaeval.lm.decoder import Blocks, Decoder
from jsaeval.mesh import DATA, make_mesh, padded, shardings
from jsaeval.run.shapes import Shape, shape_of


@dataclass(frozen=True)
class Config:
    """Compile the step for an LM and SAEs of given shapes; weights are not needed."""

    lm: str = "smollm2-135m"
    """A name that is known (gemma-2-2b, llama-3.1-8b, ...), or a config.json."""
    width: int = 2304
    """Latents of an SAE."""
    k: int | None = 48
    """Active latents of a TopK SAE; None: a JumpReLU SAE."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    topology: str = "v5e:2x4"
    """As libtpu names it, e.g. v5e:2x4, v5e:16x16, v5p:4x4x4."""
    model: int = 1
    """Chips that share one copy of the weights."""
    rows_per_chip: int = 8
    context: int = 512
    saes: int = 1
    """How many SAEs share the pass."""
    controls: bool = False
    """With the control streams of each SAE, as on the leading rows of a run."""


def main(config: Config) -> None:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=config.topology)
    mesh = make_mesh(model=config.model, devices=list(topology.devices))
    lm = jax.eval_shape(lambda: decoder(shape_of(config.lm), config.context, jnp.dtype(config.dtype)))
    sae = jax.eval_shape(lambda: dictionary(lm.d_model, config.width, config.k, jnp.dtype(config.dtype)))
    rows = config.rows_per_chip * mesh.size

    def abstract(tree, spec: P | None = None):
        """Shapes and places, of weights padded and split as on the chips."""
        shapes = jax.eval_shape(lambda tree: padded(tree, mesh), tree) if spec is None else tree
        places = shardings(tree, mesh) if spec is None else jax.tree.map(lambda x: NamedSharding(mesh, spec), tree)
        return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)

    def step(lm, saes, block, mean, zero, controls, tokens, masks):
        hook, shared = Hook(block, "hook_resid_post"), {"mean": mean, "zero": zero, "controls": controls}
        return jsaeval.batch_statistics(lm, saes, tokens, hook=hook, masks=masks, mesh=mesh, **shared)

    per_row = (
        jax.ShapeDtypeStruct((rows, config.context), jnp.int32),
        jax.ShapeDtypeStruct((rows, config.context), bool),
    )
    arguments = (
        abstract(lm),
        abstract([sae] * config.saes),
        abstract(jnp.int32(0), P()),
        abstract(jnp.zeros(lm.d_model), P()),
        abstract(jax.ShapeDtypeStruct((1, config.context, lm.d_model), lm.embedding.dtype), P()),
        abstract(jax.eval_shape(lambda: controls_of(config, lm.d_model))) if config.controls else None,
        abstract(per_row[0], P(DATA)),
        abstract(Masks(*[per_row[1]] * 3), P(DATA)),
    )
    compiled = jax.jit(step).lower(*arguments).compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    print(
        f"{config.topology}: {mesh.size} chips, {rows * config.context:,} tokens a step, {config.saes} SAE(s): compiled"
    )
    for kind in ("argument", "output", "temp"):
        print(f"  {kind:9} {getattr(memory, f'{kind}_size_in_bytes') / 2**20:8.1f} MiB per chip")
    for kind in ("all-reduce", "all-gather", "collective-permute", "all-to-all"):
        found = re.findall(rf"= (.+?) {kind}(?:-start)?\(", text)
        print(f"  {kind:18} {len(found)}")
        if kind != "all-reduce":
            print("".join(f"    {shape}\n" for shape in sorted(set(found))), end="")


def decoder(shape: Shape, context: int, dtype: jnp.dtype) -> Decoder:
    """A decoder of a shape; only the shapes of its arrays are ever made."""
    s, zeros = shape, lambda *size: jnp.zeros(size, dtype)
    group = s.n_heads // s.n_kv_heads
    blocks = Blocks(
        attn_norm=zeros(s.n_blocks, s.d_model),
        qkv=zeros(s.n_blocks, s.d_model, s.n_kv_heads, group + 2, s.d_head),
        out=zeros(s.n_blocks, s.n_kv_heads, group * s.d_head, s.d_model),
        mlp_norm=zeros(s.n_blocks, s.d_model),
        up=zeros(s.n_blocks, 1 + s.gated, s.d_model, s.d_mlp),
        down=zeros(s.n_blocks, s.d_mlp, s.d_model),
    )
    config = DecoderConfig(
        family="llama",
        n_blocks=s.n_blocks,
        d_model=s.d_model,
        n_heads=s.n_heads,
        n_kv_heads=s.n_kv_heads,
        d_head=s.d_head,
        d_mlp=s.d_mlp,
        vocab=s.vocab,
        context=context,
        norm_eps=1e-5,
        rotary_dims=s.d_head,
        gated=s.gated,
        tied_embedding=s.tied,
    )
    return Decoder(
        embedding=zeros(s.vocab, s.d_model),
        blocks=blocks,
        final_norm=zeros(s.d_model),
        rope_frequency=jnp.zeros(s.d_head // 2),
        lm_head=None if s.tied else zeros(s.vocab, s.d_model),
        config=config,
    )


def dictionary(d_model: int, width: int, k: int | None, dtype: jnp.dtype) -> jsaeval.SAE:
    """An SAE of a shape."""
    return jsaeval.SAE(
        W_enc=jnp.zeros((d_model, width), dtype),
        b_enc=jnp.zeros(width, dtype),
        W_dec=jnp.zeros((width, d_model), dtype),
        b_dec=jnp.zeros(d_model, dtype),
        threshold=jnp.zeros(width, dtype) if k is None else None,
        activation="jumprelu" if k is None else "topk",
        k=k,
    )


def controls_of(config: Config, d_model: int) -> Controls:
    """Controls of the shapes that calibration would fit."""
    n, dtype = config.saes, jnp.dtype(config.dtype)
    random = dictionary(d_model, config.width, None, jnp.dtype(jnp.float32))
    shuffled = dictionary(d_model, config.width, config.k, dtype)
    components = jnp.zeros((config.k or 64, d_model))
    return Controls(jnp.int32(0), jnp.zeros(d_model), (random,) * n, (shuffled,) * n, (components,) * n)


if __name__ == "__main__":
    main(tyro.cli(Config))
