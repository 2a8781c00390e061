"""The metric declarations as a Markdown table: the one in the README is made by `python -m jsaeval.report.markdown`."""

from jsaeval.metrics.registry import REGISTRY


_BETTER = {"higher": "higher", "lower": "lower", "neither": "–"}


def metric_table() -> str:
    """One line per metric: id, formula, unit, which direction is better, cost tier, group, source."""
    lines = []
    for axis in ("faithfulness", "interpretability"):
        lines += [f"**{axis.capitalize()}**", "", "| id | formula | unit | better | tier | group | source |"]
        lines.append("|---|---|---|---|---|---|---|")
        for m in REGISTRY.values():
            if m.axis == axis:
                name = f"`{m.id}`" + (" ∂" if m.differentiable else "")
                cells = (name, m.formula, m.unit, _BETTER[m.direction], str(m.tier), m.needs, m.source)
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(metric_table())
