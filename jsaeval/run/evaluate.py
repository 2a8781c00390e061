"""`evaluate`: an LM, SAEs and text → `Results`."""

import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jsaeval import processes
from jsaeval.corpus.masks import MaskName, Masks, make_masks
from jsaeval.corpus.rows import Rows, check_tokens, text_rows, token_rows
from jsaeval.errors import InputError
from jsaeval.forward.batch import BatchStatistics, check_widths, default_hook
from jsaeval.forward.splice import hook_width
from jsaeval.hooks import Hook, parse_hook
from jsaeval.lm.card import card_of
from jsaeval.lm.load import load_tokenizer
from jsaeval.lm.protocol import HostLM, check_host
from jsaeval.mesh import make_mesh
from jsaeval.metrics.compute import Facts, Value, block_values, position_values, scalar_values
from jsaeval.metrics.floors import RunControls, SAEControls, run_controls, sae_controls
from jsaeval.metrics.latents import LatentTable, latent_table
from jsaeval.metrics.registry import REGISTRY
from jsaeval.run.calibration import Progress
from jsaeval.run.checkpoint import Checkpoints, identity
from jsaeval.run.engine import Measured, Setting, measure
from jsaeval.run.lm_cache import LMCache
from jsaeval.run.provenance import about_lm, surroundings
from jsaeval.sae.module import SAE
from jsaeval.stats.table import Collector, Table


DEFAULT_ROWS = 16


@dataclass(frozen=True)
class SAEResult:
    """One SAE's part of the results. `table` and `index` locate its lines in the statistics table.

    `controls` is None in a run without controls.
    """

    sae: SAE
    hook: Hook
    metrics: dict[str, Value]
    by_position: dict[str, dict[str, float]]
    by_block: dict[str, dict[str, float]]
    controls: SAEControls | None
    latents: LatentTable | None
    table: Table
    index: int
    calibration_tokens: int

    @property
    def name(self) -> str:
        return self.sae.card.name

    def __getitem__(self, metric: str) -> float:
        return self.metrics[metric].value


@dataclass(frozen=True)
class Failed:
    """An SAE that could not be evaluated, and why, in one line."""

    name: str
    error: str


@dataclass(frozen=True)
class Results:
    """Everything that a run measured.

    `entries` are in the order in which the SAEs were given; `controls` are those of each hook, by its name.
    """

    entries: tuple[SAEResult | Failed, ...]
    controls: dict[str, RunControls]
    rows: Rows
    masks: Masks
    mask_names: dict[str, str]
    lm: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def saes(self) -> tuple[SAEResult, ...]:
        """Those that were evaluated."""
        return tuple(entry for entry in self.entries if isinstance(entry, SAEResult))


