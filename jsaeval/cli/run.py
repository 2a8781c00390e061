"""`jsaeval run`."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from jsaeval import processes
from jsaeval.cache import keep_programs
from jsaeval.errors import InputError
from jsaeval.lm.load import load_lm
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import make_mesh
from jsaeval.report.json_report import report
from jsaeval.report.page import page
from jsaeval.report.progress import Progress
from jsaeval.report.terminal import show_report
from jsaeval.report.tidy import tidy
from jsaeval.run.checkpoint import FOLDER as CHECKPOINTS
from jsaeval.run.checkpoint import Checkpoints, Ended, Stopped, unfinished
from jsaeval.run.engine import Setting
from jsaeval.run.evaluate import Failed, Results, evaluate
from jsaeval.run.folder import PAGE, REPORT, claim, ended, read_report, write, write_rendered
from jsaeval.run.plan import Plan
from jsaeval.run.saes import find_saes, load_saes, shipped
from jsaeval.run.stop import stop_signal
from jsaeval.sae.module import SAE


@dataclass(frozen=True)
class Run(Plan):
    """Evaluate sparse autoencoders in a language model."""

    config: str | None = None
    """TOML or YAML file with values for these flags; flags on the command line win."""


def run(command: Run) -> int:
    """Evaluate; returns the exit code."""
    plan = Plan(**{field.name: getattr(command, field.name) for field in dataclasses.fields(Plan)})
    plan.check()
    names, notes = find_saes(plan.sae or shipped(plan.lm))
    plan = dataclasses.replace(plan, sae=names if plan.sae else ())
    processes.start(plan.processes)
    keep_programs()
    folder = Path(processes.from_first(lambda: str(claim(plan))))
    try:
        made = _measured(plan, names, notes, folder)
    except Ended:
        made = processes.from_first(lambda: read_report(folder))
        _say(f"{folder}: this run came to its end before; its report again")
    except (Stopped, KeyboardInterrupt) as stop:
        kept = f"add --resume --out {folder} to go on" if unfinished(folder) else "nothing was written"
        _say(f"{'stopped' if isinstance(stop, Stopped) else 'interrupted'}; {kept}")
        return 143 if isinstance(stop, Stopped) else 130
    if processes.is_first():
        write_rendered(folder, page(made), tidy(made))
        show_report(made, Console(width=None if sys.stdout.isatty() else 120))
        print(f"\n{folder / REPORT}\n{folder / PAGE}")
    return 3 if any("error" in sae for sae in made["saes"]) else 0


def _say(line: str) -> None:
    if processes.is_first():
        print(f"jsaeval: {line}", file=sys.stderr)


def _measured(plan: Plan, names: Sequence[str], notes: Sequence[str], folder: Path) -> dict[str, Any]:
    """The report of a run, when it and the tables are in the folder."""
    before = processes.from_first(lambda: ended(folder))
    with Progress(quiet=not processes.is_first()) as progress, stop_signal() as stop:
        home, identity = folder / CHECKPOINTS, plan.identity()
        checkpoints = Checkpoints(home, plan.checkpoint_every, identity, plan.resume, before, stop, progress.say)
        for note in notes:
            progress.say(note)
        progress.say(f"loading {plan.lm}")
        try:
            mesh = make_mesh(*plan.mesh_shape())
            lm = load_lm(plan.lm, plan.dtype, mesh)
            with _on_host():  # until they are split over the devices
                loaded = load_saes(names, plan.hook, plan.dtype, lm)
            results = _evaluated(plan, lm, loaded, mesh, checkpoints, progress)
        except InputError:
            if not checkpoints.opened:  # the other processes wait for this one
                processes.agree(None)
            raise
        made = report(results, dataclasses.asdict(plan))
        if processes.is_first():
            made = write(folder, plan, made, results)
    return made


def _evaluated(
    plan: Plan,
    lm: HostLM,
    loaded: Sequence[SAE | Failed],
    mesh: Mesh,
    checkpoints: Checkpoints,
    progress: Progress,
) -> Results:
    """Results of the SAEs that could be loaded, and the failures of the others, in the order of `loaded`."""
    good = [entry for entry in loaded if isinstance(entry, SAE)]
    if not good:
        raise InputError("; ".join(entry.error for entry in loaded if isinstance(entry, Failed)))
    controls = plan.control_rows if plan.controls else 0
    results = evaluate(
        lm,
        good,
        corpus=plan.corpus,
        tokens=plan.tokens,
        rows=plan.rows,
        context=plan.context,
        hook=plan.hook,
        metric_mask=plan.metric_mask,
        splice_mask=plan.splice_mask,
        setting=Setting(plan.batch, plan.groups(), plan.precision, controls, plan.seed),
        mesh=mesh,
        lm_cache=None if plan.lm_cache == "off" else plan.lm_cache,
        checkpoints=checkpoints,
        progress=progress,
    )
    done = iter(results.entries)
    entries = tuple(next(done) if isinstance(entry, SAE) else entry for entry in loaded)
    return dataclasses.replace(results, entries=entries)


def _on_host() -> AbstractContextManager:
    """New arrays in the memory of the host, where JAX has a CPU beside the accelerators."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return contextlib.nullcontext()
