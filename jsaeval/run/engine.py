"""One hook, many rows: calibrate, loop over batches, collect the table.

The host prepares and fetches while the device works: a batch is dispatched before the results of the one before it are
waited for. Programs are compiled ahead, so that measured speed is the speed of the steady state.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Integer

from jsaeval.corpus.masks import Masks
from jsaeval.errors import InputError
from jsaeval.forward.batch import GROUPS, Known, batch_statistics
from jsaeval.forward.controls import Controls
from jsaeval.forward.latents import merge_counts
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import replicate
from jsaeval.run.batches import Batch, Batches, Clock, Programs, control_batch, default_batch
from jsaeval.run.calibration import Progress, calibrate, constant_zero, fit_controls
from jsaeval.run.checkpoint import Checkpoints
from jsaeval.run.lm_cache import LMCache, LMSide
from jsaeval.run.placed import Dictionaries, Model
from jsaeval.run.state import Calibrated, PassState
from jsaeval.sae.module import SAE
from jsaeval.stats.table import Collector, Table


# Batches after which the per-latent counters go to the host, before a float32 sum over tokens loses digits.
FLUSH_EVERY = 64
# Without one of these groups there is nothing that a control could be compared by.
CONTROLLED = frozenset({"reconstruction", "loss", "curve"})


@dataclass(frozen=True)
class Setting:
    """How to run: everything that is not the LM, the SAEs or the text.

    Attributes:
        batch: rows at a time; default what suits the machine.
        groups: metric groups, out of `jsaeval.forward.batch.GROUPS`.
        precision: of matrix products.
        control_rows: leading rows on which the controls run, too; 0 for no controls.
        seed: of the controls and of the bootstrap.
    """

    batch: int | None = None
    groups: tuple[str, ...] = GROUPS
    precision: str = "highest"
    control_rows: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """What a pass leaves.

    `controls` has the control rows only, and after the SAEs the control streams in the order of `control_names`.
    """

    table: Table
    controls: Table | None
    batch: int
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
    cache: LMCache | None = None,
    checkpoints: Checkpoints | None = None,
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
        cache: where the LM's side is kept, and read if it is there.
        checkpoints: where the state of the pass is kept, and from where it may go on.

    Raises:
        InputError: no token counts, or an SAE does not fit the hook.
        Stopped: the checkpoints were asked to stop.
    """
    if not masks.metric.any():
        raise InputError("no token counts: the metric mask is empty; try --metric-mask all")
    checkpoints = checkpoints or Checkpoints()
    saved = checkpoints.state(hook.name)
    if saved is not None and saved.rows == len(tokens):
        return _measured(saved)
    clock, model = Clock.after(saved), Model.place(lm, mesh)
    placed = Dictionaries.place(saes, mesh)
    groups = frozenset(setting.groups)
    size = setting.batch or default_batch(tokens.shape[1], mesh)
    batches = Batches(
        tokens,
        masks,
        size,
        mesh,
        control_rows=min(setting.control_rows, len(tokens)) if groups & CONTROLLED else 0,
        control_size=control_batch(size, len(saes)),
        done=0 if saved is None else saved.rows,
    )

    def calibrating(stage: str, done: int, total: int) -> None:
        checkpoints.stop_early()
        progress(stage, done, total)

    with LMSide(cache, hook, batches, with_final="loss" in groups) as side:
        fixed = Fixed()
        if (
            "reconstruction" in groups
            or batches.control_rows
            or any(sae.input_norm == "expected_average" for sae in saes)
        ):
            # Controls are made from calibration anew while some of their rows are left to do.
            known = saved.calibrated if saved is not None and saved.rows >= batches.control_rows else None
            calibration = calibrate(model, hook, batches, setting.precision, clock, calibrating, side.residual, known)
            fixed.calibrated, fixed.residuals = calibration.result, calibration.residuals or {}
            fixed.mean = calibration.mean
            placed = placed.with_scale(calibration.result.mean_norm)
            if batches.done < batches.control_rows:
                fixed.controls = fit_controls(model, hook, placed, calibration, setting.seed, setting.precision, clock)
        if "loss" in groups:
            fixed.zero = constant_zero(model, hook, batches, setting.precision, clock)
        state = _main_pass(model, placed, hook, batches, fixed, side, setting, clock, progress, checkpoints, saved)
    checkpoints.done(hook.name, state)
    return _measured(state)


