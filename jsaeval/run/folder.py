"""The folder of a run: refused when it holds another run, and only written when everything is there."""

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jsaeval.cache import atomic
from jsaeval.errors import InputError, one_line
from jsaeval.metrics.registry import REGISTRY
from jsaeval.run.checkpoint import FOLDER as CHECKPOINTS
from jsaeval.run.checkpoint import Identity, clear, difference, unfinished
from jsaeval.run.evaluate import Results
from jsaeval.run.plan import Plan


PLAN, REPORT, PAGE = "plan.toml", "report.json", "report.html"
ROWS, LATENTS = "rows.parquet", "latents.parquet"
CSV, TIDY = "report.csv", "report.parquet"
SCHEMA = 1


@dataclass(frozen=True)
class Section:
    """A part of a report that a command of its own measures, for SAEs and an LM that may have been run before.

    Attributes:
        name: what it holds, in the plural.
        keys: of the report; the last one is there exactly if the section is.
        needs: of the metrics that it adds to each SAE (`jsaeval.metrics.metric.Metric.needs`).
        plan: file that says what was asked for; empty where the section may be made anew at any time.
        table: file with one line for each result.
        parts: folder of what is done before all is; empty where there is none.
    """

    name: str
    keys: tuple[str, ...]
    needs: str
    plan: str
    table: str
    parts: str


PROBES = Section("probes", ("probes", "probe_summary"), "probes", "probe.toml", "probes.parquet", "probes")
EXPLANATIONS = Section(
    "explanations", ("explanations",), "explanations", "explain.toml", "explanations.parquet", "explaining"
)
# Of a study, which says what was asked for. Ratings go on coming in, so that its section is made again and again.
RATINGS = Section("ratings", ("ratings",), "ratings", "", "ratings.parquet", "")
SECTIONS = (PROBES, EXPLANATIONS, RATINGS)
# Pages of single latents, and what they are made of.
LATENT_PAGES, RECORDS = "latents", "explanations.jsonl.gz"


def claim(plan: Plan) -> Path:
    """The folder that a plan may write to. It is not made yet.

    Raises:
        InputError: it holds the run of another plan, or one that did not end and is not to be resumed; or is no folder.
    """
    if plan.out is None:
        return fresh()
    folder = Path(plan.out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: exists and is not a folder")
    kept = folder / PLAN
    if unfinished(folder) and not plan.resume:
        where = folder / CHECKPOINTS
        raise InputError(f"--out {folder}: holds a run that did not end; --resume goes on with it, or delete {where}")
    if kept.exists():
        _check_same(folder, kept, plan)
    elif any((folder / name).exists() for name in (REPORT, ROWS, LATENTS)):
        raise InputError(f"--out {folder}: holds results without their {PLAN}; choose another folder")
    return folder


def fresh() -> Path:
    """A folder under runs/ that does not exist."""
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder, count = Path("runs", stamp), 1
    while folder.exists():
        count += 1
        folder = Path("runs", f"{stamp}-{count}")
    return folder


def _check_same(folder: Path, kept: Path, plan: Plan) -> None:
    try:
        then, now = tomllib.loads(kept.read_text(encoding="utf-8")), tomllib.loads(plan.to_toml())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise InputError(f"--out {folder}: {kept} is not the plan of a run; choose another folder") from None
    if then != now:
        raise InputError(
            f"--out {folder}: holds the run of another plan ({difference(then, now)}); choose another folder"
        )


def ended(folder: Path) -> Identity | None:
    """What the run in a folder is a run of, if it came to its end."""
    if not (folder / REPORT).exists():
        return None
    return read_report(folder)["provenance"].get("hashes", {})


def write(folder: Path, plan: Plan, report: dict[str, Any], results: Results) -> dict[str, Any]:
    """Write the plan, the tables and, last, the report, which is returned; each file appears whole or not at all.

    Checkpoints go; sections that were there stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / PLAN) as temporary:
        temporary.write_text(plan.to_toml(), encoding="utf-8")
    with atomic(folder / ROWS) as temporary:
        rows_frame(results).to_parquet(temporary, index=False)
    if any(result.latents for result in results.saes):
        with atomic(folder / LATENTS) as temporary:
            latents_frame(results).to_parquet(temporary, index=False)
    before = read_report(folder) if (folder / REPORT).exists() else {}
    for section in sections_of(before):  # made from the same LM and SAEs
        report = with_section(report, before, section)
    with atomic(folder / REPORT) as temporary:
        temporary.write_text(to_text(report), encoding="utf-8")
    clear(folder)
    return report


def write_rendered(folder: Path, page: str, tidy: pd.DataFrame) -> None:
    """Write what is made of the report alone: the page and the tables in long form; each file whole or not at all."""
    with atomic(folder / CSV) as temporary:
        tidy.to_csv(temporary, index=False)
    with atomic(folder / TIDY) as temporary:
        tidy.to_parquet(temporary, index=False)
    with atomic(folder / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a run.

    Raises:
        InputError: there is none, or it is not one of this version.
    """
    path = folder / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder}: no {REPORT} in it; the folder of a finished run was expected") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        found = report.get("schema") if isinstance(report, dict) else None
        raise InputError(f"{path}: schema {found!r}, but this version reads schema {SCHEMA}")
    of_run = ("corpus", "masks", "controls")
    needed = ("provenance", "lm", "saes", *(() if sections_of(report) else of_run))
    if missing := [key for key in needed if key not in report]:
        raise InputError(f"{path}: {missing[0]!r} is missing; is it the report of a run?")
    return report


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """A table of a run, `ROWS` or `LATENTS`.

    Raises:
        InputError: it is not there, or damaged.
    """
    path = folder / name
    if not path.is_file():
        raise InputError(f"{folder}: {REPORT} is there, but {name} is not; run it again")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a parquet file ({one_line(error)})") from None


