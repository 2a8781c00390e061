"""Small histograms as inline SVG, drawn by hand: pages of latents hold thousands, each of some 1 kB."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from markupsafe import Markup


_WIDTH, _HEIGHT, _TOP, _BOTTOM, _SIDE = 360, 110, 16, 18, 4
_FLOOR = _HEIGHT - _BOTTOM


def bars(histogram: Mapping[str, Any], label: str, *, log: bool = False, mark: float | None = None) -> Markup:
    """A histogram; nothing where it is empty.

    Args:
        histogram: {"edges", "counts"}.
        label: what it shows, for those who do not see it.
        log: heights are log(1 + count), where a few bins hold nearly all.
        mark: a value to draw a line at.
    """
    edges, counts = histogram["edges"], histogram["counts"]
    if not any(counts) or edges[0] is None or edges[-1] is None:
        return Markup("")
    low, high = edges[0], edges[-1]
    span = (high - low) or 1.0
    heights = [math.log1p(count) if log else float(count) for count in counts]

    def x(value: float) -> float:
        return round(_SIDE + (_WIDTH - 2 * _SIDE) * (value - low) / span, 1)

    unit = (_FLOOR - _TOP) / max(heights)
    bins = zip(edges[:-1], edges[1:], heights, strict=True)
    path = "".join(_bar(x(left), x(right), height * unit) for left, right, height in bins)
    line = "" if mark is None else f'<path class="mark" d="M{x(mark):g} {_TOP}V{_FLOOR}"/>'
    ends = f'<text x="{_SIDE}" y="{_HEIGHT - 4}">{low:.3g}</text>'
    ends += f'<text x="{_WIDTH - _SIDE}" y="{_HEIGHT - 4}" text-anchor="end">{high:.3g}</text>'
    most = f'<text x="{_SIDE}" y="11">{max(counts):,}{" at most, log scale" if log else " at most"}</text>'
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}"><path class="bar" d="{path}"/>'
        f'<path class="axis" d="M{_SIDE} {_FLOOR}H{_WIDTH - _SIDE}"/>{line}{ends}{most}</svg>'
    )


def _bar(left: float, right: float, height: float) -> str:
    # A bin with something in it is seen, however little it is.
    return f"M{left:g} {_FLOOR}v{-max(height, 1.0):.3g}H{right:g}V{_FLOOR}z" if height else ""
