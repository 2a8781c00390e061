"""How numbers are written in every report for people."""

import math
from typing import Any


def number(value: float | None) -> str:
    """Four significant digits, without exponent where that is readable."""
    if value is None or not math.isfinite(value):
        return "undefined"
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        rounded = abs(float(f"{value:.4g}"))
        digits = 4 if value == 0 else max(0, 3 - math.floor(math.log10(rounded)))
        return f"{value:,.{min(digits, 6)}f}"
    return f"{value:.3e}"


def percent(share: float | None) -> str:
    """A share in percent, to a tenth."""
    return "an undefined share" if share is None else f"{100 * share:.1f} %"


def nats(value: float | None, sign: str = "") -> str:
    """A loss: three digits behind the point, or one digit of what is smaller. `sign`: "+" to write one."""
    if value is None:
        return "undefined"
    return f"{value:{sign}.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:{sign}.1g}"


def ends(metric: dict[str, Any]) -> str:
    """`[low, high]` of a loss, or nothing."""
    return f"[{', '.join(map(nats, metric['ci95']))}]" if metric.get("ci95") else ""


def interval(metric: dict[str, Any]) -> str:
    """`[low, high]` of a metric of the report, or nothing."""
    low_high = metric.get("ci95")
    return f"[{number(low_high[0])}, {number(low_high[1])}]" if low_high else ""