def places_of(names: Sequence[str], folder: str) -> dict[str, str]:
    """Where in a folder things of each SAE are, by its name: of one alone in the folder itself."""
    return {name: folder if len(names) == 1 else f"{folder}/{i}" for i, name in enumerate(names, 1)}


def which(sae: dict[str, Any]) -> tuple[str, str]:
    """What an SAE of a report is: the SHA-256 of its file, and its hook."""
    return sae["source"]["sha256"], sae["hook"]


def sections_of(report: dict[str, Any]) -> list[Section]:
    """The sections that a report has."""
    return [section for section in SECTIONS if section.keys[-1] in report]


def with_section(report: dict[str, Any], other: dict[str, Any], section: Section) -> dict[str, Any]:
    """A report with a section of another, and with the metrics of its SAEs that belong to it, instead of its own."""
    own = {id for id, metric in REGISTRY.items() if metric.needs == section.needs}
    new = {
        which(sae): {id: value for id, value in sae["metrics"].items() if id in own}
        for sae in other["saes"]
        if "error" not in sae
    }
    kept = [{id: value for id, value in sae.get("metrics", {}).items() if id not in own} for sae in report["saes"]]
    saes = [
        sae if "error" in sae else sae | {"metrics": rest | new.get(which(sae), {})}
        for sae, rest in zip(report["saes"], kept, strict=True)
    ]
    return report | {"saes": saes} | {key: other[key] for key in section.keys}


def to_text(report: dict[str, Any]) -> str:
    """A report as JSON; of probes, which may be thousands, each on one line."""
    text = json.dumps(report | ({"probes": []} if "probes" in report else {}), indent=1, allow_nan=False) + "\n"
    lines = ",\n  ".join(json.dumps(own, allow_nan=False) for own in report.get("probes", ()))
    return text.replace('\n "probes": []', f'\n "probes": [\n  {lines}\n ]', 1)


def is_run(report: dict[str, Any]) -> bool:
    """Whether it is the report of a run, and not of probes alone."""
    return "corpus" in report


def finite(tree: Any) -> Any:
    """The same structure with NaN and infinities replaced by None."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def rows_frame(results: Results) -> pd.DataFrame:
    """The statistics table: one line per SAE and row; sums by bucket or block are lists."""
    documents = results.rows.documents
    frames = []
    for result in results.saes:
        table = result.table
        columns = table.rows | {name: column[result.index] for name, column in table.saes.items()}
        frame = {"sae": result.name, "row": np.arange(table.n_rows)}
        if documents is not None:
            frame["documents"] = [np.unique(row[row >= 0]).tolist() for row in documents]
        frame |= {name: column if column.ndim == 1 else column.tolist() for name, column in columns.items()}
        frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def latents_frame(results: Results) -> pd.DataFrame:
    """One line per SAE and latent."""
    frames = []
    for result in results.saes:
        if result.latents is not None:
            frame = {"sae": result.name, "latent": np.arange(result.sae.d_sae)} | vars(result.latents)
            frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)
