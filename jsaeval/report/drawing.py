"""How figures are drawn: one style, and the bare `<svg>` element of a matplotlib figure."""

import io
import re
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure


STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the font of the page
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
}
INK = "#1b4d72"


@dataclass(frozen=True)
class Picture:
    """An `<svg>` element, and what it shows."""

    svg: str
    caption: str


def error_bar(metric: dict[str, Any]) -> list[list[float]] | None:
    """How far the interval of a metric of the report reaches below and above its value, as matplotlib wants it."""
    ends = metric.get("ci95")
    if ends is None:
        return None
    return [[max(0.0, metric["value"] - ends[0])], [max(0.0, ends[1] - metric["value"])]]


def svg(figure: Figure, name: str, label: str) -> str:
    """The bare element. Its ids are salted with `name`, so that figures do not share them on one page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    head = rf'<svg \1 role="img" aria-label="{escape(label)}">'
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', head, text, count=1)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # they are the same in every figure
    text = re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", text)  # a hundredth of a point is enough
    return re.sub(r"\s*\n\s*", "\n", text).replace("xlink:href", "href").strip()
