"""The report as a table for the terminal: Faithfulness and Interpretability, each value with its interval."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from jsaeval.report.comparison import COLUMNS, comparison, controls_by_hook
from jsaeval.report.numbers import interval, number
from jsaeval.report.summary import warnings_of


_BETTER = {"higher": "↑", "lower": "↓", "neither": ""}
_VERDICTS = {"better": "better", "worse": "[red]worse[/red]", "unclear": "unclear", "": ""}
_COMPARED = 3  # columns fit beside each other
_TITLES = {"faithfulness": "Faithfulness (to the LM)", "interpretability": "Interpretability (to people)"}


def show_report(report: dict[str, Any], console: Console) -> None:
    """Print a report as made by `jsaeval.report.json_report.report`."""
    lm, corpus, masks = report["lm"], report["corpus"], report["masks"]
    console.print(
        f"[bold]{lm.get('name', 'LM')}[/bold] on {corpus['name']}: {corpus['rows']} rows of {corpus['positions']} "
        f"positions, {masks['metric_tokens']:,} tokens counted (metric mask {masks['metric']}, splice mask "
        f"{masks['splice']})"
    )
    for sae in report["saes"]:
        console.print()
        if "error" in sae:
            console.print(f"[bold]{sae['name']}[/bold]: [red]failed[/red]: {sae['error']}", soft_wrap=True)
        else:
            console.print(
                f"[bold]{sae['name']}[/bold]: {sae['architecture']}, {sae['d_in']} → {sae['d_sae']} latents, "
                f"{sae['hook']}",
                soft_wrap=True,
            )
            for warning in warnings_of(sae):
                console.print(f"  [bold red]warning[/bold red]: {escape(warning)}", soft_wrap=True)
            console.print(_table(sae["metrics"]))
            print_comparison(report, sae, console)
    for hook, controls in controls_by_hook(report).items():
        zero, identity = controls.get("zero"), controls.get("identity")
        if zero and not identity:
            console.print(f"Zero ablation of {hook}: {_in_line(zero)}.")
        if identity and not identity["holds"]:
            console.print(
                f"[bold red]Identity control FAILED at {hook}[/bold red]: {_in_line(identity)}", soft_wrap=True
            )
    provenance = report["provenance"]
    console.print(
        f"{provenance['tokens_per_s']:.0f} tokens/s after {provenance['compile_s']:.0f} s of compilation, "
        f"{provenance['wall_s']:.0f} s in all, peak {provenance['peak_rss_mb'] / 1024:.2f} GiB; "
        f"{provenance['dtype']}, matmul precision {provenance['precision']}."
    )


def print_comparison(report: dict[str, Any], sae: dict[str, Any], console: Console) -> None:
    """Print an SAE next to its controls, if they were run."""
    lines = comparison(report, sae)
    if not lines:
        return
    shown = [id for id in COLUMNS if id in lines[0].metrics][:_COMPARED]
    table = RichTable(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"on the {report['controls']['rows']} control rows", no_wrap=True)
    for id in shown:
        table.add_column(id, justify="right", no_wrap=True)
    table.add_column(f"SAE − control ({shown[0]})", no_wrap=True)
    for line in lines:
        values = [number(line.metrics[id]["value"]) if id in line.metrics else "" for id in shown]
        difference = escape(interval(line.difference.get(shown[0], {})))
        table.add_row(f"  {line.label}", *values, f"{difference} {_VERDICTS[line.verdict]}".strip())
    console.print()
    console.print(table)


def _in_line(control: dict[str, Any]) -> str:
    return ", ".join(f"{id} {number(metric['value'])}" for id, metric in control["metrics"].items())


def _table(metrics: dict[str, Any]) -> RichTable:
    table = RichTable(box=None, pad_edge=False, header_style="dim")
    for name in ("metric", "value", "95 % interval", "unit", "N"):
        table.add_column(name, justify="right" if name in ("value", "N") else "left", no_wrap=True)
    for axis, title in _TITLES.items():
        chosen = {name: m for name, m in metrics.items() if m["axis"] == axis}
        if chosen:
            table.add_section()
            table.add_row(f"[bold]{title}[/bold]")
        for name, metric in chosen.items():
            unit = f"{metric['unit']} {_BETTER[metric['direction']]}"
            table.add_row(f"  {name}", number(metric["value"]), escape(interval(metric)), unit, f"{metric['n']:,}")
    return table
