"""What `jsaeval compare` says: a table for the terminal, and a dictionary for `--out`.

{"schema": 1, "rows": n, "pairs": [{"a": {"folder", "sae", "hook"}, "b": {...}, "same_hook", "metrics":
 {"<id>": {"a", "b", "difference", "ci95" or absent, "verdict", "n", "unit", "direction"}}}]}
"""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from jsaeval.metrics.compute import Estimate
from jsaeval.metrics.metric import Metric, wins
from jsaeval.metrics.registry import REGISTRY
from jsaeval.report.json_report import finite
from jsaeval.report.numbers import interval, number
from jsaeval.run.compare import Pair, Side
from jsaeval.run.folder import SCHEMA


def verdict(metric: Metric, difference: Estimate) -> str:
    """Is a better than b? Said only where the metric has a better side and the interval excludes 0."""
    if metric.direction == "neither":
        return ""
    won = wins(metric.direction, difference.ci95())
    return "unclear" if won is None else "A better" if won else "B better"


def compared(pairs: list[Pair]) -> dict[str, Any]:
    """The dictionary of `--out`."""
    return finite({"schema": SCHEMA, "rows": pairs[0].n_rows, "pairs": [_pair(pair) for pair in pairs]})


def _pair(pair: Pair) -> dict[str, Any]:
    metrics = {}
    for id, difference in pair.differences.items():
        metric, ends = REGISTRY[id], difference.ci95()
        one, other = pair.values[id]
        metrics[id] = {"a": one.value, "b": other.value, "difference": difference.value}
        metrics[id] |= {} if ends is None else {"ci95": list(ends)}
        metrics[id] |= {"verdict": verdict(metric, difference), "n": difference.n}
        metrics[id] |= {"unit": metric.unit, "direction": metric.direction}
    return {"a": _about(pair.a), "b": _about(pair.b), "same_hook": pair.same_hook, "metrics": metrics}


def _about(side: Side) -> dict[str, Any]:
    return {"folder": str(side.folder), "sae": side.sae["name"], "hook": side.sae["hook"]}


def show_compared(pairs: list[Pair], console: Console) -> None:
    """Print each pair as a table."""
    for pair in pairs:
        made = _pair(pair)
        for letter in ("a", "b"):
            about = made[letter]
            line = f"[bold]{letter.upper()}[/bold] {escape(about['sae'])}, {about['hook']} ({escape(about['folder'])})"
            console.print(line, soft_wrap=True)
        table = RichTable(box=None, pad_edge=False, header_style="dim")
        for name in ("metric", "A", "B", "A − B", "95 % interval", "unit", ""):
            table.add_column(name, justify="right" if name in ("A", "B", "A − B") else "left", no_wrap=True)
        for id, m in made["metrics"].items():
            values = [number(m[key]) for key in ("a", "b", "difference")]
            table.add_row(id, *values, escape(interval(m)), m["unit"], m["verdict"])
        console.print(table)
        if not pair.same_hook:
            console.print(
                "The hooks differ, so metrics of the activation, of later blocks and of zero ablation are left out."
            )
        console.print(
            f"Paired on the same {pair.n_rows} rows: both sides are resampled together. A side is called better where "
            "the interval excludes 0.\n"
        )
