"""Ratings by people in `report.json`, as a table, and on the terminal.

`ratings`: {"study": {"id", "title", "sha256", "logits", "repeats", "rubric": {"id", "title", "source", "unit":
"interval" | "item", "version", "questions": [{"id", "prompt", "highest"}]}}, "settings" and "provenance": of the
preparation of the study, "seed", "without": raters who were left out, and what `jsaeval.rating.results.results`
returns: "maximum", "counts", "saes": [{"sae", "groups": {"latent" | "random_sae" | "neurons" | "random_directions":
{"asked", "raters", "score", "median", "above", "by_interval", "by_density", "questions", "items_by_rater", "skips"}},
"minus": {control: difference, with "within_raters"}, "correlations": {"activation_prediction_loss", "density"},
"latents": [line]}], "agreement": {"all" | "latent"}, "self_agreement": {"pooled", "raters"}, "l0", "disagreements"}

Every estimate is {"value", "ci95", "n", "items"}, see `jsaeval.rating.estimate`; one that is not defined is null with a
"reason". Texts are as raters wrote them: not escaped, not cleaned.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from jsaeval.corpus.visible import clean
from jsaeval.metrics.metric import wins
from jsaeval.metrics.registry import REGISTRY
from jsaeval.rating.study import AnswerKey, Study
from jsaeval.report.numbers import interval, number
from jsaeval.report.rating_answers import said_of_agreement, said_of_counts, warnings


HUMAN_SCORE = "human_score"
GROUP_TITLES = {
    "latent": "latents",
    "random_sae": "random SAE",
    "neurons": "neurons: coordinates of the activation",
    "random_directions": "random directions",
}
_VERDICTS = {True: "better", False: "worse", None: "unclear"}


def ratings_to_json(
    found: Mapping[str, Any], study: Study, key: AnswerKey, seed: int, without: Sequence[str] = ()
) -> dict[str, Any]:
    """The entry "ratings" of a report.

    Args:
        found: by `jsaeval.rating.results.results`.
        study: that was rated.
        key: of it.
        seed: of the resamples.
        without: raters who were left out.
    """
    rubric = study.rubric
    questions = [{"id": own.id, "prompt": own.prompt, "highest": own.highest} for own in rubric.asked(study.logits)]
    about = {"id": rubric.id, "title": rubric.title, "source": rubric.source, "unit": rubric.unit}
    about |= {"version": rubric.version, "questions": questions}
    shown = {"id": study.id, "title": study.title, "sha256": key.study_sha256, "logits": study.logits}
    shown |= {"repeats": study.repeats, "rubric": about}
    about = {"settings": key.settings, "provenance": key.provenance, "seed": seed, "without": list(without)}
    return {"study": shown} | about | dict(found)


def rating_metrics(section: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`human_score` of an SAE as a metric of the report; nothing where none of its latents was scored."""
    own = next((own for own in section["saes"] if own["sae"] == name), {"groups": {}})
    latents = own["groups"].get("latent")
    if latents is None or latents["score"]["value"] is None:
        return {}
    metric = REGISTRY[HUMAN_SCORE]
    score = latents["score"]
    about = {"n": score["n"], "axis": metric.axis, "unit": metric.unit, "direction": metric.direction}
    more = {"items": score["items"], "raters": latents["raters"], "maximum": section["maximum"]}
    return {HUMAN_SCORE: {key: score[key] for key in ("value", "ci95") if key in score} | about | more}


def ratings_frame(section: Mapping[str, Any]) -> pd.DataFrame:
    """The items as a table: one line for each, its mean answers in columns `question_…`, texts as lists."""
    lines = []
    for own in section["saes"]:
        for line in own["latents"]:
            kept = {key: value for key, value in line.items() if key not in ("questions", "texts")}
            asked = {f"question_{id}": value for id, value in line["questions"].items()}
            texts = {"texts": [f"{text['rater']}: {text['id']}: {text['text']}" for text in line["texts"]]}
            lines.append({"sae": own["sae"]} | kept | asked | texts)
    columns = ["sae", "group", "latent", "item", "density", "stratum", "largest", "score", "n", "raters", "low", "high"]
    asked = [f"question_{own['id']}" for own in section["study"]["rubric"]["questions"]]
    frame = pd.DataFrame(lines, columns=[*columns, *asked, "skipped", "texts"])
    return frame.astype(dict.fromkeys(("density", "largest", "score", "low", "high", *asked), "float64"))


def verdict(difference: Mapping[str, Any]) -> str:
    """Whether latents are better than a control, from the interval of the difference; nothing without one."""
    return _VERDICTS[wins(REGISTRY[HUMAN_SCORE].direction, difference["ci95"])] if difference.get("ci95") else ""


def show_ratings(report: dict[str, Any], console: Console) -> None:
    """Print what was found of each SAE: scores by group beside the controls, and how far raters agree."""
    section = report["ratings"]
    rubric = section["study"]["rubric"]
    console.print(
        f"[bold]{escape(clean(section['study']['title']))}[/bold]; rubric {escape(rubric['id'])} {rubric['version']}, "
        f"0 to {section['maximum']} points; {escape(said_of_counts(section['counts']))}",
        soft_wrap=True,
    )
    for line in warnings(section):
        console.print(f"[bold red]warning[/bold red]: {escape(line)}", soft_wrap=True)
    for own in section["saes"]:
        console.print()
        console.print(f"[bold]{escape(own['sae'])}[/bold]", soft_wrap=True)
        console.print(_groups(own))
        for group, minus in own["minus"].items():
            if (within := minus["within_raters"])["value"] is not None:
                said = f"  Latents − {GROUP_TITLES[group].partition(':')[0]} within raters: {_estimate(within)}"
                console.print(f"{said}, n = {within['raters']}", highlight=False)
        for name, found in own["correlations"].items():
            if found["value"] is not None:
                console.print(f"  Spearman with {name}: {_estimate(found)}, {found['n']} latents", highlight=False)
    console.print()
    for line in said_of_agreement(section):
        console.print(escape(line), soft_wrap=True, highlight=False)


def _groups(own: dict[str, Any]) -> RichTable:
    table = RichTable(box=None, pad_edge=False, header_style="dim")
    for name in ("human_score ↑", "value", "95 % interval", "median", "items", "units", "raters", "latents − it"):
        right = name in ("value", "median", "items", "units", "raters")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for group, found in own["groups"].items():
        score, minus = found["score"], own["minus"].get(group)
        cells = [f"  {GROUP_TITLES[group]}", number(score["value"]), escape(interval(score))]
        cells += [number(found["median"]["value"]), str(score["items"]), str(score["n"]), str(found["raters"])]
        table.add_row(*cells, "" if minus is None else f"{_estimate(minus)} {verdict(minus)}".strip())
        if group == "latent":
            for i, one in found["by_interval"].items():
                table.add_row(f"    interval {i}", *_short(one))
            for name, one in found["by_density"].items():
                table.add_row(f"    density {name}", *_short(one))
    return table


def _short(found: dict[str, Any]) -> tuple[str, ...]:
    return number(found["value"]), escape(interval(found)), "", str(found["items"]), str(found["n"])


def _estimate(found: Mapping[str, Any]) -> str:
    return "" if found["value"] is None else escape(f"{number(found['value'])} {interval(dict(found))}".strip())
