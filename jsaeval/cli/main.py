"""The commands.

Exit codes: 0 done; 2 bad input, nothing was evaluated; 3 some SAEs failed, the others finished; 130 and 143 stopped by
SIGINT and SIGTERM.
"""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import jax
import tyro

from jsaeval import processes
from jsaeval.cli.explain import Explain, explain_command
from jsaeval.cli.plan import Sizing, size
from jsaeval.cli.probe import ProbeTasks, probe_command
from jsaeval.cli.rate_prepare import RatePrepare, rate_prepare
from jsaeval.cli.rate_results import RateExport, RateImport, RateReport, rate_export, rate_import, rate_report
from jsaeval.cli.rate_serve import RateServe, rate_serve
from jsaeval.cli.reading import Compare, Report, Show, compare, report, show
from jsaeval.cli.run import Run, run
from jsaeval.errors import InputError, nearest
from jsaeval.run.plan import read_config


# Name → what its flags are, and what it does.
COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "run": (Run, run),
    "plan": (Sizing, size),
    "compare": (Compare, compare),
    "probe": (ProbeTasks, probe_command),
    "explain": (Explain, explain_command),
    "rate prepare": (RatePrepare, rate_prepare),
    "rate serve": (RateServe, rate_serve),
    "rate report": (RateReport, rate_report),
    "rate export": (RateExport, rate_export),
    "rate import": (RateImport, rate_import),
    "report": (Report, report),
    "show": (Show, show),
}
_NEED_AN_ARGUMENT = (Compare, Report, Show, RateServe, RateReport, RateExport, RateImport)
# First words of commands of two words.
_FAMILIES = {name.split()[0] for name in COMMANDS if " " in name}


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
        _, execute = COMMANDS[which(argv)[0]]
        return execute(command)
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


def which(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the command, of one word or two, and the words behind it.

    Raises:
        InputError: there is none of that name.
        SystemExit: with code 0 after `--help` behind the first of two words.
    """
    first, *rest = argv
    if first in COMMANDS:
        return first, rest
    if first not in _FAMILIES:
        raise InputError(f"{first!r}: no such command{nearest(first, [name.split()[0] for name in COMMANDS])}")
    family = {name.split()[1]: name for name in COMMANDS if name.startswith(f"{first} ")}
    if rest and rest[0] in ("-h", "--help"):
        print(_overview(family.values()))
        raise SystemExit(0)
    if not rest or rest[0] not in family:
        said = f"{first} {rest[0]}: no such command" if rest else f"{first}: what?"
        raise InputError(said + nearest(rest[0] if rest else "", family))
    return family[rest[0]], rest[1:]


def parse(argv: Sequence[str]) -> Any:
    """The command with its values.

    Raises:
        InputError: no such command, flag or value.
        SystemExit: with code 0 after `--help`.
    """
    name, rest = which(argv)
    kind, _ = COMMANDS[name]
    flags = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(kind)}
    flags |= {f"--no-{f.name.replace('_', '-')}" for f in dataclasses.fields(kind) if isinstance(f.default, bool)}
    helped = {"-h", "--help"} & set(rest)
    if kind in _NEED_AN_ARGUMENT and not any(not word.startswith("-") for word in rest) and not helped:
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
    return " ".join(" ".join(lines or [box]).split())


def _overview(names: Iterable[str] = tuple(COMMANDS)) -> str:
    lines = [f"  jsaeval {name:12} {COMMANDS[name][0].__doc__}" for name in names]
    return "\n".join(
        ["jsaeval evaluates sparse autoencoders.", "", *lines, "", "jsaeval COMMAND --help lists the flags."]
    )


def _end_without(gone: Sequence[int], error: Exception) -> NoReturn:
    """End at once: the ordinary way out waits for processes that are gone."""
    who, why = ", ".join(map(str, gone)), str(error).partition("\n")[0]
    print(f"jsaeval: process {who} of {processes.count()} is gone ({why}); start all with --resume", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


def entry() -> None:
    """The console script."""
    sys.exit(main())
