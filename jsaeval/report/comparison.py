"""An SAE next to its controls on the same rows: what every report shows of them."""

from dataclasses import dataclass
from typing import Any, Literal

from jsaeval.metrics.metric import wins


# What a control is compared by; the first is the one that decides who is better.
COLUMNS = (
    "downstream_loss",
    "ce_increase",
    "ce_recovered_zero",
    "explained_variance",
    "l0",
    "downstream_reconstruction",
)
LABELS = {
    "random_error": "random error, same norm",
    "pca": "PCA, k = L0 components",
    "permuted_decoder": "permuted decoder",
    "random_sae": "random SAE, same L0",
    "mean": "mean ablation",
    "zero": "zero ablation",
    "identity": "identity, must be 0",
}
# Untrained dictionaries, which a trained SAE must beat.
FLOORS = ("pca", "permuted_decoder", "random_sae")
Verdict = Literal["better", "worse", "unclear", ""]


@dataclass(frozen=True)
class Line:
    """A stream: its values, and SAE minus stream where that is known. `verdict`: is the SAE better than it?"""

    name: str
    label: str
    metrics: dict[str, Any]
    difference: dict[str, Any]
    verdict: Verdict = ""


def short(name: str) -> str:
    """The label of a control without its details."""
    return LABELS[name].partition(",")[0]


def controls_by_hook(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The run's controls at each hook."""
    controls = report.get("controls", {})
    hooks = [sae["hook"] for sae in report["saes"] if "hook" in sae]
    return controls.get("by_hook") or ({hooks[0]: controls} if controls and hooks else {})


def comparison(report: dict[str, Any], sae: dict[str, Any]) -> list[Line]:
    """The SAE on the control rows, its floors, and the controls of the run; empty in a run without controls."""
    if "floors" not in sae:
        return []
    lines = [Line("sae", "this SAE", sae["on_control_rows"]["metrics"], {})]
    for name in LABELS:
        if name in sae["floors"]:
            floor = sae["floors"][name]
            lines.append(Line(name, LABELS[name], floor["metrics"], floor["difference"], verdict(sae, floor)))
    of_run = controls_by_hook(report)[sae["hook"]]
    return lines + [Line(name, LABELS[name], of_run[name]["metrics"], {}) for name in LABELS if name in of_run]


def verdict(sae: dict[str, Any], floor: dict[str, Any]) -> Verdict:
    """Whether the SAE beats a control, by the first of `COLUMNS` that was measured."""
    for id in COLUMNS:
        if id in floor["difference"] and id in sae["metrics"]:
            won = wins(sae["metrics"][id]["direction"], floor["difference"][id].get("ci95"))
            return "unclear" if won is None else "better" if won else "worse"
    return "unclear"
