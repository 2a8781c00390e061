"""Windows of a split with what was simulated on them, and the populations of tokens that they stand for.

| population | windows | stands for |
|---|---|---|
| all | top, interval, random | the headline, as in Bills et al. 2023 |
| top, interval, random | of that kind | itself |
| importance | interval and random, each for as many windows of its stratum as were not drawn | the corpus |

A window that was drawn twice is there once, and one that the simulator failed on is not there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from jsaeval.autointerp.evidence import Evidence, Example, Kind, Split
from jsaeval.autointerp.explanation import Simulation
from jsaeval.autointerp.measures import levels_of


IMPORTANCE = "importance"
POPULATIONS: dict[str, tuple[Kind, ...]] = {
    "all": ("top", "interval", "random"),
    "top": ("top",),
    "interval": ("interval",),
    "random": ("random",),
    IMPORTANCE: ("interval", "random"),
}


@dataclass(frozen=True)
class Window:
    """An example with its simulation; all in float64.

    Attributes:
        example: the example.
        activations: of the latent.
        true: the same as levels 0 to 10, of the largest activation in all examples of the split.
        simulated: in the unit of the simulator.
        levels: the distribution behind each simulated value, where there is one.
        weight: how many windows it stands for, but for a factor.
    """

    example: Example
    activations: Float[np.ndarray, " position"]
    true: Int[np.ndarray, " position"]
    simulated: Float[np.ndarray, " position"]
    levels: Float[np.ndarray, "position level"] | None = None
    weight: float = 1.0

    @property
    def fires(self) -> bool:
        return bool((self.activations != 0).any())


@dataclass(frozen=True)
class Tokens:
    """The tokens of some windows, one after the other."""

    activations: Float[np.ndarray, " token"]
    true: Int[np.ndarray, " token"]
    simulated: Float[np.ndarray, " token"]
    weights: Float[np.ndarray, " token"]
    levels: Float[np.ndarray, "token level"] | None

    @classmethod
    def of(cls, windows: Sequence[Window]) -> "Tokens":
        """Of at least one window."""
        levels = [own.levels for own in windows if own.levels is not None]
        return cls(
            np.concatenate([own.activations for own in windows]),
            np.concatenate([own.true for own in windows]),
            np.concatenate([own.simulated for own in windows]),
            np.concatenate([np.full(len(own.activations), own.weight) for own in windows]),
            np.concatenate(levels) if len(levels) == len(windows) else None,
        )


def populations(simulation: Simulation, evidence: Evidence, split: Split) -> list[Window]:
    """All examples of a split, in their order, that the simulator did not fail on."""
    examples, values = evidence.examples[split], simulation.values[split]
    levels = [None] * len(examples) if simulation.levels is None else simulation.levels[split]
    largest = max((float(example.activations.max()) for example in examples), default=0.0)
    return [
        Window(
            example,
            np.asarray(example.activations, np.float64),
            levels_of(example.activations, largest),
            np.asarray(value, np.float64),
            None if level is None else np.asarray(level, np.float64),
        )
        for example, value, level in zip(examples, values, levels, strict=True)
        if np.isfinite(value).all()
    ]


def drawn_as(windows: Iterable[Window], *kinds: Kind) -> list[Window]:
    """Those of some kinds, or of all; each once."""
    chosen = [own for own in windows if not kinds or own.example.kind in kinds]
    return list({(own.example.row, own.example.start): own for own in reversed(chosen)}.values())[::-1]


def population(windows: Iterable[Window], evidence: Evidence, split: Split, name: str) -> list[Window]:
    """The windows of a population, with their weights."""
    chosen = drawn_as(windows, *POPULATIONS[name])
    if name != IMPORTANCE:
        return chosen
    strata = evidence.strata.get(split)
    if strata is None:
        return []
    drawn = np.bincount([own.example.interval for own in chosen], minlength=len(strata))
    weighted = [replace(own, weight=float(strata[i := own.example.interval] / drawn[i])) for own in chosen]
    return [own for own in weighted if own.weight > 0]


def uncovered(windows: Sequence[Window], evidence: Evidence, split: Split) -> float | None:
    """The share of the windows of a split that lie in strata of which `importance` has none; None if not known."""
    strata = evidence.strata.get(split)
    if strata is None or not strata.sum():
        return None
    there = {own.example.interval for own in drawn_as(windows, *POPULATIONS[IMPORTANCE])}
    return float(sum(count for i, count in enumerate(strata) if i not in there) / strata.sum())
