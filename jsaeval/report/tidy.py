"""`report.csv` and `report.parquet`: every number of a report in long form, for people's own plots.

| column | |
|---|---|
| sae, hook, architecture, d_in, d_sae | which SAE; empty beside a control of the run |
| of | `sae`: the SAE on all rows; `sae_on_control_rows`: on those of the controls; `random_error`, `pca`, `permuted_decoder`, `random_sae`: its floors; `zero`, `mean`, `identity`: controls of the run |
| metric, axis, unit, direction | as in the table of metrics |
| value, ci_low, ci_high, n | with its 95 % interval, if it has one, and the number of tokens |
| difference, difference_low, difference_high | SAE minus floor, paired on the same rows |
"""  # noqa: E501

from collections.abc import Iterator
from typing import Any

import pandas as pd

from jsaeval.report.comparison import controls_by_hook


COLUMNS = (
    "sae",
    "hook",
    "architecture",
    "d_in",
    "d_sae",
    "of",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "difference",
    "difference_low",
    "difference_high",
    "axis",
    "unit",
    "direction",
)
_ABOUT_SAE = ("hook", "architecture", "d_in", "d_sae")
_ABOUT_METRIC = ("value", "n", "axis", "unit", "direction")
_CONTROLS = ("zero", "mean", "identity")


def tidy(report: dict[str, Any]) -> pd.DataFrame:
    """The long form of a report; SAEs that failed have no lines."""
    lines = []
    for sae in report["saes"]:
        if "error" in sae:
            continue
        about = {"sae": sae["name"]} | {key: sae[key] for key in _ABOUT_SAE}
        lines += _lines(about | {"of": "sae"}, sae["metrics"])
        lines += _lines(about | {"of": "sae_on_control_rows"}, sae.get("on_control_rows", {}).get("metrics", {}))
        for name, floor in sae.get("floors", {}).items():
            lines += _lines(about | {"of": name}, floor["metrics"], floor["difference"])
    for hook, controls in controls_by_hook(report).items():
        for name in _CONTROLS:
            if name in controls:
                lines += _lines({"hook": hook, "of": name}, controls[name]["metrics"])
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    whole = {"d_in": "Int64", "d_sae": "Int64", "n": "Int64"}
    numbers = ("value", "ci_low", "ci_high", "difference", "difference_low", "difference_high")
    return frame.astype(whole | dict.fromkeys(numbers, "float64"))


def _lines(
    about: dict[str, Any], metrics: dict[str, Any], differences: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    for id, metric in metrics.items():
        low, high = metric.get("ci95") or (None, None)
        line = about | {"metric": id, "ci_low": low, "ci_high": high} | {key: metric[key] for key in _ABOUT_METRIC}
        if differences and id in differences:
            ends = differences[id].get("ci95") or (None, None)
            line |= {"difference": differences[id]["value"], "difference_low": ends[0], "difference_high": ends[1]}
        yield line
