"""One hook, many rows: calibrate, loop over batches, collect the table.

The host prepares and fetches while the device works: a batch is dispatched before the results of the one before it are
waited for. Programs are compiled ahead, so that measured speed is the speed of the steady state.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Integer, PyTree

from jsaeval.corpus.masks import Masks
from jsaeval.errors import InputError
from jsaeval.forward.batch import GROUPS, batch_statistics
from jsaeval.forward.calibrate import hook_sums, zero_final, zero_is_constant
from jsaeval.forward.latents import merge_counts, no_counts
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import DATA, map_rows, replicate, shard_rows
from jsaeval.sae.module import SAE, SAECard
from jsaeval.stats.table import Collector, Table, exact


# Hook activations are kept between calibration and main pass up to this size; beyond it, calibration reads a sample.
ACTIVATION_BYTES = 512 * 2**20
CALIBRATION_TOKENS = 100_000
# Batches after which the per-latent counters go to the host, before a float32 sum over tokens loses digits.
FLUSH_EVERY = 64

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Setting:
    """How to run: everything that is not the LM, the SAEs or the text."""

    batch: int = 8
    groups: tuple[str, ...] = GROUPS
    precision: str = "highest"


@dataclass(frozen=True)
class Measured:
    """What a pass leaves: the table, the tokens that calibrated it, and where the time went in seconds."""

    table: Table
    calibration_tokens: int
    compile_s: float
    run_s: float


def measure(
    lm: HostLM,
    saes: Sequence[SAE],
    hook: Hook,
    tokens: Integer[np.ndarray, "row position"],
    masks: Masks,
    mesh: Mesh,
    setting: Setting = Setting(),
    progress: Progress = lambda stage, tokens, total: None,
) -> Measured:
    """Measure SAEs at one hook.

    Args:
        lm: the language model.
        saes: SAEs that read this hook.
        hook: the hook.
        tokens: ids of any integer type, possibly memory-mapped.
        masks: of all rows, on the host.
        mesh: devices; rows are split over its data axis.
        setting: how.
        progress: called with a stage ("calibrating", "measuring"), the tokens just done in it, and its tokens in all.

    Raises:
        InputError: no token counts, or an SAE does not fit the hook.
    """
    if not masks.metric.any():
        raise InputError("no token counts: the metric mask is empty; try --metric-mask all")
    # Cards are static fields: without them, SAEs of one shape share one compiled program.
    saes = replicate(tuple(dataclasses.replace(sae, card=SAECard()) for sae in saes), mesh)
    model = _Model.place(lm, mesh)

    clock = _Clock()
    batches = _Batches(tokens, masks, setting.batch, mesh)
    block = replicate(jnp.int32(hook.block), mesh)
    mean, residuals, calibrated = None, None, 0
    if "reconstruction" in setting.groups:
        mean, residuals, calibrated = _calibrate(model, hook.site, block, batches, setting, clock, progress)
    zero = _constant_zero(model, hook, block, batches, setting, clock) if "loss" in setting.groups else None

    def step(counts, arrays, saes, block, mean, zero, residual, tokens, masks):
        out = batch_statistics(
            model.whole(arrays),
            saes,
            tokens,
            hook=Hook(block, hook.site),
            masks=masks,
            mean=mean,
            residual=residual,
            zero=zero,
            groups=setting.groups,
            mesh=mesh,
            precision=setting.precision,
        )
        return tuple(map(merge_counts, counts, out.latents)), (out.rows, out.saes, out.vectors)

    def fresh_counts():
        return replicate(tuple(no_counts(sae.d_sae) for sae in saes if "latents" in setting.groups), mesh)

    def collect(lines: tuple[Any, Any, Any], n_rows: int) -> None:
        collector.add(*lines, n_rows=n_rows)
        progress("measuring", n_rows * tokens.shape[1], tokens.size)

    collector, counts, compiled, pending = Collector(), fresh_counts(), None, []
    for i, batch in enumerate(batches):
        residual = residuals.pop(0) if residuals else None
        arguments = (model.arrays, saes, block, mean, zero, residual, batch.tokens, batch.masks)
        compiled = compiled or clock.compile(jax.jit(step, donate_argnums=0), counts, *arguments)
        counts, lines = compiled(counts, *arguments)
        pending.append((lines, batch.n_rows))
        if len(pending) > 1:
            collect(*pending.pop(0))
        if (i + 1) % FLUSH_EVERY == 0:
            collector.add_latents(counts)
            counts = fresh_counts()
    for waiting in pending:
        collect(*waiting)
    collector.add_latents(counts)
    return Measured(collector.table(), calibrated, clock.compile_s, clock.run_s())


@dataclass(frozen=True)
class _Model:
    """An LM cut into its arrays, which cross `jit`, and the rest of the pytree, which may hold anything."""

    arrays: PyTree
    rest: PyTree

    @classmethod
    def place(cls, lm: HostLM, mesh: Mesh) -> "_Model":
        arrays, rest = eqx.partition(lm, eqx.is_array)
        return cls(replicate(arrays, mesh), rest)

    def whole(self, arrays: PyTree) -> HostLM:
        return eqx.combine(arrays, self.rest)


@dataclass(frozen=True)
class _Batch:
    """Rows on the devices; those from `n_rows` on fill up the batch and are masked."""

    tokens: Int[Array, "row position"]
    masks: Masks
    n_rows: int


@dataclass(frozen=True)
class _Batches:
    """All batches of a run, each of the same shape."""

    tokens: Integer[np.ndarray, "row position"]
    masks: Masks
    size: int
    mesh: Mesh

    def __iter__(self) -> Iterator[_Batch]:
        size = -(-self.size // self.mesh.shape[DATA]) * self.mesh.shape[DATA]
        for start in range(0, len(self.tokens), size):
            n_rows = min(size, len(self.tokens) - start)
            padded = [
                np.pad(x[start : start + n_rows], [(0, size - n_rows), (0, 0)]) for x in (self.tokens, *self.masks)
            ]
            tokens, *masks = shard_rows([padded[0].astype(np.int32), *padded[1:]], self.mesh)
            yield _Batch(tokens, Masks(*masks), n_rows)


@dataclass
class _Clock:
    """Tells the time that compilation took from the time of the run."""

    compile_s: float = 0.0
    _start: float = field(default_factory=time.perf_counter)

    def compile(self, jitted: Any, *arguments: Any) -> Callable:
        start = time.perf_counter()
        compiled = jitted.lower(*arguments).compile()
        self.compile_s += time.perf_counter() - start
        return compiled

    def run_s(self) -> float:
        return time.perf_counter() - self._start - self.compile_s


def _calibrate(
    model: _Model, site: str, block: Array, batches: _Batches, setting: Setting, clock: _Clock, progress: Progress
) -> tuple[Float[Array, " width"], list[Array] | None, int]:
    """The mean of x, the prefix of every batch if all of them can be kept, and how many tokens the mean is of."""
    n_rows, positions = batches.tokens.shape
    d_model = model.whole(model.arrays).d_model
    keep = n_rows * positions * d_model * 4 <= ACTIVATION_BYTES
    if not keep:
        n_rows = min(n_rows, -(-CALIBRATION_TOKENS // positions))
        sample = jax.tree.map(lambda m: m[:n_rows], batches.masks)
        batches = dataclasses.replace(batches, tokens=batches.tokens[:n_rows], masks=sample)

    def sums(shared, tokens: Int[Array, "row position"], mask: Bool[Array, "row position"]):
        arrays, block = shared
        with jax.default_matmul_precision(setting.precision):
            return hook_sums(model.whole(arrays), Hook(block, site), tokens, mask)

    step, residuals, total, compiled = jax.jit(map_rows(sums, batches.mesh)), [], 0.0, None
    for batch in batches:
        arguments = ((model.arrays, block), batch.tokens, batch.masks.metric)
        compiled = compiled or clock.compile(step, *arguments)
        residual, row_sums = compiled(*arguments)
        total = total + exact(row_sums).sum(axis=0)
        if keep:
            residuals.append(residual)
        progress("calibrating", batch.n_rows * positions, n_rows * positions)
    counted = int(batches.masks.metric.sum())
    if not counted:
        raise InputError(f"no token of the first {n_rows} rows counts, so there is nothing to calibrate on")
    mean = replicate(jnp.asarray(total / counted, jnp.float32), batches.mesh)
    return mean, residuals if keep else None, counted


def _constant_zero(
    model: _Model, hook: Hook, block: Array, batches: _Batches, setting: Setting, clock: _Clock
) -> Array | None:
    """The final residual stream of the zero ablation, if it is the same in every row."""
    if not zero_is_constant(hook, batches.tokens, batches.masks):
        return None
    longest = int(batches.masks.valid.sum(axis=1).argmax())
    row = np.asarray(batches.tokens[longest : longest + 1], np.int32)

    def ablate(arrays, block, tokens, mask):
        with jax.default_matmul_precision(setting.precision):
            return zero_final(model.whole(arrays), Hook(block, hook.site), tokens, mask)

    arguments = replicate((model.arrays, block, row, batches.masks.splice[longest : longest + 1]), batches.mesh)
    return clock.compile(jax.jit(ablate), *arguments)(*arguments)
