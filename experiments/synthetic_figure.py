"""The figure of `synthetic.py`: what each metric says of each ladder of broken SAEs, in both worlds."""

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from experiments.degraded import LADDERS, rung_names


_COLUMNS = {
    "mcc": "dictionary\nmatches truth\nmcc",
    "f1": "latents fire\nwhen they should\nf1",
    "fvu": "reconstruction\n\nfvu",
    "l2_ratio": "norm kept\n\nl2_ratio",
    "downstream_reconstruction": "later blocks\ndownstream_\nreconstruction",
    "downstream_loss": "prediction, KL\ndownstream_\nloss",
    "ce_increase": "prediction, CE\n\nce_increase",
    "top1_agreement": "same top token\ntop1_\nagreement",
    "l0": "active latents\n\nl0",
    "alive": "latents in use\n\nalive",
}
_ROWS = {
    "rotated": "decoder rows turned\nto cosine 0.99, 0.95, 0.9, 0.7",
    "replaced": "10, 25, 50 % of latents random;\nthen all, the random SAE",
    "removed": "10, 25, 50 % of latents gone",
    "merged": "25, 50, 100 % of the pairs of\nparent and child share a latent",
    "shrunk": "output scaled by 0.95, 0.8, 0.6",
    "too_many": "thresholds too low:\nL0 × 1.5, 2, 3",
    "too_few": "thresholds too high:\nL0 × 0.75, 0.5, 0.25",
}
_FILL = {"sees": "#dcebf5", "blind": "#efefef", "reversed": "#f7d9c4", "mixed": "#fdf3cf"}
_WORLDS = {"orthonormal": ("-", "o", "#1b4d72"), "overcomplete": ("--", "s", "#a3481c")}
_STYLE: Any = {"font.family": "sans-serif", "font.size": 8.0}


def draw(goodness: dict[str, dict[str, dict[str, float]]], verdicts: dict[str, dict[str, dict[str, str]]], path: Path):
    """Write the figure.

    Args:
        goodness: per world, SAE and metric: a number that is higher where the metric says that the SAE is better.
        verdicts: per world, ladder and metric: sees, blind, reversed or mixed.
        path: a .png file.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(13.5, 7.6))
        grid: Any = figure.subplots(len(_ROWS), len(_COLUMNS))
        figure.subplots_adjust(left=0.16, right=0.995, top=0.80, bottom=0.085, hspace=0.12, wspace=0.08)
        for axes, ladder in zip(grid, _ROWS, strict=True):
            for ax, id in zip(axes, _COLUMNS, strict=True):
                _cell(ax, ladder, id, goodness, verdicts)
            axes[0].text(
                -0.12, 0.5, f"{_ROWS[ladder]}", transform=axes[0].transAxes, ha="right", va="center", fontsize=8.5
            )
        for ax, label in zip(grid[0], _COLUMNS.values(), strict=True):
            ax.set_title(label, fontsize=8.5)
        figure.text(
            0.005,
            0.985,
            "Do the metrics see what is broken? Each line starts at the best SAE (left) and breaks it step by step, in "
            "one way per row. Up is better according to the metric of the column.",
            fontsize=11,
            va="top",
        )
        figure.text(
            0.005,
            0.945,
            "A metric that sees the damage falls at every step. Flat: it is blind to it. Rising: it prefers the broken "
            "SAE. Solid, circles: 96 orthonormal features in 128 dimensions, where the best SAE is exact.\nDashed, "
            "squares: 512 features in 128 dimensions, where no SAE can be. The word and the shade are of the solid "
            "line; the word in brackets of the dashed one, where it differs. One vertical scale per column and world.",
            fontsize=8.5,
            va="top",
        )
        for i, (word, meaning) in enumerate(
            {
                "sees": "every step is worse",
                "blind": "no step differs beyond its error",
                "reversed": "every step is better",
                "mixed": "some of each",
            }.items()
        ):
            figure.text(
                0.16 + 0.17 * i,
                0.03,
                f"{word}: {meaning}",
                bbox={"facecolor": _FILL[word], "edgecolor": "#999999", "linewidth": 0.5},
            )
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        Image.open(picture).convert("RGB").quantize(64).save(path, optimize=True)


def _cell(ax: Axes, ladder: str, id: str, goodness: Any, verdicts: Any) -> None:
    words = {world: verdicts[world][ladder][id] for world in goodness}
    for world, saes in goodness.items():
        values = np.array([metrics[id] for metrics in saes.values()])
        line = np.array([saes[name][id] for name in rung_names(ladder)])
        dash, marker, colour = _WORLDS[world]
        spread = np.ptp(values) or 1.0
        ax.plot((line - values.min()) / spread, dash, marker=marker, color=colour, markersize=2.8, linewidth=1.1)
    first, *others = words.values()
    ax.set_facecolor(_FILL[first])
    ax.text(0.03, 0.04, first, transform=ax.transAxes, fontsize=8)
    for other in others:
        if other != first:
            ax.text(0.97, 0.04, f"({other})", transform=ax.transAxes, fontsize=7, ha="right", color="#7a3413")
    ax.set(xticks=[], yticks=[], ylim=(-0.3, 1.12), xlim=(-0.3, max(map(len, LADDERS.values())) + 0.3))
    for spine in ax.spines.values():
        spine.set(color="#bbbbbb", linewidth=0.5)
