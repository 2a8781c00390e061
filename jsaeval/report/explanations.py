"""Explanations in `report.json` and on the terminal.

`explanations`: {"settings", "provenance", "saes": [{"sae": name, "summary": what
`jsaeval.autointerp.summary.summarise` returns, "latents": [{"dictionary": null or a look-alike, "latent", "density",
"explainer", "text", "problem", "error", "mass_on_levels", "uncovered", "scores": {id: headline value or null}}]}]}; the
two before the scores are null where they are not known.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from jsaeval.autointerp.evaluate import Dictionary, Explained
from jsaeval.autointerp.populations import IMPORTANCE
from jsaeval.autointerp.scores import WHERE
from jsaeval.autointerp.summary import LEAST_LATENTS
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


def simulator_of(settings: dict[str, Any]) -> str:
    """Who simulated, with the name of the LM where it is one."""
    lm = settings.get("simulator_lm")
    return f"{settings['simulator']} ({lm})" if lm else settings["simulator"]


def first_in_a_text(explainers: Iterable[str], positions: int) -> str | None:
    """What these words mean in explanations of N2G and lookup tables; None of others, which do not say them so."""
    if not {"n2g", "lookup"} & set(explainers):
        return None
    where = f"first behind BOS in a row of {positions} positions"
    return f"“First in a text” means {where}, which often begins in the middle of a sentence."


def remarks(found: Mapping[str, Any]) -> Iterator[str]:
    """What readers of scores have to know of the simulator and the examples, from a summary or a record of a latent."""
    if (mass := found.get("mass_on_levels")) is not None:
        yield f"Mass on levels: {mass:.2g}; an LM that is not asked to answer with a level puts little there."
    if share := found.get("uncovered"):
        title = POPULATIONS[IMPORTANCE].capitalize()
        yield f"{title} ({IMPORTANCE}): no example stands for {100 * share:.3g} % of the windows of the split score."


def remarks_on(summary: dict[str, Any]) -> Iterator[str]:
    """The same of a summary, and why some of its means have no interval."""
    yield from remarks(summary)
    if any(0 < mean["n"] < LEAST_LATENTS for mean in _means(summary)):
        yield f"Means over fewer than {LEAST_LATENTS} latents have no interval."


def _means(summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those that are shown."""
    main = summary["scores"][HEADLINE]
    yield from (*main.values(), *main["all"]["by_density"].values())
    for id, own in scores_of(summary):
        yield own
        for name, floor in own["floors"].items():
            if id == HEADLINE or name == "token":
                yield from (floor, floor["difference"])


def show_explanations(report: dict[str, Any], console: Console) -> None:
    """Print what was found of each SAE: the loss beside its floors, and its companions."""
    made = report["explanations"]
    settings = made["settings"]
    console.print(
        f"[bold]{escape(report['lm']['name'])}[/bold] on {escape(settings['corpus'])}: {settings['rows']} rows of "
        f"{settings['positions']} positions, {settings['hook']}; explainer {settings['explainer']}, simulator "
        f"{escape(simulator_of(settings))}",
        soft_wrap=True,
    )
    for own in made["saes"]:
        summary = own["summary"]
        console.print()
        console.print(f"[bold]{escape(own['sae'])}[/bold]: {outcome(summary['latents'])}", soft_wrap=True)
        for why, count in summary["latents"]["reasons"].items():
            console.print(f"  {count} × {escape(why)}", style="dim", soft_wrap=True)
        if summary["latents"]["scored"]:
            tables = [*_floors(summary, console), _parts(summary), *_companions(summary, console)]
            for i, table in enumerate(tables):
                if i:
                    console.print()
                console.print(table)
            for said in remarks_on(summary):
                console.print(said, style="dim", soft_wrap=True, highlight=False)
        if made["settings"]["server"]:
            console.print(escape(made["settings"]["server"]), style="dim", soft_wrap=True)
    console.print(f"\n{made['provenance']['wall_s']:.0f} s in all.")


def _floors(summary: dict[str, Any], console: Console) -> list[RichTable]:
    own = summary["scores"][HEADLINE]["all"]
    lines = [["explanations", number(own["value"]), interval(own), ""]]
    for name, floor in own["floors"].items():
        failed = summary["floors"][name]["failed"]
        label = FLOORS[name] + (f" ({failed} failed)" if failed else "")
        lines.append([label, number(floor["value"]), interval(floor), _gap(HEADLINE, floor)])
    head = f"{HEADLINE} {BETTER[REGISTRY[HEADLINE].direction]}"
    return _beside([head, "value", "95 % interval", "explanations − it"], lines, 3, console)


def _parts(summary: dict[str, Any]) -> RichTable:
    """The loss by examples and by density, with the number of latents of each."""
    own = summary["scores"][HEADLINE]
    parts = {title: own[name] for name, title in POPULATIONS.items()}
    parts |= {f"density {name}": part for name, part in own["all"]["by_density"].items()}
    lines = [
        [title, number(part["value"]), interval(part), _latents_in(part, summary)] for title, part in parts.items()
    ]
    return _table(["explanations, by examples and latents", "value", "95 % interval", "latents"], lines)


def _companions(summary: dict[str, Any], console: Console) -> list[RichTable]:
    lines = []
    for id, own in scores_of(summary):
        if id != HEADLINE:
            floor = own["floors"].get("token")
            against = ["", ""] if floor is None else [number(floor["value"]), _gap(id, floor)]
            head = f"{id} {BETTER[REGISTRY[id].direction]}"
            lines.append([head, number(own["value"]), interval(own), _latents_in(own, summary), *against])
    names = ["companion", "value", "95 % interval", "latents", FLOORS["token"], "explanations − it"]
    return _beside(names, lines, 4, console)


def _gap(id: str, floor: dict[str, Any]) -> str:
    """What explanations are better or worse by than a floor, with the interval and what that means."""
    difference = floor["difference"]
    if difference["value"] is None:
        return ""
    ends = f"[{', '.join(map(_short, difference['ci95']))}]" if "ci95" in difference else ""
    return " ".join(filter(None, (_short(difference["value"]), ends, verdict(id, difference))))


def _short(value: float) -> str:
    """Four digits behind the point, or one digit of what is smaller."""
    return f"{value:.4f}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1g}"


def _latents_in(part: dict[str, Any], summary: dict[str, Any]) -> str:
    """How many latents are in a mean, and out of how many if it could be more."""
    every = summary["latents"]["scored"] + summary["latents"]["failed"]
    return str(part["n"]) if part["n"] == every else f"{part['n']} of {every}"


def _beside(names: Sequence[str], lines: Sequence[Sequence[str]], left: int, console: Console) -> list[RichTable]:
    """One table; on a console that is too narrow its `left` columns, and below them the others."""
    whole = _table(names, lines)
    if console.measure(whole, options=console.options.update(width=1000)).maximum <= console.width:
        return [whole]
    below = [[line[0], *line[left:]] for line in lines if any(line[left:])]
    parts = [_table(names[:left], [line[:left] for line in lines])]
    return parts + ([_table([names[0], *names[left:]], below)] if below else [])


def _table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> RichTable:
    """The last column is broken into lines where there is no room."""
    table = RichTable(box=None, pad_edge=False, header_style="dim")
    for name in names:
        right = name in ("value", "latents", FLOORS["token"])
        table.add_column(escape(name), justify="right" if right else "left", no_wrap=name != names[-1])
    for head, *cells in lines:
        table.add_row(*map(escape, (f"  {head}", *cells)))
    return table
