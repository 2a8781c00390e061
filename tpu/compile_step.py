"""Compile the evaluation step for a TPU slice on a machine without one, and print what it needs per chip.

    pip install '.[tpu]'
    python tpu/compile_step.py --topology v5e:2x4

The real TPU compiler (libtpu) runs on the host, so a program that it refuses, or that does not fit, shows here and not
on the pod. Rows are split over the chips, and with `--model` weights are, too. No speed is measured: there is no TPU.
"""

import dataclasses
import os
from dataclasses import dataclass


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
from jsaeval.forward.controls import Controls, random_sae
from jsaeval.hooks import Hook
from jsaeval.mesh import DATA, make_mesh, padded, shardings


@dataclass(frozen=True)
class Config:
    """Compile the step for SmolLM2-135M and its SAE."""

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
    lm, sae = jsaeval.load_lm("smollm2-135m"), jsaeval.load_sae("smollm2-135m")
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
        abstract([bare(sae)] * config.saes),
        abstract(jnp.int32(0), P()),
        abstract(jnp.zeros(lm.d_model), P()),
        abstract(jnp.zeros((1, config.context, lm.d_model)), P()),
        abstract(controls_of(sae, lm.d_model, config.saes)) if config.controls else None,
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
        print(f"  {kind:18} {text.count(f'{kind}(') + text.count(f'{kind}-start(')}")


def controls_of(sae: jsaeval.SAE, width: int, n_saes: int) -> Controls:
    """Controls of the shapes that calibration would fit."""
    mean, k = jnp.zeros(width), sae.k or 1
    random, shuffled = random_sae(0, sae.d_sae, jnp.float32(k), mean, jnp.eye(width)), bare(sae)
    components = jnp.zeros((k, width))
    return Controls(jnp.int32(0), mean, (random,) * n_saes, (shuffled,) * n_saes, (components,) * n_saes)


def bare(sae: jsaeval.SAE) -> jsaeval.SAE:
    """Without its card: SAEs of one shape are then one type."""
    return dataclasses.replace(sae, card=jsaeval.SAECard())


if __name__ == "__main__":
    main(tyro.cli(Config))
