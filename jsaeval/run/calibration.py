"""Calibration: what is fixed before the main pass, from all rows if their hook activations fit, else from a sample.

It fixes the mean of x, the scale of `expected_average` SAEs, each SAE's L0, and with it the controls. It never depends
on batch size or devices.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jsaeval.errors import InputError
from jsaeval.forward.calibrate import code_moments, hook_sums, zero_final, zero_is_constant
from jsaeval.forward.controls import Controls, random_sae
from jsaeval.forward.splice import read_at_hook
from jsaeval.hooks import Hook
from jsaeval.mesh import map_rows, on_host, place, replicate
from jsaeval.run.batches import Batch, Batches, Clock, Programs
from jsaeval.run.placed import Dictionaries, Model
from jsaeval.run.state import Calibrated
from jsaeval.stats.table import exact


# Hook activations are kept between calibration and main pass up to this size; beyond it, calibration reads a sample.
ACTIVATION_BYTES = 512 * 2**20
CALIBRATION_TOKENS = 100_000
# The threshold of a random SAE is a quantile over this many tokens (fewer, where the dictionary is very wide).
SAMPLE_TOKENS = 2048
SAMPLE_NUMBERS = 2**26

Progress = Callable[[str, int, int], None]
# The residual stream of a batch where it is at hand already (from a cache), else None.
Residuals = Callable[[Batch], Array | None]


@dataclass(frozen=True)
class Calibration:
    """`mean`: that of `result`, on the devices; `residuals`: of each batch, by its first row, where they are kept."""

    result: Calibrated
    mean: Float[Array, " width"]
    residuals: dict[int, Array] | None
    batches: Batches


def calibrate(
    model: Model,
    hook: Hook,
    batches: Batches,
    precision: str,
    clock: Clock,
    progress: Progress,
    cached: Residuals = lambda batch: None,
    known: Calibrated | None = None,
) -> Calibration:
    """The mean of x, and E‖x‖.

    With `known`, what is left to do is to bring the residual streams of the batches to come to hand. (The main pass
    would do it, too, but in another program, whose last digits may differ.)

    Raises:
        InputError: no token of the sample counts, or the LM gives NaN or Inf.
    """
    n_rows, positions = batches.tokens.shape
    keep = n_rows * positions * model.whole(model.arrays).d_model * 4 <= ACTIVATION_BYTES
    if known is None:
        batches = batches.all()
    elif not keep:
        return Calibration(known, _on(batches, known.mean), None, batches)
    if not keep:
        n_rows = min(n_rows, -(-CALIBRATION_TOKENS // positions))
        batches = batches.leading(n_rows)

    def sums(shared, tokens: Int[Array, "row position"], mask: Bool[Array, "row position"], residual: Array | None):
        arrays, block = shared
        with jax.default_matmul_precision(precision):
            return hook_sums(model.whole(arrays), hook.at(block), tokens, mask, residual)

    step = Programs(jax.jit(map_rows(sums, batches.mesh)), clock)
    shared = model.arrays, replicate(jnp.int32(hook.block), batches.mesh)
    residuals, x_sum, norm_sum = {}, 0.0, 0.0
    for batch in batches:
        inputs = batch.tokens, batch.masks.metric, cached(batch)
        residual, x_rows, norm_rows = step(batch.control, shared, *inputs)
        x_sum, norm_sum = x_sum + exact(x_rows).sum(axis=0), norm_sum + exact(norm_rows).sum()
        if keep:
            residuals[batch.start] = residual
        progress("calibrating", batch.n_rows * positions, (n_rows - batches.done) * positions)
    if known is None:
        counted = int(batches.masks.metric.sum())
        if not counted:
            raise InputError(f"no token of the first {n_rows} rows counts, so there is nothing to calibrate on")
        if not np.isfinite(x_sum).all():
            raise InputError(f"the LM gives NaN or Inf at {hook.name}; try --dtype float32, or look at its weights")
        known = Calibrated(np.asarray(x_sum / counted, np.float32), float(norm_sum) / counted, counted)
    return Calibration(known, _on(batches, known.mean), residuals if keep else None, batches)


def _on(batches: Batches, mean: np.ndarray) -> Array:
    return replicate(jnp.asarray(mean), batches.mesh)


def fit_controls(
    model: Model,
    hook: Hook,
    placed: Dictionaries,
    calibration: Calibration,
    seed: int,
    precision: str,
    clock: Clock,
) -> Controls:
    """Controls of each SAE: its L0 on the calibration rows, and what is as sparse or as small."""
    batches, mean, saes = calibration.batches, calibration.mean, placed.saes
    block = replicate(jnp.int32(hook.block), batches.mesh)

    def enter(shared, tokens: Int[Array, "row position"], residual: Array | None):
        arrays, block = shared
        with jax.default_matmul_precision(precision):
            lm, at = model.whole(arrays), hook.at(block)
            residual = hook_sums(lm, at, tokens, jnp.ones_like(tokens, bool), residual)[0]
            return read_at_hook(lm, at, residual)

    def moments(saes, mean, read, x, mask: Bool[Array, "row position"]):
        with jax.default_matmul_precision(precision):
            return code_moments(saes, mean, read, x, mask, batches.mesh)

    step = Programs(jax.jit(map_rows(enter, batches.mesh)), clock)
    measure = Programs(jax.jit(moments), clock)
    l0, covariance, sample, wanted = np.zeros(len(saes)), 0.0, [], SAMPLE_TOKENS
    for batch in batches:
        residual = None if calibration.residuals is None else calibration.residuals[batch.start]
        read, x = step(batch.control, (model.arrays, block), batch.tokens, residual)
        counts, products = measure(batch.control, saes, mean, read, x, batch.masks.metric)
        l0, covariance = l0 + exact(counts), covariance + exact(products)
        if wanted > 0:
            sample.append(on_host(x).astype(np.float32)[on_host(batch.masks.metric)][:wanted])
            wanted -= len(sample[-1])
    l0 = l0 / calibration.result.tokens
    _, vectors = np.linalg.eigh(covariance)
    tokens, host_mean = np.concatenate(sample), calibration.result.mean
    draw = jax.jit(random_sae, static_argnums=(0, 1))
    random, shuffled, components = [], [], []
    for sae, size, mean_l0 in zip(saes, placed.sizes, l0, strict=True):
        part = tokens[: max(1, SAMPLE_NUMBERS // size)]
        with jax.default_matmul_precision(precision):
            random.append(draw(seed, size, np.float32(mean_l0), host_mean, part))
        order = np.arange(sae.d_sae, dtype=np.int32)
        order[:size] = np.random.default_rng(seed).permutation(size)
        reorder = jax.jit(lambda rows, order: rows[order], out_shardings=sae.W_dec.sharding)
        shuffled.append(dataclasses.replace(sae, W_dec=reorder(sae.W_dec, order)))
        k = min(max(1, round(float(mean_l0))), len(vectors))
        components.append(replicate(np.asarray(vectors[:, ::-1][:, :k].T, np.float32), batches.mesh))
    random = place(tuple(random), batches.mesh)
    return Controls(replicate(jnp.int32(seed), batches.mesh), mean, random, tuple(shuffled), tuple(components))


def constant_zero(model: Model, hook: Hook, batches: Batches, precision: str, clock: Clock) -> Array | None:
    """The final residual stream of the zero ablation, if it is the same in every row."""
    if not zero_is_constant(hook, batches.tokens, batches.masks):
        return None
    longest = int(batches.masks.valid.sum(axis=1).argmax())
    row = np.asarray(batches.tokens[longest : longest + 1], np.int32)

    def ablate(shared, tokens: Int[Array, "row position"], mask: Bool[Array, "row position"]):
        arrays, block = shared
        with jax.default_matmul_precision(precision):
            return zero_final(model.whole(arrays), hook.at(block), tokens, mask)

    block, *inputs = replicate((jnp.int32(hook.block), row, batches.masks.splice[longest : longest + 1]), batches.mesh)
    arguments = ((model.arrays, block), *inputs)
    step = jax.jit(map_rows(ablate, batches.mesh), out_shardings=NamedSharding(batches.mesh, P()))
    return clock.compile(step, *arguments)(*arguments)
