"""What a metric is: a frozen declaration with a pure function of sums. Reports and documentation come from these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


Axis = Literal["faithfulness", "interpretability"]
Direction = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Totals:
    """Sums over the counted tokens, each with any leading shape (resamples), and the fixed facts of the run.

    `sst` is Σ ‖x − mu‖² about the mean of the run, `resid_sst` the same of a^k for every block.
    """

    sums: Mapping[str, Any]
    width: int
    first_block: int

    def __getitem__(self, name: str) -> Any:
        return self.sums[name]


@dataclass(frozen=True)
class Metric:
    """One id of METRICS.md.

    Attributes:
        id: the name; it stands for one formula, one token mask, one splice mask and one aggregation.
        axis: faithfulness (of the latents to the LM) or interpretability (to people).
        tier: cost, 1 (norms) to 5 (human).
        unit: of the value.
        direction: whether higher or lower is better, or neither.
        differentiable: in the SAE's parameters.
        formula: as in METRICS.md.
        source: who defined it.
        needs: the metric group that measures its sums; "controls" for "loss" with the controls; "probes",
            "explanations" and "ratings": what `jsaeval probe`, `explain` and `rate` measure.
        value: from `Totals` to the value, elementwise over leading axes.
        count: the column that counts the tokens of the mean.
        by_position: whether it is also given by position bucket.
    """

    id: str
    axis: Axis
    tier: int
    unit: str
    direction: Direction
    differentiable: bool
    formula: str
    source: str
    needs: str
    value: Callable[[Totals], Any]
    count: Literal["n", "n_ce"] = "n"
    by_position: bool = False


def wins(direction: str, difference_ci95: Sequence[float | None] | None) -> bool | None:
    """Whether a is better than b by a metric, from the interval of a − b; None where that is not clear."""
    low, high = difference_ci95 or (None, None)
    if direction == "neither" or low is None or high is None or low <= 0 <= high:
        return None
    return (low > 0) == (direction == "higher")
