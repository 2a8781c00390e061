"""The learning curves of a training, drawn from its log."""

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from jsaeval.cache import atomic
from jsaeval.report.drawing import STYLE


_TRAINING = {"loss": "loss", "fvu": "FVU at the hook", "l0": "active latents", "dead": "dead latents"}
_EVALUATION = {"ce_recovered_zero": "CE recovered (zero), held out", "downstream_loss": "KL, held out (nats)"}


def draw_curves(folder: Path) -> None:
    """`curves.svg` beside `log.jsonl`: one line for each SAE."""
    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    training, evaluation = ([line for line in lines if kind in line] for kind in ("training", "evaluation"))
    if not training:
        return
    panels = [(_TRAINING, training, "training")] + ([(_EVALUATION, evaluation, "evaluation")] if evaluation else [])
    columns = len(_TRAINING)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * columns, 2.3 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), columns, squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)
        for row, (quantities, some, kind) in zip(grid, panels, strict=True):
            for axes, (key, label) in zip(row, quantities.items(), strict=False):
                axes.set_visible(True)
                _draw(axes, some, kind, key)
                axes.set(xlabel="training tokens", ylabel=label)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        with atomic(folder / "curves.svg") as temporary:
            figure.savefig(temporary, format="svg")


def _draw(axes: Any, lines: list[dict[str, Any]], kind: str, key: str) -> None:
    for name in lines[-1][kind]:
        points = [(line["tokens"], line[kind][name][key]) for line in lines if name in line[kind]]
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1, marker="o" if len(points) < 12 else None, ms=2)
    if key in ("loss", "fvu") and all(line[kind][name][key] > 0 for line in lines for name in line[kind]):
        axes.set_yscale("log")
