"""`jsaeval compare`, `jsaeval report` and `jsaeval show`: what only reads what is there."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jsaeval.cli.files import check_file, write_json
from jsaeval.errors import InputError
from jsaeval.report.compared import compared, show_compared
from jsaeval.report.describe import describe
from jsaeval.report.latent_records import read_records, write_feature_data, write_latents
from jsaeval.report.page import page
from jsaeval.report.saebench import Written, write_saebench
from jsaeval.report.tidy import tidy
from jsaeval.run.compare import compare as compare_folders
from jsaeval.run.folder import PAGE, read_report, write_rendered


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
    """Make the page, report.csv and report.parquet of a run again, or result files of SAEBench."""

    folder: tyro.conf.Positional[str]
    """The folder of a run or of probes."""
    format: Literal["html", "saebench", "saedashboard"] = "html"
    """The pages and the tables; or result files of SAEBench 0.6 in FOLDER/saebench; or explained latents as feature
    data of SAEDashboard and Neuronpedia in FOLDER/saedashboard."""


@dataclass(frozen=True)
class Show:
    """Show what an SAE or a language model is: shapes, activation, hook, where it came from."""

    name: tyro.conf.Positional[str]
    """A name, a file or a folder."""


def compare(command: Compare) -> int:
    """Print the differences; returns the exit code."""
    if command.out is not None:
        check_file("--out", command.out)
    second = None if command.folder_b is None else Path(command.folder_b)
    pairs = compare_folders(Path(command.folder_a), second, command.sae_a, command.sae_b, command.seed)
    show_compared(pairs, Console(width=None if sys.stdout.isatty() else 120))
    if command.out is not None:
        write_json(command.out, compared(pairs))
    return 0


def report(command: Report) -> int:
    """Write the page again, or files for another tool; returns the exit code."""
    folder = Path(command.folder)
    if command.format != "html":
        written = write_saebench(folder) if command.format == "saebench" else _saedashboard(folder)
        for note in written.notes:
            print(f"jsaeval: {note}", file=sys.stderr)
        for kind in dict.fromkeys(path.parent for path in written.paths):
            print(kind)
        return 0
    made = read_report(folder)
    if "explanations" in made:
        write_latents(folder, read_records(folder), made)
    write_rendered(folder, page(made), tidy(made))
    print(folder / PAGE)
    return 0


def _saedashboard(folder: Path) -> Written:
    made = read_report(folder)
    if "explanations" not in made:
        raise InputError(f"{folder}: holds no explanations; jsaeval explain --out {folder} makes them")
    return write_feature_data(folder, read_records(folder), made)


def show(command: Show) -> int:
    """Print what it is; returns the exit code."""
    print(describe(command.name))
    return 0
