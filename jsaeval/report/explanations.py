"""Explanations in `report.json` and on the terminal.

`explanations`: {"settings", "provenance", "saes": [{"sae": name, "summary": what
`jsaeval.autointerp.summary.summarise` returns, "latents": [{"dictionary": null or a look-alike, "latent", "density",
"explainer", "text", "problem", "error", "mass_on_levels", "uncovered", "scores": {id: headline value or null}}]}]}; the
two before the scores are null where they are not known.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from jsaeval.autointerp.evaluate import Dictionary, Explained
from jsaeval.autointerp.populations import IMPORTANCE
from jsaeval.autointerp.scores import WHERE
from jsaeval.metrics.metric import wins
from jsaeval.metrics.registry import REGISTRY
from jsaeval.report.numbers import interval, number


HEADLINE = "activation_prediction_loss"
FLOORS = {
    "empty": "empty explanation",
    "another": "another latent's explanation",
    "constant": "constant",
    "token": "E[a | token]",
    "random_sae": "random SAE, same L0",
    "neurons": "neurons: coordinates of the activation",
}
POPULATIONS = {
    "all": "all examples",
    "top": "around the largest activations",
    "interval": "in equal intervals of activation",
    "random": "random windows",
    "importance": "weighted as in the text",
}
BETTER = {"higher": "↑", "lower": "↓", "neither": ""}
_VERDICTS = {True: "better", False: "worse", None: "unclear"}


def explanations_to_json(found: Sequence[Explained]) -> list[dict[str, Any]]:
    """The entries of "saes" in "explanations"."""
    return [
        {
            "sae": own.own.sae.card.name,
            "summary": own.summary,
            "latents": [line for part in (own.own, *own.look_alikes) for line in _latents(part)],
        }
        for own in found
    ]


def _latents(dictionary: Dictionary) -> Iterator[dict[str, Any]]:
    for explanation, scored in zip(dictionary.explanations, dictionary.scored, strict=True):
        yield {
            "dictionary": dictionary.look_alike,
            "latent": scored.latent,
            "density": scored.density,
            "explainer": explanation.explainer,
            "text": explanation.text,
            "problem": scored.problem,
            "error": scored.error,
            "mass_on_levels": scored.mass,
            "uncovered": scored.uncovered,
            "scores": {
                id: scored.values[id][places[0]].value if scored.values else None for id, places in WHERE.items()
            },
        }


def explanations_frame(made: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The latents as a table: one line for each, its scores in columns."""
    lines = [
        {"sae": own["sae"]} | {key: value for key, value in line.items() if key != "scores"} | line["scores"]
        for own in made
        for line in own["latents"]
    ]
    numbers = ("mass_on_levels", "uncovered", *WHERE)
    columns = ("sae", "dictionary", "latent", "density", "explainer", "text", "problem", "error", *numbers)
    return pd.DataFrame(lines, columns=list(columns)).astype(dict.fromkeys(numbers, "float64"))


def explanation_metrics(summary: dict[str, Any]) -> dict[str, Any]:
    """The headline of each score as a metric of the report; nothing where no latent was scored."""
    out: dict[str, Any] = {}
    if not summary["latents"]["scored"]:
        return out
    for id, own in scores_of(summary):
        metric = REGISTRY[id]
        about = {"n": own["n"], "axis": metric.axis, "unit": metric.unit, "direction": metric.direction}
        out[id] = {key: own[key] for key in ("value", "ci95") if key in own} | about
    return out