def evaluate(
    lm: HostLM,
    saes: Sequence[SAE],
    *,
    corpus: str = "ag-news",
    tokens: np.ndarray | str | Path | None = None,
    rows: int | None = None,
    context: int = 128,
    hook: str | None = None,
    metric_mask: MaskName = "no-special",
    splice_mask: MaskName | None = None,
    setting: Setting = Setting(),
    mesh: Mesh | None = None,
    lm_cache: str | Path | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress = lambda stage, tokens, total: None,
) -> Results:
    """Evaluate SAEs in a language model.

    Args:
        lm: from `load_lm`, or anything that satisfies `jsaeval.lm.protocol.HostLM`.
        saes: SAEs; those at the same hook share one pass.
        corpus: name, file or folder of text, if `tokens` is not given.
        tokens: ids (row, position), or the path of a `.npy` file with them.
        rows: how many rows; default 16 of a corpus, all of `tokens`.
        context: positions of a row made from text.
        hook: overrides the hook on the cards of the SAEs.
        metric_mask: which tokens enter a mean.
        splice_mask: at which tokens the SAE takes over; default as `metric_mask`.
        setting: batch size, metric groups, precision, controls, seed.
        mesh: devices; default all of them on the data axis.
        lm_cache: a folder for the LM's side of the run, from which another run at the same hook takes it.
        checkpoints: where the run keeps its state, and from where it may go on.
        progress: see `jsaeval.run.engine.measure`.

    Returns:
        Results with an entry per SAE; one whose sums are NaN or Inf is `Failed` and leaves the others alone.

    Raises:
        InputError: something does not fit, or every SAE failed; nothing was evaluated.
        Stopped: the checkpoints were asked to stop.
    """
    start = time.perf_counter()
    if not saes:
        raise InputError("no SAE to evaluate")
    check_host(lm)
    saes = _named_apart(saes)
    mesh = make_mesh() if mesh is None else mesh
    hooks = [hook_of(sae, hook, lm) for sae in saes]
    data = open_rows(lm, corpus, tokens, rows, context)
    masks = make_masks(np.asarray(data.tokens), card_of(lm).special_ids, data.pad, metric_mask, splice_mask)

    if lm_cache is not None and processes.count() > 1:
        raise InputError("lm_cache: written by one process only; leave it out where a run has several")
    cache = None if lm_cache is None else LMCache.of(Path(lm_cache), lm, setting.precision, data.sha256())
    checkpoints = checkpoints or Checkpoints()
    hashes = identity(lm, data.sha256(), saes)
    checkpoints.open(hashes)

    results: dict[int, SAEResult | Failed] = {}
    passes, controls = [], {}
    for at in dict.fromkeys(hooks):
        group = [i for i, h in enumerate(hooks) if h == at]
        chosen = [saes[i] for i in group]
        passes.append(measure(lm, chosen, at, data.tokens, masks, mesh, setting, progress, cache, checkpoints))
        facts = Facts(saes[group[0]].d_out, int(at.prefix_stop))
        for index, i in enumerate(group):
            why = _unsound(passes[-1].table, index, at)
            place = index, len(group)
            results[i] = (
                Failed(saes[i].card.name, why) if why else _result(saes[i], at, facts, place, passes[-1], setting)
            )
        if any(isinstance(results[i], SAEResult) for i in group):
            controlled = passes[-1].controls or passes[-1].table
            controls[at.name] = run_controls(controlled, len(group), facts, setting.seed)
    failed = [entry for entry in results.values() if isinstance(entry, Failed)]
    if len(failed) == len(saes):
        raise InputError("; ".join(f"{entry.name}: {entry.error}" for entry in failed))
    names = {"metric": metric_mask, "splice": splice_mask or metric_mask}
    provenance = _provenance(passes, data, mesh, setting, lm)
    provenance |= {"hashes": hashes, "wall_s": time.perf_counter() - start, "resumed_rows": checkpoints.resumed_rows}
    entries = tuple(results[i] for i in range(len(saes)))
    return Results(entries, controls, data, masks, names, about_lm(lm), provenance)


def _named_apart(saes: Sequence[SAE]) -> list[SAE]:
    """The SAEs; one that has the name of another before it gets a number."""
    seen: set[str] = set()
    out = []
    for sae in saes:
        name = sae.card.name
        options = itertools.chain([name], (f"{name} ({count})" for count in itertools.count(2)))
        unique = next(option for option in options if option not in seen)
        seen.add(unique)
        out.append(sae if unique == name else dataclasses.replace(sae, card=dataclasses.replace(sae.card, name=unique)))
    return out


def _unsound(table: Table, index: int, hook: Hook) -> str | None:
    """Why the sums of an SAE cannot be used, in one line."""
    if shared := table.not_finite():
        column, row = next(iter(shared.items()))
        return f"the LM gives NaN or Inf at {hook.name} ({column}, first in row {row}); try --dtype float32"
    if own := table.not_finite(index):
        row = min(own.values())
        return f"its results are NaN or Inf ({', '.join(own)}; first in row {row}); look at the size of its weights"
    return None


def hook_of(sae: SAE, override: str | None, lm: HostLM) -> Hook:
    """The hook that an SAE reads, checked against the LM.

    Raises:
        InputError: no hook is known, the LM does not have it, or the SAE has another width.
    """
    name, text = sae.card.name, override or sae.card.hooks
    if override and sae.card.hook_out is not None and ":" not in override:
        raise InputError(f"{name}: a transcoder; --hook is what it reads and what it predicts, e.g. {sae.card.hooks}")
    if text is None:
        raise InputError(f"{name}: does not say which hook it reads; give --hook, e.g. blocks.9.hook_resid_post")
    hook = parse_hook(text, lm.n_blocks, card_of(lm).family)
    try:
        read, written = (hook_width(lm, site) for site in (hook.reads or hook.site, hook.site))
    except InputError as error:
        raise InputError(f"{name}: hook {text!r}: {error}") from None
    check_widths(sae, hook, read, written)
    return hook


