"""Records of explained latents, kept beside a report; pages and files of other tools are made of them."""

import gzip
import itertools
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jsaeval.autointerp.evaluate import Dictionary, Explained
from jsaeval.autointerp.scores import Scored
from jsaeval.cache import atomic
from jsaeval.errors import InputError, one_line
from jsaeval.forward.decoder_neighbours import decoder_neighbours
from jsaeval.forward.logit_effects import logit_effects, reaches_logits
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM
from jsaeval.report.dashboard import write_dashboard
from jsaeval.report.latent_pages import write_pages
from jsaeval.report.latent_record import FLOORS, KEYS, About, record
from jsaeval.report.saebench import Written
from jsaeval.run.folder import LATENT_PAGES, RECORDS, places_of


FEATURE_DATA = "saedashboard"


def records_of(
    found: Sequence[Explained], lm: HostLM, hook: Hook, token_text: Callable[[int], str], simulator: str
) -> list[dict[str, Any]]:
    """A record of every latent that was looked at, those of look-alikes last.

    Args:
        found: what was found of each SAE.
        lm: the language model.
        hook: where the SAEs read.
        token_text: the text of a token id.
        simulator: who simulated.
    """
    parts = [(own.own, own.own) for own in found]
    parts += [(alike, own.own) for own in found for alike in own.look_alikes]
    return [line for part, own in parts for line in _records(part, own, lm, hook, token_text, simulator)]


def _records(
    part: Dictionary,
    own: Dictionary,
    lm: HostLM,
    hook: Hook,
    token_text: Callable[[int], str],
    simulator: str,
) -> Iterator[dict[str, Any]]:
    latents = np.array([known.latent for known in part.evidence], np.int32)
    logits = logit_effects(lm, part.sae.W_dec[latents]) if len(latents) and reaches_logits(hook) else None
    neighbours = decoder_neighbours(part.sae.W_dec, latents) if len(latents) else None
    floors = {name: dict(zip(latents.tolist(), scored, strict=True)) for name, scored in part.floors.items()}
    for i, (known, explanation, scored) in enumerate(zip(part.evidence, part.explanations, part.scored, strict=True)):
        yield record(
            known,
            explanation,
            sae=own.sae.card.name,
            hook=hook.name,
            token_text=token_text,
            simulator=simulator,
            simulated=scored.calibrated or None,
            scores=_by_population(scored),
            floors={name: _headlines(of[known.latent]) for name, of in floors.items()},
            logits=logits,
            neighbours=neighbours,
            floor=part.look_alike,
            mass=scored.mass,
            uncovered=scored.uncovered,
            problem=scored.problem or scored.error,
            index=i,
        )


def _by_population(scored: Scored) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for id, values in scored.values.items():
        for population, value in values.items():
            found.setdefault(population, {})[id] = value.value
    return found


def _headlines(scored: Scored) -> dict[str, float | None]:
    return {id: next(iter(values.values())).value for id, values in scored.values.items()}


def _about(report: Mapping[str, Any]) -> About:
    """What the latents of a report have in common."""
    settings = report["explanations"]["settings"]
    return About(report["lm"]["name"], settings["corpus"], settings["rows"], settings["positions"])


def write_records(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One record a line, in `RECORDS`."""
    with atomic(folder / RECORDS) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(own, allow_nan=False) + "\n" for own in records)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """What `write_records` wrote.

    Raises:
        InputError: it is not there, or damaged.
    """
    path = folder / RECORDS
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            found = [json.loads(line) for line in stream]
    except FileNotFoundError:
        raise InputError(f"{folder}: no {RECORDS} in it; jsaeval explain --out {folder} writes it") from None
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise InputError(f"{path}: damaged ({one_line(error)}); run jsaeval explain again") from None
    for i, own in enumerate(found, 1):
        _check(own, f"{path}: line {i}")
    return found


def _check(own: Any, where: str) -> None:
    """Raises InputError where it is no record, or names a place where its page must not go."""
    if not isinstance(own, dict) or (missing := KEYS - own.keys()):
        lacks = f"lacks {min(missing)}" if isinstance(own, dict) else "is none"
        raise InputError(f"{where}: a record of a latent was expected, but it {lacks}")
    if type(own["latent"]) is not int or own["latent"] < 0:
        raise InputError(f"{where}: latent {own['latent']!r}, a number from 0 was expected")
    if own["floor"] not in (None, *FLOORS):
        raise InputError(f"{where}: floor {own['floor']!r}, one of {', '.join(FLOORS)} or null was expected")


def write_latents(folder: Path, records: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> None:
    """The pages of all latents of a report, in the place of those that were there."""
    shutil.rmtree(folder / LATENT_PAGES, ignore_errors=True)
    about = _about(report)
    for place, own in _by_sae(records, report, LATENT_PAGES):
        write_pages(folder / place, own, about)


def write_feature_data(folder: Path, records: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> Written:
    """Files of SAEDashboard and Neuronpedia with all latents of a report, in the place of those that were there."""
    shutil.rmtree(folder / FEATURE_DATA, ignore_errors=True)
    about = _about(report)
    parts = [write_dashboard(folder / place, own, about) for place, own in _by_sae(records, report, FEATURE_DATA)]
    return Written(
        *(tuple(itertools.chain(*own)) for own in zip(*((part.paths, part.notes) for part in parts), strict=True))
    )


def _by_sae(
    records: Sequence[Mapping[str, Any]], report: Mapping[str, Any], folder: str
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Where the latents of each SAE of a report go, and their records, if there are some."""
    places = places_of([own["sae"] for own in report["explanations"]["saes"]], folder)
    found = [(place, [own for own in records if own["sae"] == name]) for name, place in places.items()]
    return [(place, own) for place, own in found if own]