def _measured(state: PassState) -> Measured:
    """A pass that is through all rows."""
    table, controls = state.table.with_variance(), state.controls
    if controls is not None:
        shared = {name: column[: controls.n_rows] for name, column in table.rows.items()}
        controls = Table(shared, controls.saes, {}, ())
    calibrated = 0 if state.calibrated is None else state.calibrated.tokens
    return Measured(table, controls, state.size, calibrated, state.compile_s, state.run_s)


@dataclass
class Fixed:
    """What the main pass is given: mean of x, zero ablation, controls, and residual streams that are at hand already.

    `residuals` are those of each batch, by its first row; they are let go as they are used.
    """

    calibrated: Calibrated | None = None
    mean: Array | None = None
    zero: Array | None = None
    controls: Controls | None = None
    residuals: dict[int, Array] = field(default_factory=dict)


def _main_pass(
    model: Model,
    placed: Dictionaries,
    hook: Hook,
    batches: Batches,
    fixed: Fixed,
    side: LMSide,
    setting: Setting,
    clock: Clock,
    progress: Progress,
    checkpoints: Checkpoints,
    saved: PassState | None,
) -> PassState:
    """All batches that are not done yet → the state of the pass when all are."""
    n_saes, tokens, mesh = len(placed.saes), batches.tokens, batches.mesh

    def step(counts, shared, per_row):
        arrays, saes, block, mean, zero, controls = shared
        tokens, masks, known, row_ids = per_row
        out = batch_statistics(
            model.whole(arrays),
            saes,
            tokens,
            hook=hook.at(block),
            masks=masks,
            mean=mean,
            zero=zero,
            known=known,
            controls=controls,
            row_ids=row_ids,
            groups=setting.groups,
            keep=side.incomplete,
            mesh=mesh,
            precision=setting.precision,
        )
        # A line is short: every process gets all of them.
        lines = lax.with_sharding_constraint((out.rows, out.saes, out.vectors), NamedSharding(mesh, P()))
        return tuple(map(merge_counts, counts, out.latents)), lines, out.known

    def fresh_counts():
        return placed.no_counts() if "latents" in setting.groups else ()

    everything = Collector(None if saved is None else saved.table)
    of_controls = Collector(None if saved is None else saved.controls)
    pending = []

    def collect(batch: Batch, lines, found: Known) -> None:
        rows, columns, vectors = lines
        everything.add(rows, {name: column[:n_saes] for name, column in columns.items()}, vectors, batch.n_rows)
        if batch.control:
            of_controls.add(rows, columns, {}, batch.n_rows)
        side.keep(batch, found)
        progress("measuring", batch.n_rows * tokens.shape[1], tokens.size)

    def settle() -> None:
        jax.block_until_ready((counts, [lines for _, lines, _ in pending]))

    def state() -> PassState:
        while pending:
            collect(*pending.pop(0))
        controls = None if of_controls.empty else of_controls.table()
        host = placed.fetch(counts) if n_done % FLUSH_EVERY else ()  # else they are in the table
        times = clock.compile_s, clock.run_s()
        return PassState(everything.table(), controls, host, n_done, batches.size, fixed.calibrated, *times)

    program, counts, n_done = Programs(jax.jit(step, donate_argnums=0), clock), fresh_counts(), 0
    if saved is not None:
        n_done, counts = saved.batches, placed.put(saved.counts) if saved.counts else counts
        progress("measuring", batches.done * tokens.shape[1], tokens.size)
    block = replicate(jnp.int32(hook.block), mesh)
    for batch in batches:
        if not batch.control:
            fixed.controls = None  # up to three times as large as the SAEs
        known = side.known(batch)
        if batch.start in fixed.residuals:
            known = known._replace(residual=fixed.residuals.pop(batch.start))
        if "curve" in setting.groups:  # the clean stream runs in any case
            known = known._replace(final=None)
        shared = model.arrays, placed.saes, block, fixed.mean, fixed.zero, fixed.controls
        counts, lines, found = program(batch.control, counts, shared, (batch.tokens, batch.masks, known, batch.row_ids))
        pending.append((batch, lines, found))
        if len(pending) > 1:
            collect(*pending.pop(0))
        n_done += 1
        if n_done % FLUSH_EVERY == 0:
            everything.add_latents(placed.fetch(counts))
            counts = fresh_counts()
        if batch.start + batch.n_rows < len(tokens):
            checkpoints.offer(hook.name, state, settle)
    everything.add_latents(placed.fetch(counts))
    counts = ()
    return state()