def open_rows(
    lm: HostLM,
    corpus: str,
    tokens: np.ndarray | str | Path | None = None,
    rows: int | None = None,
    context: int = 128,
) -> Rows:
    """The rows of a run; arguments as for `evaluate`.

    Raises:
        InputError: a number that cannot be meant, a corpus or token array that cannot be read or does not fit the LM.
    """
    for name, value, least in (("rows", rows, 1), ("context", context, 2)):
        if value is not None and value < least:
            raise InputError(f"{name} = {value}: at least {least} is needed")
    card = card_of(lm)
    limit = sys.maxsize if card.context is None else card.context
    if tokens is None:
        if context > limit:
            raise InputError(f"context = {context}: the LM's context is {limit}")
        data = text_rows(corpus, load_tokenizer(lm), rows or DEFAULT_ROWS, context)
    elif isinstance(tokens, (str, Path)):
        data = token_rows(Path(tokens), rows, card.pad)
    else:
        data = Rows("tokens", np.asarray(tokens)[:rows], None, card.pad)
    check_tokens(data, lm.vocab, limit)
    return data


def _result(
    sae: SAE, hook: Hook, facts: Facts, place: tuple[int, int], measured: Measured, setting: Setting
) -> SAEResult:
    """One SAE's part of a pass; `place` is its index among the SAEs of the pass, and their number."""
    table, groups, seed = measured.table, setting.groups, setting.seed
    (index, n_saes), controls = place, None
    latents = latent_table(sae, table.latents[index], table.n_tokens) if "latents" in groups else None
    metrics = scalar_values(table, index, facts, seed, latents)
    if measured.controls is not None:
        controls = sae_controls(measured.controls, index, n_saes, facts, seed)
        metrics |= controls.compared
    return SAEResult(
        sae=sae,
        hook=hook,
        metrics={id: metrics[id] for id in REGISTRY if id in metrics},
        by_position=position_values(table, index, facts),
        by_block=block_values(table, index, facts) if "curve" in groups else {},
        controls=controls,
        latents=latents,
        table=table,
        index=index,
        calibration_tokens=measured.calibration_tokens,
    )


def _provenance(passes: list[Measured], data: Rows, mesh: Mesh, setting: Setting, lm: HostLM) -> dict[str, Any]:
    run_s = sum(p.run_s for p in passes)
    return {
        **surroundings(lm, mesh, setting.precision),
        "batch": passes[0].batch,
        "corpus_sha256": data.sha256(),
        "compile_s": sum(p.compile_s for p in passes),
        "tokens_per_s": data.tokens.size * len(passes) / run_s,
    }


def summarise(
    lm: HostLM, saes: Sequence[SAE], statistics: Sequence[BatchStatistics], *, hook: Hook | None = None, seed: int = 0
) -> list[dict[str, Value]]:
    """Metrics of SAEs from what `batch_statistics` returned for some batches.

    This is where the host waits for the devices.

    Args:
        lm: the LM of the batches.
        saes: the SAEs of the batches, in the same order.
        statistics: one or more batches, all with the same `mean` and `groups`.
        hook: default from the card of the first SAE.
        seed: of the bootstrap over rows.
    """
    collector = Collector()
    for batch in statistics:
        collector.add(batch.rows, batch.saes, batch.vectors, n_rows=len(batch.rows["n"]))
        collector.add_latents(batch.latents)
    table, hook = collector.table().with_variance(), hook or default_hook(saes)
    values = []
    for i, sae in enumerate(saes):
        latents = latent_table(sae, table.latents[i], table.n_tokens) if table.latents else None
        values.append(scalar_values(table, i, Facts(sae.d_out, int(hook.prefix_stop)), seed, latents))
    return values
