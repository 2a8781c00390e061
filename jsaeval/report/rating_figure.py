"""The figure of ratings: scores of latents and controls, as a whole and by interval of activation."""

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jsaeval.report.drawing import INK, STYLE, Picture, error_bar, svg


# Group → label, dash, marker, shade.
_LOOKS = {
    "latent": ("latents", "-", "o", INK),
    "random_sae": ("random SAE", ":", "^", "#6b6b6b"),
    "neurons": ("neurons", "--", "s", "#a3481c"),
    "random_directions": ("random directions", "-.", "D", "#3d7a45"),
}
_ASIDE = 0.1  # of an interval, so that error bars do not hide each other


def scores_figure(own: dict[str, Any], maximum: int, id: str) -> Picture | None:
    """Scores by group, and by interval where intervals were rated; None where nothing was.

    Args:
        own: an SAE of the section.
        maximum: of a score.
        id: of the SAE, on the page.
    """
    groups = {name: found for name, found in own["groups"].items() if found["score"]["value"] is not None}
    if not groups:
        return None
    intervals = any(len(found["by_interval"]) > 1 for found in groups.values())
    caption = "Human scores by group" + (" (left) and by interval of activation (right)" if intervals else "")
    caption += ", means with 95 % intervals over items."
    if intervals:
        caption += " High intervals of a latent are known to be more consistent than low ones."
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.9 if intervals else 0.35 * len(groups) + 0.8), layout="constrained")
        left, *right = figure.subplots(1, 2 if intervals else 1, squeeze=False)[0]
        _by_group(left, groups, maximum)
        for ax in right:
            _by_interval(ax, groups, maximum)
            handles, labels = ax.get_legend_handles_labels()
            figure.legend(handles, labels, frameon=False, ncols=4, loc="outside lower center", handlelength=4)
        return Picture(svg(figure, f"{id}-scores", caption), caption)


def _by_group(ax: Axes, groups: dict[str, Any], maximum: int) -> None:
    for y, (name, found) in enumerate(groups.items()):
        _, _, marker, shade = _LOOKS[name]
        ax.errorbar(found["score"]["value"], y, xerr=error_bar(found["score"]), fmt=marker, color=shade, capsize=2)
    ax.set_yticks(range(len(groups)), [_LOOKS[name][0] for name in groups])
    ax.set(xlim=(0, maximum), ylim=(len(groups) - 0.5, -0.5), xlabel="human score")


def _by_interval(ax: Axes, groups: dict[str, Any], maximum: int) -> None:
    ticks: set[int] = set()
    for i, (name, found) in enumerate(groups.items()):
        label, dash, marker, shade = _LOOKS[name]
        points = sorted((int(at), one) for at, one in found["by_interval"].items())
        ticks |= {at for at, _ in points}
        aside = _ASIDE * (i - (len(groups) - 1) / 2)
        ax.plot([at + aside for at, _ in points], [one["value"] for _, one in points], dash, color=shade, label=label)
        for at, one in points:
            ax.errorbar(at + aside, one["value"], yerr=error_bar(one), fmt=marker, color=shade, capsize=2, elinewidth=1)
    ax.set_xticks(sorted(ticks))
    ax.set(ylim=(0, maximum), xlabel="interval of activation, 11: the largest", ylabel="human score")
