"""`jsaeval probe`: can a concept be read off the latents of an SAE, or off any features?"""

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from jsaeval import processes
from jsaeval.cache import cache_dir, keep_programs
from jsaeval.cli.features import probe_features
from jsaeval.cli.files import check_file, write_json
from jsaeval.cli.sections import OverLM, opened, stopped
from jsaeval.corpus.tasks import DEFAULT, Task, open_tasks
from jsaeval.errors import InputError, nearest
from jsaeval.probes.evaluate import Asked, context_of, probe
from jsaeval.probes.features import Pool
from jsaeval.probes.fit import KINDS, KS, PENALTIES, STRENGTHS, Kind
from jsaeval.probes.logistic import Penalty
from jsaeval.probes.summary import summarise
from jsaeval.probes.task import Which
from jsaeval.report.page import page
from jsaeval.report.probes import probe_loss, probes_frame, show_probes, tasks_to_json
from jsaeval.report.progress import Progress
from jsaeval.report.tidy import tidy
from jsaeval.run.checkpoint import Stopped
from jsaeval.run.folder import PAGE, PROBES, REPORT, SCHEMA, write_rendered
from jsaeval.run.provenance import about_lm, about_sae, surroundings
from jsaeval.run.section_folder import SectionFolder
from jsaeval.run.stop import stop_signal


@dataclass(frozen=True)
class ProbeTasks(OverLM):
    """Probe latents for concepts: can they be read off one latent, off a few, off all of them?"""

    tasks: str = ",".join(DEFAULT)
    """Tasks, separated by commas: names or groups of the 113 of sae-probes, all; .csv, .tsv, .jsonl, .parquet files;
    data sets, saved (FOLDER@SPLIT) or of the hub (OWNER/NAME)."""
    text_column: str = "text"
    """Column of the text in such a file or data set."""
    label_column: str = "label"
    """Column of the label. More than two different labels are one task each, against the rest."""
    features: Annotated[str | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Probe these features instead: arrays x_train, x_test (example, feature), y_train, y_test (example) of 0 and 1."""
    pool: Pool = "last"
    """A text is its last token, or the mean or the maximum over its tokens; encoded first, pooled after."""
    context: int = 128
    """Positions of a text; a longer one keeps its end."""
    examples: int = 1024
    """Of each task, at most; 0: all. A half trains, an eighth chooses the penalty, three eighths test."""
    probes: str = ",".join(KINDS)
    """Which probes, separated by commas."""
    k: tyro.conf.UseAppendAction[tuple[int, ...]] = ()
    """Latents of the k-sparse probes. Repeat for several. Default: 1, 2, 4, ... 512."""
    penalty: Literal["l1", "l2", "both"] = "both"
    """Of the k-sparse probes."""
    lm_cache: Annotated[str, tyro.conf.arg(metavar="auto|off|DIR")] = "auto"
    """Folder that keeps the LM's activations for other SAEs and for --resume. Default: in the cache of the package."""
    resume: bool = False
    """Go on with the probes in --out if there are some, else start."""
    seed: int = 0
    """Of the examples, the validation examples, the random SAE and the bootstrap."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the results, new or of a run of the same LM and SAEs. Default: a fresh one under runs/. With
    --features: a JSON file, or nowhere."""


def probe_command(command: ProbeTasks) -> int:
    """Fit, print and write; returns the exit code.

    Raises:
        InputError: a flag, file or task that cannot be meant.
    """
    which = _which(command)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if command.features is not None:
        if command.out is not None:
            check_file("--out", command.out)
        keep_programs()
        made = probe_features(command.features, which, command.seed, console)
        if command.out is not None:
            write_json(command.out, {"schema": SCHEMA, "probes": made})
        return 0
    for name, least in (("examples", 0), ("context", 2)):
        if getattr(command, name) < least:
            raise InputError(f"--{name} {getattr(command, name)}: at least {least} is needed")
    if processes.launcher() is not None:
        raise InputError("jsaeval probe runs in one process; it uses all devices of its host")
    asked = Asked(which, command.pool, command.context, command.examples or None, command.precision, command.seed)
    tasks = open_tasks(
        [name.strip() for name in command.tasks.split(",") if name.strip()], command.text_column, command.label_column
    )
    if not tasks:
        raise InputError("--tasks is empty; --tasks all, or names and groups of tasks")
    names, notes = command.saes()
    folder = SectionFolder.claim(PROBES, command.out, _identity(command, names), command.resume)
    keep_programs()
    try:
        report = _measured(command, asked, tasks, names, notes, folder)
    except (Stopped, KeyboardInterrupt) as stop:
        return stopped(stop, folder)
    show_probes(report, console)
    print(f"\n{folder.path / REPORT}\n{folder.path / PAGE}")
    return 0


def _measured(
    command: ProbeTasks,
    asked: Asked,
    tasks: list[Task],
    names: tuple[str, ...],
    notes: list[str],
    folder: SectionFolder,
) -> dict[str, Any]:
    """The report, when it is in the folder."""
    start = time.perf_counter()
    with Progress() as progress, stop_signal() as wanted:
        mesh, lm, saes, hook = opened(command, names, notes, folder, progress)
        if hook.reads is not None:
            raise InputError(f"{saes[0].card.name}: a transcoder; probes compare latents with what an SAE reconstructs")
        folder.begin()

        def stop() -> None:
            if wanted():
                raise Stopped

        cache = None if command.lm_cache == "off" else Path(command.lm_cache)
        cache = cache_dir("activations") if command.lm_cache == "auto" else cache
        results = probe(
            lm, saes, hook, tasks, asked, mesh=mesh, cache=cache, folder=folder.path, progress=progress, stop=stop
        )
    summary, shown = summarise(results, asked.seed), [sae.card.name for sae in saes]
    made = tasks_to_json(results, summary, shown)
    settings = {"saes": shown, "hook": hook.name, "strengths": list(STRENGTHS)} | dataclasses.asdict(asked)
    settings["context"] = context_of(lm, asked)
    provenance = {"plan": _identity(command, names)} | surroundings(lm, mesh, command.precision)
    provenance["wall_s"] = time.perf_counter() - start
    made["probe_summary"] = {"settings": settings, "provenance": provenance} | made["probe_summary"]
    about = [about_sae(sae, hook) | {"metrics": probe_loss(summary, i)} for i, sae in enumerate(saes)]
    report = folder.write({"lm": about_lm(lm), "saes": about, "provenance": provenance} | made, probes_frame(made))
    write_rendered(folder.path, page(report), tidy(report))
    return report


def _which(command: ProbeTasks) -> Which:
    kinds = [name.strip() for name in command.probes.split(",") if name.strip()]
    for name in kinds:
        if name not in KINDS:
            raise InputError(f"--probes {name!r}: no such probe{nearest(name, KINDS)}")
    if not kinds:
        raise InputError(f"--probes is empty; known: {', '.join(KINDS)}")
    if any(k < 1 for k in command.k):
        raise InputError(f"--k {min(command.k)}: at least 1 is needed")
    chosen: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind in kinds)
    penalties: tuple[Penalty, ...] = PENALTIES if command.penalty == "both" else (command.penalty,)
    return Which(chosen, tuple(sorted(set(command.k))) or KS, penalties)


def _identity(command: ProbeTasks, names: tuple[str, ...]) -> dict[str, Any]:
    """What two calls must share to be the same."""
    elsewhere = ("out", "lm_cache", "resume", "features")
    values = {key: value for key, value in vars(command).items() if value is not None and key not in elsewhere}
    return values | {"sae": list(names), "k": list(command.k)}
