"""Ratings by people on the page: answers, scores beside controls, agreement, and the items that raters differ on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsaeval.corpus.visible import clean
from jsaeval.report.rating_answers import (
    MATCHED,
    of_sae,
    said_of_agreement,
    said_of_controls,
    said_of_counts,
    said_of_kinds,
    said_of_score,
    share_and_ends,
    warnings,
)
from jsaeval.report.rating_figure import scores_figure
from jsaeval.report.ratings import GROUP_TITLES, verdict
from jsaeval.run.folder import LATENT_PAGES, places_of


_SHOWN = 12  # latents of each end
_ONE = {
    "latent": "latent",
    "random_sae": "latent of the random SAE",
    "neurons": "neuron",
    "random_directions": "random direction",
}
_TEXT = 300  # characters of what a rater wrote that are shown; all are in report.json
_COEFFICIENTS = {
    "alpha_ordinal": "Krippendorff's α, ordinal",
    "alpha_interval": "Krippendorff's α, interval",
    "alpha_nominal": "Krippendorff's α, nominal",
    "ac1": "Gwet's AC1",
}
_CORRELATES = {
    "activation_prediction_loss": "activation_prediction_loss of the latent's explanation",
    "density": "density, the latent's part of L0",
}


def rating_section(report: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of the ratings."""
    section = report["ratings"]
    pages = _pages(report)
    return {
        "study": section["study"],
        "title": clean(section["study"]["title"]),
        "maximum": section["maximum"],
        "counts": said_of_counts(section["counts"]),
        "warnings": list(warnings(section)),
        "saes": [_sae(section, own, f"ratings-{i}", pages) for i, own in enumerate(section["saes"], 1)],
        "agreement": list(_agreement(section)),
        "agreed": list(said_of_agreement(section)),
        "raters": [_rater(section, own) for own in section["counts"]["by_rater"]],
        "l0": section["l0"] if len(section["saes"]) > 1 else None,
        "disagreements": [_disagreement(own, pages) for own in section["disagreements"]],
        "controls": any(own["minus"] for own in section["saes"]),
        "matched": MATCHED,
        "shown": _SHOWN,
    }


def rating_facts(report: dict[str, Any]) -> dict[str, str]:
    """What was rated, by what rubric."""
    if "ratings" not in report:
        return {}
    section = report["ratings"]
    study, rubric = section["study"], section["study"]["rubric"]
    settings = [f"{name} {value}" for name, value in section["settings"].items() if value is not None]
    return {
        "study": f"{clean(study['title'])} (id {study['id']}): {'; '.join(settings)}",
        "rubric": f"{rubric['id']}, version {rubric['version']}: {clean(rubric['title'])} ({clean(rubric['source'])})",
        "ratings": f"{said_of_counts(section['counts'])}; SHA-256 of the study {study['sha256']}",
    }


def _sae(section: Mapping[str, Any], own: dict[str, Any], id: str, pages: Mapping[Any, str]) -> dict[str, Any]:
    scored = of_sae(section, own["sae"]) is not None
    latents = [line for line in own["latents"] if line["group"] == "latent" and line["score"] is not None]
    latents.sort(key=lambda line: (-line["score"], line["latent"]))
    intervals = dict.fromkeys(i for found in own["groups"].values() for i in found["by_interval"])
    return {
        "id": id,
        "name": own["sae"],
        "answers": {
            "Do people find its latents interpretable?": list(said_of_score(section, own)) if scored else [],
            "By what right?": [*said_of_controls(own), *said_of_agreement(section)] if scored else [],
            "Of which latents?": list(said_of_kinds(own)) if scored else [],
        },
        "scored": scored,
        "groups": [_group(own, group) for group in own["groups"]],
        "above": next((found["above"]["bound"] for found in own["groups"].values() if found["above"]), None),
        "figure": scores_figure(own, section["maximum"], id),
        "intervals": [
            {"interval": i, "of": [found["by_interval"].get(i) for found in own["groups"].values()]}
            for i in sorted(intervals, key=int)
        ],
        "questions": list(_questions(section, own)),
        "correlations": [{"name": name, "found": own["correlations"][key]} for key, name in _CORRELATES.items()],
        "latents": [_line(line, own["sae"], pages) for line in latents],
    }


def _group(own: dict[str, Any], group: str) -> dict[str, Any]:
    found, minus = own["groups"][group], own["minus"].get(group)
    about = {"name": GROUP_TITLES[group], "short": GROUP_TITLES[group].partition(":")[0]}
    about |= {"why": [(_text(why), n) for why, n in found["skips"]["reasons"].items()]}
    about |= {"share": share_and_ends(found["above"]) if found["above"] else None}
    return found | about | {"minus": minus, "verdict": minus and verdict(minus)}


def _questions(section: Mapping[str, Any], own: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for question in section["study"]["rubric"]["questions"]:
        means = [found["questions"][question["id"]] for found in own["groups"].values()]
        yield question | {"prompt": clean(question["prompt"]), "of": means}


def _agreement(section: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each coefficient of the score and of each question, on all items and on latents alone."""
    both, latents = section["agreement"]["all"], section["agreement"]["latent"]
    parts = {"score": (both["score"], latents["score"])}
    parts |= {id: (both["questions"][id], latents["questions"][id]) for id in both["questions"]}
    for name, (of_all, of_latents) in parts.items():
        for key, found in of_all.items():
            yield {"of": name, "name": _COEFFICIENTS[key], "all": found, "latent": of_latents[key]}


def _rater(section: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    repeats = section["self_agreement"]["raters"].get(own["rater"])
    return own | {"rater": clean(own["rater"]), "twice": repeats}


def _disagreement(own: dict[str, Any], pages: Mapping[Any, str]) -> dict[str, Any]:
    scores = sorted(own["scores"].items(), key=lambda pair: (-pair[1], pair[0]))
    about = {"page": _page(own, own["sae"], pages), "name": _ONE[own["group"]]}
    return own | about | {"scores": [(clean(who), f"{score:g}") for who, score in scores], "texts": _texts(own)}


def _line(line: dict[str, Any], sae: str, pages: Mapping[Any, str]) -> dict[str, Any]:
    return line | {"page": _page(line, sae, pages), "texts": _texts(line)}


def _texts(line: Mapping[str, Any]) -> list[dict[str, str]]:
    found: Sequence[Mapping[str, str]] = line["texts"]
    return [{"rater": clean(own["rater"]), "id": own["id"], "text": _text(own["text"])} for own in found]


def _text(text: str) -> str:
    return clean(text if len(text) <= _TEXT else f"{text[:_TEXT]}…")


def _pages(report: Mapping[str, Any]) -> dict[tuple[str, int], str]:
    """The pages that there are of latents, by SAE and latent."""
    made = report.get("explanations", {"saes": []})["saes"]
    places = places_of([own["sae"] for own in made], LATENT_PAGES)
    return {
        (own["sae"], line["latent"]): f"{places[own['sae']]}/{line['latent']}.html"
        for own in made
        for line in own["latents"]
        if line["dictionary"] is None
    }


def _page(line: Mapping[str, Any], sae: str, pages: Mapping[Any, str]) -> str | None:
    return pages.get((sae, line["latent"])) if line["group"] == "latent" else None
