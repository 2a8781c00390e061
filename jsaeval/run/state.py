"""Where the pass over the rows at one hook is: all that it needs to go on as if it had never stopped."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jsaeval.forward.latents import LatentCounts
from jsaeval.stats.table import Table


@dataclass(frozen=True)
class Calibrated:
    """What calibration left: the mean of x, E‖x‖, and how many tokens were counted."""

    mean: np.ndarray
    mean_norm: float
    tokens: int


@dataclass(frozen=True)
class PassState:
    """Between two batches.

    Attributes:
        table: the rows so far; `controls`: the same of the control rows, with the control streams.
        counts: of each SAE the counters that are not in `table` yet, in the types that they have on the devices. They
            go into the table after a fixed number of batches, so that it does not matter when a run was interrupted.
        batches: how many are done; `size`: their rows.
        calibrated: None where nothing needed it.
        compile_s, run_s: seconds spent on it.
    """

    table: Table
    controls: Table | None
    counts: tuple[LatentCounts, ...]
    batches: int
    size: int
    calibrated: Calibrated | None
    compile_s: float
    run_s: float

    @property
    def rows(self) -> int:
        return self.table.n_rows

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays by name, and the rest as what JSON knows."""
        tree: dict[str, Any] = {"table": self.table.to_arrays()}
        if self.controls is not None:
            tree["controls"] = self.controls.to_arrays()
        tree["counts"] = {str(i): c._asdict() for i, c in enumerate(self.counts)}
        rest: dict[str, Any] = {name: getattr(self, name) for name in ("batches", "size", "compile_s", "run_s")}
        if self.calibrated is not None:
            tree["mean"] = self.calibrated.mean
            rest |= {"mean_norm": self.calibrated.mean_norm, "calibration_tokens": self.calibrated.tokens}
        return flat(tree), rest

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray], rest: dict[str, Any]) -> "PassState":
        """What `pack` was made from."""
        tree = nested(arrays)
        counts = tree.get("counts", {})
        own = {name: rest[name] for name in ("batches", "size", "compile_s", "run_s")}
        calibrated = None
        if "mean" in tree:
            calibrated = Calibrated(tree["mean"], rest["mean_norm"], rest["calibration_tokens"])
        return cls(
            table=Table.of_arrays(tree["table"]),
            controls=Table.of_arrays(tree["controls"]) if "controls" in tree else None,
            counts=tuple(LatentCounts(**counts[str(i)]) for i in range(len(counts))),
            calibrated=calibrated,
            **own,
        )


def flat(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Nested dictionaries of arrays → one, with keys joined by slashes."""
    out: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= {f"{key}/{rest}": array for rest, array in flat(value).items()}
        else:
            out[key] = np.ascontiguousarray(value)
    return out


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of `flat`; keys are sorted, as in what comes out of JAX. (safetensors does not keep their order.)"""
    out: dict[str, Any] = {}
    for name, array in sorted(arrays.items()):
        *folders, last = name.split("/")
        place = out
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array
    return out
