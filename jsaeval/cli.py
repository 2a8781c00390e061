"""The commands.

Exit codes: 0 done; 2 bad input, nothing was evaluated; 3 some SAEs failed, the others finished; 130 and 143 stopped by
SIGINT and SIGTERM.
"""

import contextlib
import dataclasses
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import tyro
from jax.sharding import Mesh
from rich.console import Console

from jsaeval import processes
from jsaeval.cache import atomic, keep_programs
from jsaeval.errors import InputError, nearest
from jsaeval.lm.load import load_lm
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import make_mesh
from jsaeval.report.compared import compared, show_compared
from jsaeval.report.describe import describe
from jsaeval.report.json_report import report
from jsaeval.report.page import page
from jsaeval.report.progress import Progress
from jsaeval.report.terminal import show_report
from jsaeval.report.tidy import tidy
from jsaeval.run.checkpoint import FOLDER as CHECKPOINTS
from jsaeval.run.checkpoint import Checkpoints, Ended, Stopped, unfinished
from jsaeval.run.compare import compare
from jsaeval.run.engine import Setting
from jsaeval.run.evaluate import Failed, Results, evaluate
from jsaeval.run.folder import PAGE, REPORT, claim, ended, read_report, write, write_rendered
from jsaeval.run.plan import Plan, read_config
from jsaeval.run.saes import find_saes, load_saes
from jsaeval.run.stop import stop_signal
from jsaeval.sae.load import SHIPPED
from jsaeval.sae.module import SAE


@dataclass(frozen=True)
class Run(Plan):
    """Evaluate sparse autoencoders in a language model."""

    config: str | None = None
    """TOML or YAML file with values for these flags; flags on the command line win."""


@dataclass(frozen=True)
class Show:
    """Show what an SAE or a language model is: shapes, activation, hook, where it came from."""

    name: tyro.conf.Positional[str]
    """A name, a file or a folder."""


@dataclass(frozen=True)
class Compare:
    """Is one SAE better than another? Paired differences on the same rows, with intervals."""

    folder_a: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER_A")]
    """The folder of a run."""
    folder_b: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[FOLDER_B]")] = None
    """The folder of another run on the same rows. Default: two SAEs of the first."""
    sae_a: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Which SAE of the first folder. Default: the only one."""
    sae_b: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Which SAE of the second folder. Default: the only one, or those of the same names."""
    seed: int = 0
    """Of the bootstrap."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file for the numbers."""


@dataclass(frozen=True)
class Report:
    """Make the page, report.csv and report.parquet of a run again, from its report.json."""

    folder: tyro.conf.Positional[str]
    """The folder of a run."""


COMMANDS: dict[str, type] = {"run": Run, "compare": Compare, "report": Report, "show": Show}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"jsaeval {metadata.version('jsaeval')}")
        return 0
    try:
        command = parse(argv)
        match command:
            case Run():
                return _run(command)
            case Compare():
                return _compare(command)
            case Report():
                return _report(command)
        return _show(command)
    except InputError as error:
        print(f"jsaeval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jsaeval: interrupted; nothing was written", file=sys.stderr)
        return 130
    except jax.errors.JaxRuntimeError as error:
        gone = processes.missing() if processes.count() > 1 else []
        if not gone:
            raise
        _end_without(gone, error)


def parse(argv: list[str]) -> Run | Compare | Report | Show:
    """The command with its values.

    Raises:
        InputError: no such command, flag or value.
        SystemExit: with code 0 after `--help`.
    """
    name, *rest = argv
    if name not in COMMANDS:
        raise InputError(f"{name!r}: no such command{nearest(name, COMMANDS)}")
    kind = COMMANDS[name]
    flags = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(kind)}
    flags |= {f"--no-{f.name.replace('_', '-')}" for f in dataclasses.fields(kind) if isinstance(f.default, bool)}
    helped = {"-h", "--help"} & set(rest)
    if kind in (Compare, Report, Show) and not any(not word.startswith("-") for word in rest) and not helped:
        wanted = dataclasses.fields(kind)[0]
        raise InputError(f"{name}: {wanted.name.upper()} is missing; jsaeval {name} --help says what it is")
    for word in (word.partition("=")[0] for word in rest):
        if word.startswith("--") and word.replace("_", "-") not in {*flags, "--help"}:
            raise InputError(f"{name} {word}: no such flag{nearest(word, sorted(flags))}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command = tyro.cli(kind, prog=f"jsaeval {name}", args=rest)
            if isinstance(command, Run) and command.config is not None:
                values: Any = read_config(Path(command.config)) | {"config": command.config}
                if command.sae:  # tyro would append them to those of the file
                    values["sae"] = ()
                command = tyro.cli(kind, prog=f"jsaeval {name}", args=rest, default=Run(**values))
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise InputError(f"{name}: {_one_line(complaint.getvalue())}") from None
    return command


def _one_line(box: str) -> str:
    """tyro's boxed complaint as one line: what stands above the first rule inside the box."""
    lines = []
    for line in re.findall(r"│ (.*?) *│", box):
        if set(line) == {"─"}:
            break
        lines.append(line)
    return " ".join(lines) or box.strip().replace("\n", " ")


def _overview() -> str:
    lines = [f"  jsaeval {name:8} {kind.__doc__}" for name, kind in COMMANDS.items()]
    return "\n".join(
        ["jsaeval evaluates sparse autoencoders.", "", *lines, "", "jsaeval COMMAND --help lists the flags."]
    )


def _run(command: Run) -> int:
    plan = Plan(**{field.name: getattr(command, field.name) for field in dataclasses.fields(Plan)})
    plan.check()
    names, notes = find_saes(plan.sae or _shipped(plan.lm))
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
            write(folder, plan, made, results)
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


def _end_without(gone: Sequence[int], error: Exception) -> NoReturn:
    """End at once: the ordinary way out waits for processes that are gone."""
    who, why = ", ".join(map(str, gone)), str(error).partition("\n")[0]
    print(f"jsaeval: process {who} of {processes.count()} is gone ({why}); start all with --resume", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


def _shipped(lm: str) -> tuple[str, ...]:
    if lm not in SHIPPED:
        raise InputError(f"--sae is missing: no SAE ships with {lm!r} (only with {', '.join(SHIPPED)})")
    return (lm,)


def _compare(command: Compare) -> int:
    if command.out is not None and not Path(command.out).parent.is_dir():
        raise InputError(f"--out {command.out}: there is no folder {Path(command.out).parent}")
    second = None if command.folder_b is None else Path(command.folder_b)
    pairs = compare(Path(command.folder_a), second, command.sae_a, command.sae_b, command.seed)
    show_compared(pairs, Console(width=None if sys.stdout.isatty() else 120))
    if command.out is not None:
        with atomic(Path(command.out)) as temporary:
            temporary.write_text(json.dumps(compared(pairs), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(command.out)
    return 0


def _report(command: Report) -> int:
    folder = Path(command.folder)
    made = read_report(folder)
    write_rendered(folder, page(made), tidy(made))
    print(folder / PAGE)
    return 0


def _show(command: Show) -> int:
    print(describe(command.name))
    return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