def scores_of(summary: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The scores that some latent has, in the place where they are headlines."""
    for id, places in WHERE.items():
        if summary["scores"][id][places[0]]["n"]:
            yield id, summary["scores"][id][places[0]]


def verdict(id: str, difference: dict[str, Any]) -> str:
    """Whether a value is better than a floor, from the interval of their difference; nothing without one."""
    return _VERDICTS[wins(REGISTRY[id].direction, difference["ci95"])] if difference.get("ci95") else ""


def outcome(latents: dict[str, Any]) -> str:
    """What became of the latents that were asked for, in a line."""
    left_out = {
        "dead": latents["dead"],
        "with too few examples": latents["too_few_examples"],
        "failed": latents["failed"],
    }
    why = [f"{count} {name}" for name, count in left_out.items() if count]
    said = f"{latents['scored']} of {latents['asked']} latents scored" + (f" ({', '.join(why)})" if why else "")
    return said + (f"; the simulator failed on {lost:,} examples" if (lost := latents["failed_examples"]) else "")


def remarks(found: Mapping[str, Any]) -> Iterator[str]:
    """What readers of scores have to know of the simulator and the examples, from a summary or a record of a latent."""
    if (mass := found.get("mass_on_levels")) is not None:
        yield f"Mass on levels: {mass:.2g}; an LM that is not asked to answer with a level puts little there."
    if share := found.get("uncovered"):
        title = POPULATIONS[IMPORTANCE].capitalize()
        yield f"{title} ({IMPORTANCE}): no example stands for {100 * share:.3g} % of the windows of the split score."


def show_explanations(report: dict[str, Any], console: Console) -> None:
    """Print what was found of each SAE: the loss beside its floors, and its companions."""
    made = report["explanations"]
    settings = made["settings"]
    console.print(
        f"[bold]{escape(report['lm']['name'])}[/bold] on {escape(settings['corpus'])}: {settings['rows']} rows of "
        f"{settings['positions']} positions, {settings['hook']}; explainer {settings['explainer']}, simulator "
        f"{settings['simulator']}",
        soft_wrap=True,
    )
    for own in made["saes"]:
        summary = own["summary"]
        console.print()
        console.print(f"[bold]{escape(own['sae'])}[/bold]: {outcome(summary['latents'])}", soft_wrap=True)
        for why, count in summary["latents"]["reasons"].items():
            console.print(f"  {count} × {escape(why)}", style="dim", soft_wrap=True)
        if summary["latents"]["scored"]:
            console.print(_floors(summary))
            console.print()
            console.print(_scores(summary))
            for said in remarks(summary):
                console.print(said, style="dim", soft_wrap=True, highlight=False)
        if made["settings"]["server"]:
            console.print(escape(made["settings"]["server"]), style="dim", soft_wrap=True)
    console.print(f"\n{made['provenance']['wall_s']:.0f} s in all.")


def _floors(summary: dict[str, Any]) -> RichTable:
    own = summary["scores"][HEADLINE]["all"]
    table = _table(f"{HEADLINE} {BETTER[REGISTRY[HEADLINE].direction]}", "value", "95 % interval", "explanations − it")
    table.add_row("  explanations", number(own["value"]), escape(interval(own)), "")
    for name, floor in own["floors"].items():
        difference = floor["difference"]
        gap = f"{escape(interval(difference))} {verdict(HEADLINE, difference)}" if "ci95" in difference else ""
        failed = summary["floors"][name]["failed"]
        label = FLOORS[name] + (f" ({failed} failed)" if failed else "")
        table.add_row(f"  {escape(label)}", number(floor["value"]), escape(interval(floor)), gap)
    for name, title in POPULATIONS.items():
        if name != "all":
            part = summary["scores"][HEADLINE][name]
            table.add_row(f"  explanations, {title}", number(part["value"]), escape(interval(part)), "")
    for name, part in own["by_density"].items():
        table.add_row(f"  latents of density {name} ({part['n']})", number(part["value"]), escape(interval(part)), "")
    return table


def _scores(summary: dict[str, Any]) -> RichTable:
    table = _table("companion", "value", "95 % interval", "N", FLOORS["token"], "explanations − it")
    for id, own in scores_of(summary):
        if id == HEADLINE:
            continue
        floor = own["floors"].get("token")
        cells = [f"  {id} {BETTER[REGISTRY[id].direction]}", number(own["value"]), escape(interval(own)), str(own["n"])]
        if floor is not None:
            difference = floor["difference"]
            gap = f"{escape(interval(difference))} {verdict(id, difference)}" if "ci95" in difference else ""
            cells += [number(floor["value"]), gap]
        table.add_row(*cells)
    return table


def _table(*names: str) -> RichTable:
    table = RichTable(box=None, pad_edge=False, header_style="dim")
    for name in names:
        right = name in ("value", "N", FLOORS["token"])
        table.add_column(escape(name), justify="right" if right else "left", no_wrap=True)
    return table
