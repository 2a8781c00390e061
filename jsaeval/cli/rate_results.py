"""`jsaeval rate report`, `export` and `import`: what raters found, and ratings that come and go as files."""

import dataclasses
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from jsaeval.cli.files import check_file
from jsaeval.errors import InputError
from jsaeval.rating.answers import answers_of
from jsaeval.rating.export import long_form, write_csv, write_parquet
from jsaeval.rating.imported import import_file
from jsaeval.rating.label_studio import write_label_studio
from jsaeval.rating.results import results
from jsaeval.rating.store import Event, Store
from jsaeval.rating.study import ANSWERS, KEY, STUDY, AnswerKey, Study, read_key, read_study, study_folder
from jsaeval.report.page import page
from jsaeval.report.ratings import HUMAN_SCORE, rating_metrics, ratings_frame, ratings_to_json, show_ratings
from jsaeval.report.tidy import tidy
from jsaeval.run.folder import PAGE, RATINGS, REPORT, write_rendered
from jsaeval.run.section_folder import SectionFolder


_LOSS, _L0 = "activation_prediction_loss", "l0"
_Folder = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
_Without = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME")]


@dataclass(frozen=True)
class RateReport:
    """Score what was rated so far: human_score, controls, agreement. Again at any time, while raters go on."""

    folder: _Folder
    """The folder of the study; the section goes into the report in it."""
    seed: int = 0
    """Of the bootstrap."""
    without: _Without = ()
    """A rater to leave out; may be given again."""


@dataclass(frozen=True)
class RateExport:
    """Write the answers of a study to a file, or its tasks for Label Studio."""

    folder: _Folder
    """The folder of the study."""
    format: Literal["csv", "parquet", "label-studio", "sqlite"] = "csv"
    """A table of answers, with the key; tasks and a labelling configuration, blind; or a copy of the store, while the
    server runs."""
    to: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR")] = None
    """Where to; a folder for label-studio. Default: beside the store."""
    without: _Without = ()
    """A rater to leave out of a table; may be given again."""


@dataclass(frozen=True)
class RateImport:
    """Add ratings made elsewhere: a table as jsaeval rate export writes it, or what Label Studio exports as JSON."""

    folder: _Folder
    """The folder of the study."""
    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """A .csv or .parquet with columns rater, item, interval, question, value; or a .json of Label Studio."""


def rate_report(command: RateReport) -> int:
    """Score, print and write; returns the exit code: 3 where no latent could be scored.

    Raises:
        InputError: no study, nobody has rated anything, an unknown rater is left out, or the report there is of another
            LM or other SAEs.
    """
    if command.seed < 0:
        raise InputError(f"--seed {command.seed}: at least 0 is needed")
    folder = study_folder(Path(command.folder))
    study = read_study(folder)
    key = read_key(folder, study)
    events = _events(folder, study, command.without)
    section_folder = SectionFolder.claim(RATINGS, str(folder.parent), {}, resume=True)
    section_folder.check_same(key.lm, [(own["source"]["sha256"], own["hook"]) for own in key.saes])
    key = _renamed(key, section_folder)
    before = section_folder.before or {"saes": []}
    found = results(study, key, answers_of(events, study), _losses(before), _l0s(before), command.seed)
    section = ratings_to_json(found, study, key, command.seed, sorted(set(command.without)))
    saes = [own | {"metrics": rating_metrics(section, own["name"])} for own in key.saes]
    provenance = {"plan": key.settings} | key.provenance
    made = {"lm": key.lm, "saes": saes, "provenance": provenance, "ratings": section}
    report = section_folder.write(made, ratings_frame(section))
    write_rendered(section_folder.path, page(report), tidy(report))
    show_ratings(report, Console(width=None if sys.stdout.isatty() else 130))
    for name in (REPORT, PAGE, RATINGS.table):
        print(section_folder.path / name)
    print(f"{REPORT}, {PAGE} and {RATINGS.table} say which items are controls: keep them from raters while they rate")
    return 0 if any(HUMAN_SCORE in own["metrics"] for own in saes) else 3


