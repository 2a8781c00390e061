"""Probes in `report.json` and on the terminal.

{"task", "features", "probe": "single"|"k_sparse"|"dense", "k", "penalty": "l1"|"l2", "strength": C of scikit-learn,
 "latents": [index, ...] or null for all, "bce": {"value", "ci95"}, "accuracy", "auc", "f1", "bce_in_sample",
 "converged"}
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from jsaeval.probes.fit import Examples, Probe
from jsaeval.probes.scores import SCORES, to_json
from jsaeval.report.numbers import interval, number


_NAMES = {"single": "best single one", "k_sparse": "k-sparse", "dense": "all"}


def probes_to_json(probes: Sequence[Probe], features: str, task: str | None = None) -> list[dict[str, Any]]:
    """Entries of "probes", of one task and set of features."""
    return [
        {"task": task, "features": features, "probe": probe.kind, "k": probe.k, "penalty": probe.penalty}
        | {"strength": probe.strength, "latents": None if probe.features is None else list(probe.features)}
        | to_json(probe.test)
        | {"bce_in_sample": probe.in_sample, "converged": probe.converged}
        for probe in probes
    ]


def show_probes(made: Sequence[dict[str, Any]], examples: Examples, console: Console) -> None:
    """Print probes of one task and set of features."""
    console.print(
        f"[bold]{escape(made[0]['features'])}[/bold]: {examples.x_train.shape[1]:,} features, "
        f"{len(examples.y_train):,} training and {len(examples.y_test):,} test examples, "
        f"{100 * examples.y_test.mean():.1f} % of them yes"
    )
    table = RichTable(box=None, pad_edge=False, header_style="dim")
    for name in ("probe", "k", "penalty", "C", "BCE (nats) ↓", "95 % interval", "accuracy ↑", "AUC ↑", "F1 ↑"):
        table.add_column(
            name, justify="left" if name in ("probe", "penalty", "95 % interval") else "right", no_wrap=True
        )
    for own in made:
        strength = "" if own["strength"] is None else f"{own['strength']:.3g}"
        values = [number(own[name]["value"]) for name in SCORES]
        row = [
            _NAMES[own["probe"]],
            "" if own["k"] is None else str(own["k"]),
            (own["penalty"] or "").upper(),
            strength,
        ]
        table.add_row(*row, values[0], escape(interval(own["bce"])), *values[1:])
    console.print(table)
    if failed := sum(not own["converged"] for own in made):
        console.print(f"{failed} of {len(made)} probes did not converge.")
