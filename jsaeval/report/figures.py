"""The figures of the page, as inline SVG made by matplotlib. No figure needs colour to be read."""

import itertools
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from jsaeval.metrics.latents import DENSE
from jsaeval.metrics.registry import REGISTRY
from jsaeval.report.comparison import comparison
from jsaeval.report.drawing import INK, STYLE, Picture, error_bar, svg
from jsaeval.report.fronts import fronts


# Lines are told apart by dash and marker; the shade only helps.
_LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ("-", "x"), ("--", "v"), (":", "P"), ("-.", "*"))
_SHADES = (INK, "#a3481c", "#3d7a45", "#6b4a8a")
_BY_POSITION = ("mse", "explained_variance", "downstream_loss", "l0")
_COMPARED = ("downstream_loss", "ce_increase")


def sae_figures(report: dict[str, Any], sae: dict[str, Any]) -> Iterator[Picture]:
    """The figures of one SAE; those whose numbers were not measured are left out."""
    name = sae["name"]
    if comparison(report, sae) and _compared_by(report, sae):
        yield _controls(report, sae)
    if _has_curve(sae):
        yield Picture(
            _curves([(1, sae)], f"{name}-curve"),
            "Downstream reconstruction: how far the residual stream is from the clean one after each block behind the "
            "hook. Left as a share of its variance (downstream_fvu), right in squared units (downstream_mse). Blocks "
            "may mend or amplify the SAE's error.",
        )
    if sae.get("by_position"):
        yield Picture(
            _positions(sae),
            "By position in the row. The first positions of many LMs carry activations far larger than all others and "
            "can dominate a mean; here one sees whether they do.",
        )
    if sae.get("density_histogram", {}).get("latents"):
        yield Picture(
            _densities(sae),
            f"How often latents fire: the number of latents by density (share of tokens on which they fire). Those "
            f"right of the dashed line, at {DENSE}, are dense. Latents that never fired are not drawn.",
        )


def sweep_figures(saes: list[dict[str, Any]]) -> Iterator[Picture]:
    """Figures of several SAEs side by side, hook by hook. Numbers at the points are those of the list of SAEs."""
    numbered = [(i, sae) for i, sae in enumerate(saes, 1) if "error" not in sae]
    hooks = list(dict.fromkeys(sae["hook"] for _, sae in numbered))
    for hook in hooks:
        here = [(i, sae) for i, sae in numbered if sae["hook"] == hook]
        where = f" At {hook}." if len(hooks) > 1 else ""
        yield from fronts(here, hook, where)
        curved = [(i, sae) for i, sae in here if _has_curve(sae)]
        if len(curved) > 1:
            yield Picture(
                _curves(curved, f"{hook}-curves"), f"Downstream reconstruction of all SAEs, after each block.{where}"
            )


def _has_curve(sae: dict[str, Any]) -> bool:
    """Whether a block after the hook was measured, and its values can stand on a logarithmic axis."""
    values = sae.get("by_block", {}).get("downstream_mse", {}).values()
    return any(value for value in values if value is not None)


def _compared_by(report: dict[str, Any], sae: dict[str, Any]) -> list[str]:
    return [id for id in _COMPARED if id in comparison(report, sae)[0].metrics]


def _controls(report: dict[str, Any], sae: dict[str, Any]) -> Picture:
    ids = _compared_by(report, sae)
    lines = [line for line in comparison(report, sae) if line.name != "identity"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.32 * len(lines) + 0.8), layout="constrained")
        axes = figure.subplots(1, len(ids), sharey=True, squeeze=False)[0]
        for ax, id in zip(axes, ids, strict=True):
            for y, line in enumerate(reversed(lines)):
                if id in line.metrics and line.metrics[id]["value"] is not None:
                    marker = "D" if line.name == "sae" else "o"
                    metric = line.metrics[id]
                    ax.errorbar(metric["value"], y, xerr=error_bar(metric), fmt=marker, color=INK, capsize=2.5)
            ax.set_xscale("symlog", linthresh=0.1)
            ax.set_xlim(left=0)
            ax.set_xlabel(f"{id} ({REGISTRY[id].unit})")
        axes[0].set_yticks(range(len(lines)), [line.label for line in reversed(lines)])
        caption = (
            f"The SAE (diamond) and its controls on the same {report['controls']['rows']} rows, with 95 % intervals; "
            "left is better. A trained SAE must be left of the PCA, the permuted decoder and the random SAE."
        )
        return Picture(svg(figure, f"{sae['name']}-controls", caption), caption)


def _curves(saes: list[tuple[int, dict[str, Any]]], name: str) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.7 if len(saes) == 1 else 3.4), layout="constrained")
        axes = figure.subplots(1, 2)
        for ax, id in zip(axes, ("downstream_fvu", "downstream_mse"), strict=True):
            looks = zip(itertools.cycle(_LINES), itertools.cycle(_SHADES))
            for (i, sae), ((dash, marker), shade) in zip(saes, looks, strict=False):
                points = [(int(block), value) for block, value in sae["by_block"][id].items() if value is not None]
                ax.plot(*zip(*points, strict=True), dash, marker=marker, markersize=3, color=shade, label=f"{i}")
            ax.set_xlabel("block")
            ax.set_ylabel(id)
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.set_yscale("log" if id == "downstream_mse" else "linear")
        axes[0].set_ylim(bottom=0)
        if len(saes) > 1:
            axes[1].legend(frameon=False, fontsize=7, title="SAE", ncols=2)
        return svg(figure, name, "downstream reconstruction after each block")


def _positions(sae: dict[str, Any]) -> str:
    ids = [id for id in _BY_POSITION if id in sae["by_position"]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.9), layout="constrained")
        for ax, id in zip(figure.subplots(1, len(ids), squeeze=False)[0], ids, strict=True):
            values = {bucket: value for bucket, value in sae["by_position"][id].items() if value is not None}
            ax.bar(list(values), list(values.values()), color="#9fbcd1", edgecolor=INK, width=0.7)
            ax.set_title(id, fontsize=9)
            ax.tick_params(axis="x", labelsize=7)
            ax.grid(axis="x", visible=False)
            ax.set_xlabel("position")
        return svg(figure, f"{sae['name']}-positions", "metrics by position")


def _densities(sae: dict[str, Any]) -> str:
    edges, counts = sae["density_histogram"]["log10_density_edges"], sae["density_histogram"]["latents"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.2), layout="constrained")
        ax = figure.subplots()
        ax.stairs(counts, edges, fill=True, facecolor="#9fbcd1", edgecolor=INK)
        ax.axvline(-1, color="black", linestyle="--", linewidth=1)
        ax.set_xlabel("log10 density")
        ax.set_ylabel("latents")
        return svg(figure, f"{sae['name']}-density", "number of latents by log10 density")