def rate_export(command: RateExport) -> int:
    """Write files and print their names; returns the exit code.

    Raises:
        InputError: no study, nobody has rated anything, an unknown rater is left out, or a file cannot be written.
    """
    folder = study_folder(Path(command.folder))
    study = read_study(folder)
    if command.without and command.format not in ("csv", "parquet"):
        raise InputError(f"--without: goes with tables; {command.format} leaves nobody out")
    if command.format == "label-studio":
        for path in write_label_studio(Path(command.to) if command.to else folder / "label-studio", study):
            print(path)
        return 0
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    path = Path(
        command.to
        or folder / (f"answers-{stamp}.sqlite" if command.format == "sqlite" else f"answers.{command.format}")
    )
    check_file("--to", str(path))
    if path.resolve() in {(folder / name).resolve() for name in (ANSWERS, KEY, STUDY)}:
        raise InputError(f"--to {path}: that is part of the study itself; choose another name")
    events = _events(folder, study, command.without)
    if command.format == "sqlite":
        Store(folder / ANSWERS, study.id).backup(path)
    else:
        frame = long_form(study, read_key(folder, study), events)
        (write_csv if command.format == "csv" else write_parquet)(path, frame)
    print(path)
    return 0


def rate_import(command: RateImport) -> int:
    """Store the ratings of a file and say how many were new, and how many too old; returns the exit code.

    Raises:
        InputError: no study, or something in the file is wrong; nothing was stored.
    """
    folder = study_folder(Path(command.folder))
    study = read_study(folder)
    added, older = import_file(Path(command.file), study, Store(folder / ANSWERS, study.id))
    said = f"{added} new answers, texts and skips" if added else "nothing new"
    print(f"{command.file}: {said}" + (f"; {older} left out, older than what stands" if older else ""))
    return 0


def _events(folder: Path, study: Study, without: tuple[str, ...]) -> list[Event]:
    path = folder / ANSWERS
    events = Store(path, study.id).events() if path.is_file() else []
    if not events:
        where = folder.parent
        raise InputError(
            f"{where}: nobody has rated anything yet; jsaeval rate serve {where} lets people rate, jsaeval rate import "
            f"{where} FILE adds ratings made elsewhere"
        )
    known = sorted({own.rater for own in events})
    if unknown := [name for name in without if name not in known]:
        raise InputError(f"--without {unknown[0]}: nobody of that name has rated; there are {', '.join(known)}")
    if left := [own for own in events if own.rater not in without]:
        return left
    raise InputError(f"--without {' '.join(without)}: nobody else has rated")


def _renamed(key: AnswerKey, folder: SectionFolder) -> AnswerKey:
    """The key with SAEs as the report in the folder calls them."""
    names = {own["name"]: folder.name_of(own["source"]["sha256"], own["hook"]) or own["name"] for own in key.saes}
    items = {id: dataclasses.replace(own, sae=names.get(own.sae, own.sae)) for id, own in key.items.items()}
    saes = [own | {"name": names[own["name"]]} for own in key.saes]
    return dataclasses.replace(key, items=items, saes=saes)


def _losses(report: dict[str, Any]) -> dict[str, dict[int, float]]:
    """By SAE and latent, where explanations were scored."""
    return {
        own["sae"]: {
            line["latent"]: line["scores"][_LOSS]
            for line in own["latents"]
            if line["dictionary"] is None and line["scores"].get(_LOSS) is not None
        }
        for own in report.get("explanations", {"saes": []})["saes"]
    }


def _l0s(report: dict[str, Any]) -> dict[str, float]:
    return {own["name"]: own["metrics"][_L0]["value"] for own in report["saes"] if _L0 in own.get("metrics", {})}
