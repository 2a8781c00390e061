"""Probes in `report.json` and on the terminal.

`probes`: one entry for each probe of each task,
    {"sae", "task", "group", "features", "probe": "single"|"k_sparse"|"dense", "k", "penalty": "l1"|"l2",
     "strength": C of scikit-learn, "latents": [index, ...] or null for all, "bce": {"value", "ci95"}, "accuracy",
     "auc", "f1", "bce_in_sample", "converged", "minus": as below, but of k-sparse ones}
`probe_summary`:
    {"settings", "tasks": [{"name", "group", "meaning", "train", "validation", "test", "cut", "left_out",
     "winners": [{"sae", "latent", "top": [{"text", "label", "activation"}]}]}],
     "overall": [line], "groups": {name: [line]}}
    A line is the mean of one probe over tasks, with "minus": the paired differences from others,
    {"x"|"dense_x"|"none"|"random_sae"|"shuffled_labels": {"bce": {"value", "ci95"}, ...}}.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from jsaeval.metrics.metric import wins
from jsaeval.metrics.registry import REGISTRY
from jsaeval.probes.fit import Examples, Probe
from jsaeval.probes.scores import SCORES, Scores, to_json
from jsaeval.probes.summary import Key, Line, Summary, differences
from jsaeval.probes.task import TaskResult, winner
from jsaeval.report.numbers import ends, interval, nats, number


_MOST_KS = 5  # of the k-sparse probes, in a table
_KINDS = {"single": "best single one", "k_sparse": "k-sparse", "dense": "all"}
FEATURES = {
    "latents": "latents",
    "x": "x, the residual stream",
    "reconstruction": "reconstruction",
    "error": "error (x − reconstruction)",
    "random_sae": "random SAE, same L0",
    "shuffled_labels": "latents, shuffled labels",
    "bag_of_words": "bag of words",
    "none": "none: share of yes",
}


def features_to_json(probes: Sequence[tuple[Probe, Scores]], features: str) -> list[dict[str, Any]]:
    """Entries of "probes", of features that come from a file."""
    return [
        _entry(probe, found, {"sae": None, "task": None, "group": None, "features": features})
        for probe, found in probes
    ]


def tasks_to_json(results: Sequence[TaskResult], summary: Summary, names: Sequence[str]) -> dict[str, Any]:
    """The entries "probes" and "probe_summary" of a report, without settings.

    Args:
        results: of each task.
        summary: of them.
        names: of the SAEs.
    """
    entries = []
    for result, found in zip(results, summary.tasks, strict=True):
        for own in result.fitted:
            p = own.probe
            about = {"sae": _name(own.sae, names), "task": result.name, "group": result.group, "features": p.features}
            key = Key.of(own)
            minus = differences(key, found) if p.kind != "k_sparse" else {}
            entries.append(_entry(p, found[key], about) | {"minus": _minus(minus)})
    return {
        "probes": entries,
        "probe_summary": {
            "tasks": [_task(result, names) for result in results],
            "overall": [_line(line, names) for line in summary.overall],
            "groups": {group: [_line(line, names) for line in lines] for group, lines in summary.groups.items()},
        },
    }


def probes_frame(made: dict[str, Any]) -> pd.DataFrame:
    """The entries of "probes" as a table, one line for each; scores with their intervals in columns of their own."""
    lines = []
    for own in made["probes"]:
        line = {key: value for key, value in own.items() if key not in (*SCORES, "minus")}
        for name in SCORES:
            low, high = own[name].get("ci95", (None, None))
            line |= {name: own[name]["value"], f"{name}_low": low, f"{name}_high": high}
        lines.append(line)
    return pd.DataFrame(lines).astype({"k": "Int64"})


def probe_loss(summary: Summary, sae: int) -> dict[str, Any]:
    """`probe_loss` and `probe_loss_in_sample` of an SAE, as metrics of the report."""
    for line in summary.overall:
        if (line.key.sae, line.key.features, line.key.kind) == (sae, "latents", "single"):
            found = {"probe_loss": to_json(line.found)["bce"], "probe_loss_in_sample": {"value": line.in_sample}}
            return {id: own | _declared(id) | {"n": line.tasks} for id, own in found.items()}
    return {}


def _declared(id: str) -> dict[str, Any]:
    metric = REGISTRY[id]
    return {"axis": metric.axis, "unit": metric.unit, "direction": metric.direction}


def _name(sae: int | None, names: Sequence[str]) -> str | None:
    return None if sae is None else names[sae]


def _entry(probe: Probe, found: Scores, about: dict[str, Any]) -> dict[str, Any]:
    return (
        about
        | {"probe": probe.kind, "k": probe.k, "penalty": probe.penalty, "strength": probe.strength}
        | {"latents": None if probe.chosen is None else list(probe.chosen)}
        | to_json(found)
        | {"bce_in_sample": probe.in_sample, "converged": probe.converged}
    )


def _line(line: Line, names: Sequence[str]) -> dict[str, Any]:
    key = line.key
    about = {"sae": _name(key.sae, names), "features": key.features, "probe": key.kind, "k": key.k}
    rest = {"penalty": key.penalty, "tasks": line.tasks}
    return about | rest | to_json(line.found) | {"bce_in_sample": line.in_sample, "minus": _minus(line.minus)}


def _minus(found: Mapping[str, Scores]) -> dict[str, Any]:
    return {name: to_json(own) for name, own in found.items()}


def _task(result: TaskResult, names: Sequence[str]) -> dict[str, Any]:
    train, validation, test = result.examples
    about = {"name": result.name, "group": result.group, "meaning": result.meaning, "train": train}
    rest = {"validation": validation, "test": test, "cut": result.cut, "left_out": result.left_out}
    winners = [
        {"sae": name, "latent": winner(result.fitted, i), "top": [vars(own) for own in result.top[i]]}
        for i, name in enumerate(names)
    ]
    return about | rest | {"winners": winners}


def show_features(made: Sequence[dict[str, Any]], examples: Examples, console: Console) -> None:
    """Print probes of features that come from a file."""
    console.print(
        f"[bold]{escape(made[0]['features'])}[/bold]: {examples.x_train.shape[1]:,} features, "
        f"{len(examples.y_train):,} training and {len(examples.y_test):,} test examples, "
        f"{100 * examples.y_test.mean():.1f} % of them yes"
    )
    table = _table(("probe", "k", "penalty", "C", "BCE (nats) ↓", "95 % interval", "accuracy ↑", "AUC ↑", "F1 ↑"))
    for own in made:
        strength = "" if own["strength"] is None else f"{own['strength']:.3g}"
        values = [number(own[name]["value"]) for name in SCORES]
        about = (_KINDS[own["probe"]], _k(own), (own["penalty"] or "").upper(), strength)
        table.add_row(*about, values[0], escape(interval(own["bce"])), *values[1:])
    console.print(table)
    _say_failed(made, console)


def show_probes(report: dict[str, Any], console: Console) -> None:
    """Print the probes of a report: means over tasks, then by group of tasks."""
    summary = report["probe_summary"]
    settings, tasks = summary["settings"], summary["tasks"]
    tests = sum(task["test"] for task in tasks)
    console.print(
        f"[bold]{report['lm']['name']}[/bold], {settings['hook']}: {len(tasks)} tasks, {tests:,} test texts, pooled by "
        f"{settings['pool']}"
    )
    for name in settings["saes"]:
        console.print()
        console.print(f"[bold]{escape(name)}[/bold], means over {len(tasks)} tasks", soft_wrap=True)
        heads = ("probe on", "k", "BCE ↓", "95 % interval", "acc.", "AUC", "F1", "BCE − same probe on x")
        table = _table(heads)
        for own in shown_lines(summary["overall"], name):
            values = [f"{own[score]['value']:.3f}" for score in SCORES]
            best = ", best one" if own["probe"] == "single" else ", all" if own["probe"] == "dense" else ""
            what = FEATURES[own["features"]] + ("" if own["features"] == "none" else best)
            minus = escape(difference(own, "x"))
            table.add_row(what, _k(own), values[0], escape(ends(own["bce"])), *values[1:], minus)
        console.print(table)
        if "k_sparse" in settings["which"]["kinds"]:
            console.print(
                f"k-sparse probes: {_penalty(summary['overall']).upper()}; others, and more k, in report.json"
            )
        if "dense" in settings["which"]["kinds"]:
            console.print()
            console.print(_by_group(summary, name))
    _say_failed(report["probes"], console)


def _by_group(summary: dict[str, Any], name: str) -> RichTable:
    """All latents beside all of x, group by group."""
    table = _table(("dense probes by group", "tasks", "latents", "x", "BCE, latents − x", ""))
    for group, lines in summary["groups"].items():
        found = {(own["sae"], own["features"]): own for own in lines if own["probe"] == "dense"}
        if (name, "latents") not in found:
            continue
        own, x = found[name, "latents"], found[None, "x"]
        minus = own["minus"]["x"]["bce"]
        table.add_row(
            group,
            str(own["tasks"]),
            f"{own['bce']['value']:.3f}",
            f"{x['bce']['value']:.3f}",
            escape(difference(own, "x")),
            verdict(minus),
        )
    return table


def shown_lines(lines: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The lines that a table shows of an SAE: of k-sparse probes one penalty and some k only, sorted by features."""
    order, ks = list(FEATURES), sorted({own["k"] for own in lines if own["probe"] == "k_sparse"})
    shown = ks if len(ks) <= _MOST_KS else ks[:: -(-len(ks) // _MOST_KS)]
    kept = [
        own
        for own in lines
        if own["sae"] in (name, None)
        and (own["probe"] != "k_sparse" or (own["k"] in shown and own["penalty"] == _penalty(lines)))
    ]
    return sorted(kept, key=lambda own: (order.index(own["features"]), own["probe"] == "dense", own["k"] or 0))


def _penalty(lines: Sequence[dict[str, Any]]) -> str:
    found = {own["penalty"] for own in lines if own["probe"] == "k_sparse"}
    return "l2" if "l2" in found else "l1"


def difference(line: dict[str, Any], other: str) -> str:
    """`+0.030 [0.021, 0.041]` nats from another probe, if it was fitted, too."""
    found = line["minus"].get(other, {}).get("bce")
    return "" if found is None else f"{nats(found['value'], '+')} {ends(found)}"


def verdict(minus: dict[str, Any]) -> str:
    """Of a difference in BCE: better, worse, or unclear where the interval holds 0."""
    won = wins("lower", minus.get("ci95"))
    return "unclear" if won is None else "better" if won else "worse"


def _k(own: dict[str, Any]) -> str:
    return "" if own["k"] is None else str(own["k"])


def _table(heads: Sequence[str]) -> RichTable:
    table = RichTable(box=None, pad_edge=False, header_style="dim")
    for name in heads:
        left = name.startswith(("probe", "dense")) or name in ("penalty", "95 % interval", "")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    return table


def _say_failed(made: Sequence[dict[str, Any]], console: Console) -> None:
    if failed := sum(not own["converged"] for own in made):
        console.print(f"{failed} of {len(made)} probes did not converge.")
