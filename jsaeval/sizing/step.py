"""The step of a run as a program without data: for counting, and for a compiler that has no device."""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from jsaeval.corpus.masks import Masks
from jsaeval.forward.batch import GROUPS, PREFIX, SAES, TOKENS_AT_ONCE, batch_statistics, pieces
from jsaeval.forward.controls import Controls, control_names
from jsaeval.forward.downstream import HEAD, SUFFIX
from jsaeval.forward.splice import ONE_BLOCK
from jsaeval.hooks import Hook
from jsaeval.lm.config import DecoderConfig
from jsaeval.lm.decoder import Decoder
from jsaeval.lm.shapes import abstract_decoder
from jsaeval.mesh import DATA, MODEL, padded, shardings
from jsaeval.sae.module import SAE
from jsaeval.sizing.cost import Cost, count, line


SCOPES = (PREFIX, SUFFIX, HEAD, SAES)


@dataclass(frozen=True)
class Job:
    """What is to be measured, in one pass at one hook.

    Attributes:
        lm: shape of the LM.
        hook: where the SAEs read.
        saes: how many share the pass.
        width: latents of each.
        k: active latents of TopK SAEs; None: JumpReLU SAEs.
        context: positions of a row.
        dtype: of weights and activations.
        precision: of matrix products.
        groups: metric groups.
        controls: with the control streams of each SAE, as on the leading rows of a run.
    """

    lm: DecoderConfig
    hook: Hook
    saes: int = 1
    width: int = 16_384
    k: int | None = None
    context: int = 128
    dtype: str = "float32"
    precision: str = "highest"
    groups: tuple[str, ...] = GROUPS
    controls: bool = False


@dataclass(frozen=True)
class Step:
    """`function(*arguments)` is the step; `arguments` holds shapes, and places if the mesh has devices."""

    function: Callable
    arguments: tuple[Any, ...]

    @property
    def lm(self) -> Decoder:
        return self.arguments[0]

    @property
    def saes(self) -> list[SAE]:
        return self.arguments[1]

    @property
    def controls(self) -> Controls:
        return self.arguments[5]


def abstract_mesh(data: int, model: int) -> AbstractMesh:
    """A mesh of so many devices, none of which exists."""
    return AbstractMesh((data, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def step_of(job: Job, mesh: Mesh | AbstractMesh, rows: int, tokens_at_once: int | None = None) -> Step:
    """The step of a job on a mesh, for so many rows at a time; `tokens_at_once` is that of `batch_statistics`."""
    dtype = jnp.dtype(job.dtype)
    lm = abstract_decoder(job.lm, dtype)
    widths = {"attn.hook_z": job.lm.n_heads * job.lm.d_head, "mlp.hook_post": job.lm.d_mlp}
    d_in, d_out = (widths.get(site, job.lm.d_model) for site in (job.hook.reads or job.hook.site, job.hook.site))
    sae = dictionary(d_in, job.width, job.k, dtype, d_out)
    array = jax.ShapeDtypeStruct
    row = lambda dtype: array((rows, job.context), dtype)  # noqa: E731

    def weights(tree: PyTree) -> PyTree:
        tree = jax.eval_shape(lambda tree: padded(tree, mesh), tree)
        places = shardings(tree, mesh) if isinstance(mesh, Mesh) else jax.tree.map(lambda x: None, tree)
        return jax.tree.map(lambda x, place: array(x.shape, x.dtype, sharding=place), tree, places)

    def at(spec: P, tree: PyTree) -> PyTree:
        place = NamedSharding(mesh, spec) if isinstance(mesh, Mesh) else None
        return jax.tree.map(lambda x: array(x.shape, x.dtype, sharding=place), tree)

    def function(lm, saes, block, mean, zero, controls, tokens, masks):
        return batch_statistics(
            lm,
            saes,
            tokens,
            hook=job.hook.at(block),
            masks=masks,
            mean=mean,
            zero=zero,
            controls=controls,
            groups=job.groups,
            mesh=mesh,
            tokens_at_once=tokens_at_once,
            precision=job.precision,
        )

    mean = array((d_out,), jnp.float32)
    zero = array((1, job.context, lm.d_model), dtype) if job.hook.whole_residual else None
    return Step(
        function,
        (
            weights(lm),
            weights([sae] * job.saes),
            at(P(), array((), jnp.int32)),
            at(P(), mean),
            at(P(), zero),
            weights(_controls(job, d_in, d_out)) if job.controls else None,
            at(P(DATA), row(jnp.int32)),
            at(P(DATA), Masks(*[row(bool)] * 3)),
        ),
    )


def step_cost(job: Job, model: int, rows: int) -> Cost:
    """What a step costs each device, when so many share the weights and take so many rows at a time.

    Costs of many SAEs are those of a few, continued along a straight line: everything but the memory that is alive at
    once is exact so, and that nearly.
    """
    n_pieces = pieces(rows, streams(job) * job.context, TOKENS_AT_ONCE)
    few, more = _COUNTED
    if job.saes <= more:
        return _traced(job, model, rows, n_pieces)
    first, second = (_traced(dataclasses.replace(job, saes=n), model, rows, n_pieces) for n in _COUNTED)
    return line(first, second, (job.saes - few) / (more - few))


# So many SAEs are traced for the cost of more.
_COUNTED = 4, 8


@functools.lru_cache
def _traced(job: Job, model: int, rows: int, n_pieces: int) -> Cost:
    at_once = rows // n_pieces * streams(job) * job.context
    # A device's part does not depend on how many there are along the data axis.
    step = step_of(job, abstract_mesh(1, model), rows, at_once)
    before = int(job.hook.prefix_stop)
    after = job.lm.n_blocks - before - (0 if job.hook.between_blocks else 1)
    trips = {PREFIX: before, SUFFIX: after, ONE_BLOCK: 1}
    return count(step.function, *step.arguments, trips=trips, scopes=SCOPES)


def streams(job: Job) -> int:
    """Continuations of a row, as `batch_statistics` counts them."""
    return 2 + job.saes + (len(control_names(job.saes)) if job.controls else 0)


def share_bytes(tree: PyTree, mesh: AbstractMesh) -> int:
    """Bytes of (padded) weights that each device of a mesh holds."""

    def own(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> int:
        return math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(own, tree, shardings(tree, mesh))))


def dictionary(d_in: int, width: int, k: int | None, dtype: jnp.dtype, d_out: int) -> SAE:
    """An SAE or transcoder of a shape; its arrays are `jax.ShapeDtypeStruct`s."""

    def make() -> SAE:
        return SAE(
            W_enc=jnp.zeros((d_in, width), dtype),
            b_enc=jnp.zeros(width, dtype),
            W_dec=jnp.zeros((width, d_out), dtype),
            b_dec=jnp.zeros(d_out, dtype),
            threshold=jnp.zeros(width, dtype) if k is None else None,
            activation="jumprelu" if k is None else "topk",
            k=k,
        )

    return jax.eval_shape(make)


def _controls(job: Job, d_in: int, d_out: int) -> Controls:
    """Of the shapes that calibration would fit."""
    n, wide = job.saes, jnp.dtype(jnp.float32)
    random = dictionary(d_out, job.width, None, wide, d_out)
    shuffled = dictionary(d_in, job.width, job.k, jnp.dtype(job.dtype), d_out)

    def make(random: SAE, shuffled: SAE) -> Controls:
        components = jnp.zeros((job.k or 64, d_out), wide)
        return Controls(jnp.int32(0), jnp.zeros(d_out, wide), (random,) * n, (shuffled,) * n, (components,) * n)

    return jax.eval_shape(make, random, shuffled)
