"""The figures of probes: BCE over k, and task by task against x. Drawn as in `jsaeval.report.figures`."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from jsaeval.report.drawing import INK, STYLE, Picture, svg


# Features → label, dash, marker, shade, and how far aside (a factor of k) so that error bars do not hide each other.
_SERIES = {
    "latents": ("latents", "-", "o", INK, 1.0),
    "x": ("x", "--", "s", "#a3481c", 1.09),
    "random_sae": ("random SAE", ":", "^", "#6b6b6b", 0.92),
}
_GROUPS = ("o", "s", "^", "D", "v", "X", "P", "<", ">", "*", "p", "h", "d", "8", "H")
_SHADES = (INK, "#a3481c", "#3d7a45", "#6b4a8a")
_HEADS = {"dense": ("all of x", "all latents"), "single": ("best single channel of x", "best single latent")}
# As many tasks are named, at most, and so much of a name is shown.
_NAMED, _NAME = 6, 26


def k_curve(lines: Sequence[dict[str, Any]], name: str, id: str) -> Picture | None:
    """BCE over k of the k-sparse probes of an SAE, on latents, x and a random SAE; None without such probes.

    Args:
        lines: means over tasks.
        name: of the SAE.
        id: of the SAE, on the page.
    """
    own = [line for line in lines if line["sae"] in (name, None) and line["features"] in _SERIES]
    sparse = sorted((line for line in own if line["probe"] == "k_sparse"), key=lambda line: line["k"])
    full = {
        line["features"]: line["bce"] for line in own if line["probe"] == "dense" and line["bce"]["value"] is not None
    }
    if not sparse:
        return None
    ks, penalties = sorted({line["k"] for line in sparse}), sorted({line["penalty"] for line in sparse})
    end = 2 * ks[-1]
    ticks = ks[:: -2 if len(ks) > 6 else -1] + ([end] if full else [])
    caption = "BCE over the number k of features that a probe may use, with 95 % intervals; lower is better."
    if full:
        caption += " At “all” and as thin lines: dense probes on all features, with L2."
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axes = figure.subplots(1, len(penalties), sharey=True, squeeze=False)[0]
        for ax, penalty in zip(axes, penalties, strict=True):
            for features, (label, dash, marker, shade, aside) in _SERIES.items():
                found = [line for line in sparse if (line["features"], line["penalty"]) == (features, penalty)]
                points = [(line["k"] * aside, line["bce"]["value"]) for line in found]
                if points:
                    ax.plot(*zip(*points, strict=True), dash, marker=marker, color=shade, label=label)
                bars = [(k, line["bce"]) for (k, _), line in zip(points, found, strict=True)]
                if features in full:
                    value = full[features]["value"]
                    ax.axhline(value, linestyle=dash, color=shade, linewidth=0.6)
                    ax.plot(end * aside, value, marker, color=shade)
                    bars.append((end * aside, full[features]))
                _error_bars(ax, bars, shade)
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_locator(FixedLocator(ticks))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda k, _: "all" if full and k == end else f"{k:g}"))
            ax.tick_params(axis="x", labelsize=8)
            ax.set_xlabel(f"k, with {penalty.upper()}")
        axes[0].set_ylabel("BCE (nats)")
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, frameon=False, ncols=3, loc="outside upper center", handlelength=4)
        return Picture(svg(figure, f"{id}-k", caption), caption)


def scatter(tasks: Sequence[dict[str, Any]], fitted: dict[Any, dict[str, Any]], id: str) -> Picture | None:
    """A point for each task: BCE on x against BCE on latents, of all of them and of the best single one.

    Args:
        tasks: of the report.
        fitted: dense and single probes by task, features and kind.
        id: of the SAE, on the page.
    """
    kinds = [kind for kind in _HEADS if any(_pair(fitted, task, kind) for task in tasks)]
    if not kinds:
        return None
    groups = list(dict.fromkeys(task["group"] for task in tasks))
    rows = (len(groups) + 4) // 5
    caption = (
        "Task by task: BCE (nats) of probes on x and on latents, with 95 % intervals. Below the diagonal the latents "
        "are better. Markers tell groups of tasks apart; tasks far from the diagonal are named."
    )
    with matplotlib.rc_context(STYLE):
        height = 3.8 + 0.2 * rows
        figure = Figure(figsize=(7.2, height))
        axes = figure.subplots(1, 2, squeeze=False)[0]
        figure.subplots_adjust(left=0.08, right=0.985, top=0.98, bottom=(0.55 + 0.2 * rows) / height, wspace=0.22)
        for ax, kind in zip(axes, kinds, strict=False):
            _against_x(ax, tasks, fitted, kind, groups)
        for ax in axes[len(kinds) :]:
            ax.remove()
        looks = [Line2D([], [], linestyle="none", marker=marker, color=shade) for marker, shade in _looks(groups)]
        labels = [_plain(group) for group in groups]
        legend = figure.legend(
            looks, labels, frameon=False, fontsize=8, ncols=min(5, len(groups)), loc="lower center", columnspacing=1.2
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        return Picture(svg(figure, f"{id}-tasks", caption), caption)


def _against_x(
    ax: Axes, tasks: Sequence[dict[str, Any]], fitted: dict[Any, dict[str, Any]], kind: str, groups: Sequence[str]
) -> None:
    tasks = [task for task in tasks if _pair(fitted, task, kind)]
    pairs = [_pair(fitted, task, kind) for task in tasks]
    size = 4 if len(tasks) < 30 else 3
    points = [(x["value"], y["value"]) for x, y in pairs]
    for group, (marker, shade) in zip(groups, _looks(groups), strict=True):
        own = [i for i, task in enumerate(tasks) if task["group"] == group]
        bars = [pairs[i] for i in own]
        _error_bars(ax, [(x, points[i][1]) for i, (x, _) in zip(own, bars, strict=True)], shade, 0.4)
        _error_bars(ax, [(points[i][0], y) for i, (_, y) in zip(own, bars, strict=True)], shade, 0.4)
        ax.plot([points[i][0] for i in own], [points[i][1] for i in own], marker, color=shade, markersize=size)
    ends = [end for pair in pairs for metric in pair for end in metric.get("ci95", [metric["value"]])]
    room = 0.04 * ((max(ends) - min(ends)) or 1.0)
    limits = min(ends) - room, max(ends) + room
    ax.plot(limits, limits, "-", color="#777777", linewidth=0.8)
    ax.set(xlim=limits, ylim=limits, xlabel=_HEADS[kind][0], ylabel=_HEADS[kind][1])
    _name(ax, [task["name"] for task in tasks], points)


def _pair(fitted: dict[Any, dict[str, Any]], task: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """BCE on x and on latents; empty where one is missing."""
    found = [fitted.get((task["name"], features, kind), {}).get("bce", {}) for features in ("x", "latents")]
    return found if all(metric.get("value") is not None for metric in found) else []


def _looks(groups: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(itertools.islice(itertools.cycle(_GROUPS), len(groups)), itertools.cycle(_SHADES), strict=False))


def _error_bars(ax: Axes, points: Sequence[tuple[Any, Any]], shade: str, width: float = 0.8) -> None:
    """All as one path, which keeps the figure small. One coordinate is a number, the other a metric."""
    x: list[float] = []
    y: list[float] = []
    gap = [float("nan")]
    for across, up in points:
        metric = across if isinstance(across, dict) else up
        ends = metric.get("ci95", [])
        x += (ends if isinstance(across, dict) else [across] * len(ends)) + gap
        y += (ends if isinstance(up, dict) else [up] * len(ends)) + gap
    ax.plot(x, y, "-", color=shade, linewidth=width)


def _name(ax: Axes, names: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
    """Name the tasks farthest from the diagonal, in the corner on their side of it, which is the emptiest."""
    far = sorted(range(len(points)), key=lambda i: -abs(points[i][1] - points[i][0]))[:_NAMED]
    above = sorted((i for i in far if points[i][1] > points[i][0]), key=lambda i: -points[i][1])
    below = sorted((i for i in far if points[i][1] <= points[i][0]), key=lambda i: points[i][1])
    for own, x, top, step, side, edge in ((above, 0.02, 0.97, -0.05, "left", 1), (below, 0.98, 0.03, 0.05, "right", 0)):
        for row, i in enumerate(own):
            ax.annotate(
                _plain(names[i]),
                points[i],
                (x, top + step * row),
                textcoords="axes fraction",
                ha=side,
                va="center",
                fontsize=7,
                parse_math=False,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#777777", "relpos": (edge, 0.5)},
            )


def _plain(name: str) -> str:
    """Short, and of letters that every font has: a name may come from a file."""
    name = "".join(c if c.isascii() and c.isprintable() else "?" for c in name)
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}..."
