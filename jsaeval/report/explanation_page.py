"""Explanations on the page: answers, the loss beside its floors, companions, and the latents that are told best."""

from collections.abc import Iterator
from typing import Any

from jsaeval.metrics.registry import REGISTRY
from jsaeval.report.explanations import (
    BETTER,
    FLOORS,
    HEADLINE,
    POPULATIONS,
    first_in_a_text,
    outcome,
    remarks_on,
    scores_of,
    simulator_of,
    verdict,
)
from jsaeval.report.numbers import interval, number, percent
from jsaeval.run.folder import LATENT_PAGES, places_of


_SHOWN = 12  # latents of each end


def explanation_section(report: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of the explanations."""
    made = report["explanations"]
    pages = places_of([own["sae"] for own in made["saes"]], LATENT_PAGES)
    return {
        "settings": made["settings"],
        "simulator": simulator_of(made["settings"]),
        "note": first_in_a_text([made["settings"]["explainer"]], made["settings"]["positions"]),
        "headline": HEADLINE,
        "saes": [_sae(own, f"explanations-{i}", pages[own["sae"]]) for i, own in enumerate(made["saes"], 1)],
    }


def explanation_facts(report: dict[str, Any]) -> dict[str, str]:
    """What was explained, how, on what."""
    if "explanations" not in report:
        return {}
    made = report["explanations"]
    settings, provenance = made["settings"], made["provenance"]
    found = {
        "explained": f"latents {settings['latents']} at {settings['hook']}; explainer {settings['explainer']}, "
        f"simulator {simulator_of(settings)}; {settings['floor_latents']} latents of each look-alike",
        "text of explanations": f"{settings['corpus']}: {settings['rows']} rows of {settings['positions']} positions; "
        f"documents to explain from, to calibrate on and to score on are different ones",
        "explanation time": f"{provenance['wall_s']:.0f} s; peak memory {provenance['peak_rss_mb'] / 1024:.2f} GiB",
    }
    return found | ({"server": settings["server"]} if settings.get("server") else {})


def _sae(own: dict[str, Any], id: str, pages: str) -> dict[str, Any]:
    summary, main = own["summary"], own["summary"]["scores"][HEADLINE]["all"]
    told = [line for line in own["latents"] if line["dictionary"] is None and line["scores"][HEADLINE] is not None]
    told.sort(key=lambda line: line["scores"][HEADLINE])
    return {
        "id": id,
        "name": own["sae"],
        "index": f"{pages}/index.html" if own["latents"] else None,
        "answers": {
            "Can activations be predicted from what was said?": list(_answers(summary)),
            "By what right?": list(_grounds(main)) if summary["latents"]["scored"] else [],
            "Of which latents?": list(_kinds(summary)) if summary["latents"]["scored"] else [],
        },
        "reasons": summary["latents"]["reasons"],
        "floors": [
            {"name": FLOORS[name], "failed": summary["floors"][name]["failed"], "metric": floor}
            | {"difference": floor["difference"]}
            | {"verdict": verdict(HEADLINE, floor["difference"])}
            for name, floor in main["floors"].items()
        ],
        "main": main,
        "populations": [
            {"name": title, "metric": summary["scores"][HEADLINE][name]} for name, title in POPULATIONS.items()
        ],
        "companions": [_companion(id, own) for id, own in scores_of(summary) if id != HEADLINE],
        "remarks": list(remarks_on(summary)) if summary["latents"]["scored"] else [],
        "latents": [_latent(line, pages) for line in told],
        "shown": _SHOWN,
    }


def _answers(summary: dict[str, Any]) -> Iterator[str]:
    main = summary["scores"][HEADLINE]["all"]
    yield outcome(summary["latents"]) + "."
    if main["value"] is None or not summary["latents"]["scored"]:
        return
    yield (
        f"{percent(main['value'])} of the variance of activations in the examples stays unexplained "
        f"({HEADLINE} {number(main['value'])} {interval(main)}; 100 %: no better than the mean)."
    )
    weighted = summary["scores"][HEADLINE]["importance"]
    shown = f"{number(weighted['value'])} {interval(weighted)}"
    yield f"Weighted to stand for the text, in which a latent is mostly silent: {shown}."
    below, above = main["quartiles"]
    yield f"The middle half of the latents lies between {number(below)} and {number(above)}."


def _grounds(main: dict[str, Any]) -> Iterator[str]:
    for name, floor in main["floors"].items():
        said = verdict(HEADLINE, floor["difference"])
        if floor["value"] is None or not said:
            continue
        difference = floor["difference"]
        shown = f"{number(floor['value'])}, difference {number(difference['value'])} {interval(difference)}"
        lead = {"better": "Better than", "worse": "WORSE than"}.get(said, "Not clearly better or worse than")
        yield f"{lead} {FLOORS[name]} ({shown})."


def _kinds(summary: dict[str, Any]) -> Iterator[str]:
    for density, own in summary["scores"][HEADLINE]["all"]["by_density"].items():
        count = f"{own['n']} latent{'s' if own['n'] != 1 else ''}"
        yield f"Density {density}: {number(own['value'])} {interval(own)} ({count})."


def _companion(id: str, own: dict[str, Any]) -> dict[str, Any]:
    metric, floor = REGISTRY[id], own["floors"].get("token")
    about = {"id": id, "formula": metric.formula, "source": metric.source, "better": BETTER[metric.direction]}
    return about | {"metric": own, "token": floor, "verdict": floor and verdict(id, floor["difference"])}


def _latent(line: dict[str, Any], pages: str) -> dict[str, Any]:
    keep = ("latent", "density", "text")
    return {key: line[key] for key in keep} | {
        "loss": line["scores"][HEADLINE],
        "page": f"{pages}/{line['latent']}.html",
    }
