"""The report as a table for the terminal: Faithfulness and Interpretability, each value with its interval."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable


_BETTER = {"higher": "↑", "lower": "↓", "neither": ""}
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
            console.print(_table(sae["metrics"]))
    if zero := report["controls"].get("zero"):
        values = ", ".join(f"{name} {number(value)}" for name, value in zero["metrics"].items())
        console.print(f"Zero ablation of the hook: {values}.")
    provenance = report["provenance"]
    console.print(
        f"{provenance['tokens_per_s']:.0f} tokens/s after {provenance['compile_s']:.0f} s of compilation, "
        f"{provenance['wall_s']:.0f} s in all, peak {provenance['peak_rss_mb'] / 1024:.2f} GiB; "
        f"{provenance['dtype']}, matmul precision {provenance['precision']}."
    )


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
            low_high = metric.get("ci95")
            interval = f"[{number(low_high[0])}, {number(low_high[1])}]" if low_high else ""
            table.add_row(f"  {name}", number(metric["value"]), interval.replace("[", "\\["), unit, f"{metric['n']:,}")
    return table


def number(value: float | None) -> str:
    """Four significant digits, without exponent where that is readable."""
    if value is None or not math.isfinite(value):
        return "undefined"
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        digits = 4 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:,.{min(digits, 6)}f}"
    return f"{value:.3e}"
