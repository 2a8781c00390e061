"""`jsaeval rate prepare`: choose what people will rate, and write it where a server and a report find it."""

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jsaeval import processes
from jsaeval.cache import cache_dir, keep_programs
from jsaeval.cli.sections import OverText, opened, tokenizer_of
from jsaeval.corpus.visible import visible, visible_alone
from jsaeval.errors import InputError
from jsaeval.lm.card import card_of
from jsaeval.rating.estimate import LEAST_ITEMS
from jsaeval.rating.prepare import Asked, Prepared, prepare
from jsaeval.rating.queue import queue_of
from jsaeval.rating.rubric import Rubric, load_rubric
from jsaeval.rating.study import ANSWERS, FOLDER, STUDY, AnswerKey, write_key, write_study
from jsaeval.report.latent_record import token_texts
from jsaeval.report.progress import Progress
from jsaeval.run.checkpoint import Stopped
from jsaeval.run.folder import RATINGS
from jsaeval.run.provenance import about_lm, about_sae, surroundings
from jsaeval.run.section_folder import SectionFolder
from jsaeval.run.stop import stop_signal
from jsaeval.sae.module import SAE


LATENTS = 20


@dataclass(frozen=True)
class RatePrepare(OverText):
    """Prepare a study: latents and controls for people to rate."""

    latents: str | None = None
    """How many latents of each SAE, sampled by density; or which: "3,17,40-45", of one alone "7,"; or all.
    Default: 20; in the folder of jsaeval explain, of those that are explained."""
    controls: int = 5
    """How many latents of a random SAE, coordinates of the activation, and random directions; 0: none."""
    rubric: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "bricken2023"
    """What is asked: bricken2023, interpretability, or a TOML file of your own."""
    intervals: int = 3
    """Intervals of activation that are rated, of each item; all 11 are shown."""
    contexts: int = 5
    """Contexts shown in each interval, at most."""
    repeats: float = 0.08
    """Share of the items that each rater gets a second time, to see whether raters agree with themselves."""
    title: str | None = None
    """Of the study; raters read it. Default: the LM and the corpus."""
    seed: int = 0
    """Of all draws."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the study, new or of a run of the same LM and SAEs. Default: a fresh one under runs/."""


def rate_prepare(command: RatePrepare) -> int:
    """Write a study; returns the exit code.

    Raises:
        InputError: a flag, file or latent that cannot be meant, or a folder that holds a study.
    """
    _check(command)
    rubric = load_rubric(command.rubric)
    names, notes = command.saes()
    identity = {key: value for key, value in vars(command).items() if value is not None and key not in ("out", "mesh")}
    folder = SectionFolder.claim(RATINGS, command.out, identity | {"sae": list(names)}, resume=False)
    place = folder.path / FOLDER
    if any((place / name).exists() for name in (STUDY, ANSWERS)):
        raise InputError(f"--out {folder.path}: holds a study; choose another folder, or delete {place}")
    keep_programs()
    try:
        found = _prepared(command, rubric, names, notes, folder)
    except Stopped:
        print("jsaeval: stopped; nothing was written", file=sys.stderr)
        return 143
    for note in found.notes:
        print(note)
    for name, said in found.drawn_from.items():
        print(f"{name}: drawn from {said}")
    print(_told(found))
    print(f"{place}\nnext: jsaeval rate serve {folder.path} --rater NAME --rater NAME")
    return 0


def _check(command: RatePrepare) -> None:
    if processes.launcher() is not None:
        raise InputError("jsaeval rate prepare runs in one process; it uses all devices of its host")
    for name, least in (("controls", 0), ("intervals", 1), ("contexts", 1), ("seed", 0)):
        if (value := getattr(command, name)) < least:
            raise InputError(f"--{name} {value}: at least {least} is needed")
    if not 0 <= command.repeats <= 0.5:
        raise InputError(f"--repeats {command.repeats}: a share from 0 to 0.5 was expected")


def _prepared(
    command: RatePrepare, rubric: Rubric, names: tuple[str, ...], notes: list[str], folder: SectionFolder
) -> Prepared:
    """What was prepared, when it is in the folder."""
    start = time.perf_counter()
    with Progress() as progress, stop_signal() as wanted:
        mesh, lm, saes, hook = opened(command, names, notes, folder, progress)
        rows, masks = command.text(lm)
        text = token_texts(tokenizer_of(lm))

        def stop() -> None:
            if wanted():
                raise Stopped

        found = prepare(
            lm,
            saes,
            hook,
            rows,
            masks,
            rubric,
            lambda id: visible(text(id)),
            lambda id: visible_alone(text(id)),
            command.title or f"{card_of(lm).name} on {rows.name}",
            _asked(command),
            among=None if command.latents is not None else _explained(folder, saes),
            mesh=mesh,
            cache=cache_dir("evidence"),
            progress=progress,
            stop=stop,
        )
    settings = {"hook": hook.name} | command.about_text(rows) | vars(_asked(command))
    settings |= {"drawn_from": "; ".join(f"{name}: {said}" for name, said in found.drawn_from.items())}
    provenance: dict[str, Any] = {"plan": folder.identity} | surroundings(lm, mesh, command.precision)
    provenance["wall_s"] = time.perf_counter() - start
    about = [about_sae(sae, hook) for sae in saes]
    folder.begin()
    _write(folder.path / FOLDER, found, about_lm(lm), about, settings, provenance)
    return found


def _write(place: Path, found: Prepared, lm: dict, saes: list[dict], settings: dict, provenance: dict) -> None:
    """The study last: where it is, its key is too."""
    made = place.with_name(f".{place.name}")
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir()
        sha256 = write_study(made, found.study)
        write_key(made, AnswerKey(found.study.id, sha256, found.items, lm, saes, settings, provenance))
        made.rename(place)
    except OSError as error:
        raise InputError(f"{place}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _asked(command: RatePrepare) -> Asked:
    return Asked(
        str(LATENTS) if command.latents is None else command.latents,
        command.controls,
        command.intervals,
        command.contexts,
        command.repeats,
        command.precision,
        command.seed,
    )


def _explained(folder: SectionFolder, saes: list[SAE]) -> list[list[int]] | None:
    """For each SAE its explained latents, where the folder has explanations of all of them."""
    section = {} if folder.before is None else folder.before.get("explanations", {})
    of = {own["sae"]: own["latents"] for own in section.get("saes", ())}
    if not of or any(sae.card.name not in of for sae in saes):
        return None
    return [
        [own["latent"] for own in of[sae.card.name] if own["dictionary"] is None and own["problem"] is None]
        for sae in saes
    ]


def _told(found: Prepared) -> str:
    """What raters will have to do."""
    study = found.study
    questions = len(study.rubric.asked(study.logits))
    units = sum(len(item.units) for item in study.items.values())
    groups = [own.group for own in found.items.values()]
    controls = len(groups) - groups.count("latent")
    again = sum(place.again for place in queue_of(study, ""))
    small = min(groups.count(group) for group in set(groups)) < LEAST_ITEMS
    return (
        f"{groups.count('latent')} latents and {controls} controls, {units} ratings of {questions} questions each; "
        f"every rater gets {again} of the {len(groups)} items twice"
        + (f"\na group of fewer than {LEAST_ITEMS} items gets no interval: a pilot, not a result" if small else "")
    )
