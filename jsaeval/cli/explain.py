"""`jsaeval explain`: can what a latent does be said, and predicted from what was said?"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from jsaeval import processes
from jsaeval.autointerp.evaluate import Asked, Work, explain
from jsaeval.cache import cache_dir, keep_programs
from jsaeval.cli.explainers import tools
from jsaeval.cli.sections import OverText, opened, stopped
from jsaeval.errors import InputError
from jsaeval.report.explanations import (
    explanation_metrics,
    explanations_frame,
    explanations_to_json,
    show_explanations,
    simulator_of,
)
from jsaeval.report.latent_records import records_of, write_latents, write_records
from jsaeval.report.page import page
from jsaeval.report.progress import Progress
from jsaeval.report.tidy import tidy
from jsaeval.run.checkpoint import Stopped
from jsaeval.run.folder import EXPLANATIONS, LATENT_PAGES, PAGE, REPORT, places_of, write_rendered
from jsaeval.run.provenance import about_lm, about_sae, surroundings
from jsaeval.run.section_folder import SectionFolder
from jsaeval.run.stop import stop_signal


LATENTS = "50"


@dataclass(frozen=True)
class Explain(OverText):
    """Explain latents, predict their activations from the explanations alone, and score the predictions."""

    latents: str | None = None
    """How many, drawn from all densities alike; or which: "3,17,40-45", of one alone "7,"; or all. Default: 50, or
    those of --explanations."""
    explainer: Literal["n2g", "lookup", "llm", "file"] = "n2g"
    """Patterns of tokens; tables of tokens; a language model on a server; your own texts."""
    simulator: Literal["rule", "host", "server-logprobs", "server-json"] | None = None
    """Who predicts activations from an explanation. Default: rule for n2g and lookup; else server-json with
    --base-url, and host without."""
    explanations: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Texts for --explainer file: .json {"latent": "text"}, .jsonl or .csv with latent and text."""
    simulator_lm: Annotated[str | None, tyro.conf.arg(metavar="LM")] = None
    """Language model for --simulator host. Default: the one that is explained."""
    base_url: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """OpenAI-compatible server. A key comes from OPENAI_API_KEY only."""
    model: str | None = None
    """Model on the server. Default: the only one that it lists."""
    prompt: Literal["bills", "bricken"] = "bills"
    """How examples are shown to the explaining model."""
    max_calls: int | None = None
    """Calls to the server, at most."""
    max_tokens: int | None = None
    """Tokens that the server reads and writes, at most."""
    concurrency: int = 8
    """Calls to the server at a time."""
    yes: bool = False
    """Do not ask before the first call."""
    floor_latents: int = 20
    """Latents of a random SAE, and coordinates of the activation, that are explained for comparison; 0: none."""
    resume: bool = False
    """Go on with the explanations in --out if there are some, else start."""
    seed: int = 0
    """Of the choice of latents and examples, the floors and the bootstrap."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the results, new or of a run of the same LM and SAEs. Default: a fresh one under runs/."""


# Flags that change where and how fast results come, not what they are.
_ELSEWHERE = ("out", "resume", "yes", "concurrency", "max_calls", "max_tokens", "mesh")


def explain_command(command: Explain) -> int:
    """Explain, print and write; returns the exit code: 3 where no latent of an SAE could be scored.

    Raises:
        InputError: a flag, file, server or latent that cannot be meant.
    """
    if processes.launcher() is not None:
        raise InputError("jsaeval explain runs in one process; it uses all devices of its host")
    for name, least in (("floor_latents", 0), ("seed", 0), ("max_calls", 0), ("max_tokens", 0), ("concurrency", 1)):
        if (value := getattr(command, name)) is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} {value}: at least {least} is needed")
    names, notes = command.saes()
    identity = {key: value for key, value in vars(command).items() if value is not None and key not in _ELSEWHERE}
    folder = SectionFolder.claim(EXPLANATIONS, command.out, identity | {"sae": list(names)}, command.resume)
    keep_programs()
    try:
        report = _measured(command, names, notes, folder)
    except (Stopped, KeyboardInterrupt) as stop:
        return stopped(stop, folder)
    show_explanations(report, Console(width=None if sys.stdout.isatty() else 130))
    places = places_of([own["sae"] for own in report["explanations"]["saes"]], LATENT_PAGES)
    indices = [f"{places[own['sae']]}/index.html" for own in report["explanations"]["saes"] if own["latents"]]
    for made in (REPORT, PAGE, *indices):
        print(folder.path / made)
    return 0 if all(own["summary"]["latents"]["scored"] for own in report["explanations"]["saes"]) else 3


def _measured(command: Explain, names: tuple[str, ...], notes: list[str], folder: SectionFolder) -> dict[str, Any]:
    """The report, when it is in the folder."""
    start = time.perf_counter()
    with Progress() as progress, stop_signal() as wanted:
        mesh, lm, saes, hook = opened(command, names, notes, folder, progress)
        rows, masks = command.text(lm)

        def stop() -> None:
            if wanted():
                raise Stopped

        def ready(work: Sequence[Work]) -> None:
            made.confirm(work, command.seed, command.yes)
            folder.begin()

        made = tools(command, lm, hook, mesh, folder.path / EXPLANATIONS.parts, progress, stop)
        latents = (made.latents or LATENTS) if command.latents is None else command.latents
        asked = Asked(latents, command.floor_latents, precision=command.precision, seed=command.seed)
        found = explain(
            lm,
            saes,
            hook,
            rows,
            masks,
            made.explainer,
            made.simulator,
            made.token_text,
            asked,
            ready=ready,
            mesh=mesh,
            cache=cache_dir("evidence"),
            progress=progress,
            stop=stop,
        )
    settings = {"hook": hook.name} | command.about_text(rows)
    settings |= {"latents": latents, "floor_latents": command.floor_latents, "seed": command.seed}
    settings |= {"explainer": command.explainer, "simulator": made.simulator_name}
    settings |= {"simulator_lm": made.simulator_lm, "server": made.said()}
    provenance = {"plan": folder.identity} | surroundings(lm, mesh, command.precision)
    written = explanations_to_json(found)
    records = records_of(found, lm, hook, made.token_text, simulator_of(settings))
    about = [
        about_sae(sae, hook) | {"metrics": explanation_metrics(own.summary)}
        for sae, own in zip(saes, found, strict=True)
    ]
    provenance["wall_s"] = time.perf_counter() - start
    section = {"explanations": {"settings": settings, "provenance": provenance, "saes": written}}
    made_of = {"lm": about_lm(lm), "saes": about, "provenance": provenance} | section
    write_records(folder.path, records)
    write_latents(folder.path, records, made_of)
    report = folder.write(made_of, explanations_frame(written))
    write_rendered(folder.path, page(report), tidy(report))
    return report
