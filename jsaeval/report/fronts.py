"""The fronts of a sweep: a metric against L0, with intervals, the floors as lines, and the SAEs that no other beats.

Figures are drawn as in `jsaeval.report.figures`.
"""

from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from jsaeval.metrics.registry import REGISTRY
from jsaeval.report.comparison import FLOORS, short
from jsaeval.report.drawing import INK, STYLE, Picture, error_bar, svg


FRONTS = ("ce_recovered_zero", "downstream_loss", "fvu", "downstream_fvu")
# Kinds of SAE are told apart by marker; the shade only helps.
_KINDS = (("o", INK), ("s", "#a3481c"), ("^", "#3d7a45"), ("D", "#6b4a8a"), ("v", "#8a6d1c"), ("P", "#444444"))
_FLOOR_LINES = dict(zip(FLOORS, ("--", ":", "-."), strict=True))
# L0 is drawn on a logarithmic axis from this ratio on.
_WIDE = 5


def fronts(saes: list[tuple[int, dict[str, Any]]], hook: str, where: str) -> Iterator[Picture]:
    """A picture for each of `FRONTS` that was measured for two SAEs or more.

    Args:
        saes: SAEs at one hook, each with its number in the list of SAEs.
        hook: its name.
        where: what the captions end with.
    """
    for id in FRONTS:
        points = [(i, sae) for i, sae in saes if known(sae["metrics"], "l0", id)]
        if len(points) < 2:
            continue
        better = "up" if REGISTRY[id].direction == "higher" else "down"
        drawn, outside = _front(id, points, f"{hook}-{id}")
        floors = ""
        if any(sae.get("floors") for _, sae in points):
            floors = " Thin lines are the floors at each SAE's L0, measured on the control rows."
        if outside:
            floors += f" Outside the figure: {', '.join(short(name) for name in outside)}."
        yield Picture(
            drawn,
            f"{id} against L0, with 95 % intervals; better is {better} and to the left. The step line is the front: "
            f"SAEs that no other beats on both.{floors}{where}",
        )


def known(metrics: dict[str, Any], *ids: str) -> bool:
    """Whether metrics were measured and are defined."""
    return all(id in metrics and metrics[id]["value"] is not None for id in ids)


def kind_of(sae: dict[str, Any]) -> str:
    """The architecture without its k."""
    return sae["architecture"].rpartition("-")[0] or sae["architecture"]


def pareto(points: list[tuple[float, float]], higher: bool) -> list[tuple[float, float]]:
    """Those of (L0, value) that no other beats on both, by ascending L0."""
    sign = -1.0 if higher else 1.0
    best, front = float("inf"), []
    for x, y in sorted(points, key=lambda p: (p[0], sign * p[1])):
        if sign * y < best:
            best = sign * y
            front.append((x, y))
    return front


def _front(id: str, points: list[tuple[int, dict[str, Any]]], name: str) -> tuple[str, list[str]]:
    """The figure, and the floors that lie outside it."""
    higher = REGISTRY[id].direction == "higher"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        ax = figure.subplots()
        kinds = list(dict.fromkeys(kind_of(sae) for _, sae in points))
        xy = []
        for i, sae in points:
            marker, shade = _KINDS[kinds.index(kind_of(sae)) % len(_KINDS)]
            x, y = (sae["metrics"][key]["value"] for key in ("l0", id))
            xy.append((x, y))
            errors: Any = {"xerr": error_bar(sae["metrics"]["l0"]), "yerr": error_bar(sae["metrics"][id])}
            ax.errorbar(x, y, fmt=marker, color=shade, capsize=2, elinewidth=1, **errors)
            ax.annotate(f"{i}", (x, y), (5, 4), textcoords="offset points", fontsize=8)
        ax.plot(*zip(*pareto(xy, higher), strict=True), "-", color=INK, linewidth=1, drawstyle="steps-post")
        outside = _floors(ax, id, [sae for _, sae in points], [y for _, y in xy])
        for kind, (marker, shade) in zip(kinds, _KINDS, strict=False):
            ax.plot([], [], marker, color=shade, label=kind)
        x = [x for x, _ in xy]
        if min(x) > 0 and max(x) / min(x) > _WIDE:
            ax.set_xscale("log")
            plain_numbers(ax.xaxis)
        ax.set_xlabel("L0 (latents)")
        ax.set_ylabel(f"{id} ({REGISTRY[id].unit})")
        ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        return svg(figure, name, f"{id} against L0"), outside


def plain_numbers(axis: Axis) -> None:
    """1, 2, 5, 10, ... at the ticks of a logarithmic axis, not powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _floors(ax: Axes, id: str, saes: list[dict[str, Any]], values: list[float]) -> list[str]:
    """Draw the floors over L0, as far as they leave the SAEs room; returns those left out."""
    log = min(values) > 0 and REGISTRY[id].direction == "lower"
    outside = []
    room = (max(values) - min(values)) or abs(values[0]) or 1.0
    for name, dash in _FLOOR_LINES.items():
        line = []
        for sae in saes:
            floor = sae.get("floors", {}).get(name, {}).get("metrics", {}).get(id)
            if floor and floor["value"] is not None:
                line.append((sae["metrics"]["l0"]["value"], floor["value"]))
        if not line:
            continue
        far = min(y for _, y in line) <= 0 if log else not all(min(values) - 3 * room <= y <= 1.5 for _, y in line)
        if far:
            outside.append(name)
        else:
            ax.plot(*zip(*sorted(line), strict=True), dash, color="#777777", linewidth=1, label=short(name))
    if log:
        ax.set_yscale("log")
        plain_numbers(ax.yaxis)
        ax.set_ylim(bottom=max(ax.get_ylim()[0], min(values) / 3))  # a floor may be 0 but for rounding
    return outside
