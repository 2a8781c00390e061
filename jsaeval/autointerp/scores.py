"""`score`: a simulation beside the activations → every score of one explanation, on examples that it has not seen.

Scores are given for the populations of `jsaeval.autointerp.populations`. Each population has a calibration of its own,
fitted on the same population of the split `calibrate`: so in each of them whoever says nothing has a loss of about 1.
`OWN` is where scores stand that say themselves what they look at. `WHERE` lists all scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from jsaeval.autointerp import measures
from jsaeval.autointerp.calibration import calibrate
from jsaeval.autointerp.classes import Value, detection, firing, fuzzing, weighted_firing
from jsaeval.autointerp.evidence import SIMULATED, Evidence, Split
from jsaeval.autointerp.explanation import Simulation
from jsaeval.autointerp.populations import (
    IMPORTANCE,
    POPULATIONS,
    Tokens,
    Window,
    drawn_as,
    population,
    populations,
    uncovered,
)


OWN = "own"
# Score → its value for an explanation that says nothing: what a latent counts whose explanation failed. The mean has a
# loss of 1; scores about 0 give 0 to whoever says 0.
_SIMULATION = {
    "activation_prediction_loss": 1.0,
    "simulation_pearson": 0.0,
    "simulation_spearman": 0.0,
    "simulation_r2_uncentred": 0.0,
    "simulation_absolute_deviation_explained": 0.0,
    "simulation_likelihood_skill": 0.0,
}
_FIRING = {"firing_precision": 0.0, "firing_recall": 0.0, "firing_f1": 0.0}
_CHOICES = {"detection_accuracy": 0.5, "detection_auc": 0.5, "fuzzing_accuracy": 0.5, "fuzzing_auc": 0.5}
NOTHING: dict[str, float] = _SIMULATION | _FIRING | _CHOICES
# Score → where it is given; the first is its headline.
WHERE: dict[str, tuple[str, ...]] = (
    dict.fromkeys(_SIMULATION, tuple(POPULATIONS))
    | dict.fromkeys(_FIRING, (OWN, IMPORTANCE))
    | dict.fromkeys(_CHOICES, (OWN,))
)
# Simulators that give a distribution never give a value of exactly 0: they say that a latent fires where level 1 is
# nearer than level 0.
_FIRES_LEVEL = 0.5


@dataclass(frozen=True)
class Scored:
    """All scores of one explanation.

    Attributes:
        latent: its index.
        density: of the latent.
        values: score → population → value; empty where there is a problem or an error.
        calibrated: simulated activations at the examples of the split `score`, in their order and in the unit of the
            latent, by the calibration of the population `all`; NaN where the simulator failed. Empty without one.
        constant: whether the simulation is the same at every token of `all`.
        failed_examples: examples that the simulator failed on, in both splits; they are left out.
        uncovered: share of the windows of the split `score` that no example of `importance` stands for.
        mass: see `Simulation`.
        problem: why the latent was not explained or scored: see `Evidence`.
        error: why its explanation or simulation failed.
    """

    latent: int
    density: float
    values: dict[str, dict[str, Value]] = field(default_factory=dict)
    calibrated: list[Float[np.ndarray, "_"]] = field(default_factory=list)
    constant: bool = False
    failed_examples: int = 0
    uncovered: float | None = None
    mass: float | None = None
    problem: str | None = None
    error: str | None = None


def score(simulation: Simulation, evidence: Evidence, error: str | None = None) -> Scored:
    """Score a simulation.

    Args:
        simulation: of an explanation of this latent, on the examples of this evidence.
        evidence: of the latent.
        error: why there is no explanation, if there is none.

    Raises:
        ValueError: the simulation is not one of these examples.
    """
    latent, density = evidence.latent, evidence.statistics.density
    error = simulation.error if error is None else error
    if evidence.problem is not None or error is not None:
        failed = error if evidence.problem is None else None
        return Scored(latent, density, mass=simulation.mass, problem=evidence.problem, error=failed)
    there = populations(simulation, evidence, "calibrate")
    here = populations(simulation, evidence, "score")
    failed = sum(len(evidence.examples[split]) for split in SIMULATED) - len(there) - len(here)
    left: dict[Split, list[Window]] = {"calibrate": there, "score": here}
    gone = [split for split, own in left.items() if evidence.examples[split] and not own]
    if gone:
        where = "" if len(gone) == 2 else f" of the split {gone[0]}"
        return Scored(latent, density, failed_examples=failed, error=f"the simulator failed on every example{where}")
    values: dict[str, dict[str, Value]] = {id: {} for id in NOTHING}
    for name in POPULATIONS:
        own = population(there, evidence, "calibrate", name), population(here, evidence, "score", name)
        for id, value in _of_simulation(*own, simulation.highest).items():
            values[id][name] = value
    above = 0.0 if simulation.levels is None else _FIRES_LEVEL
    weighted = weighted_firing(population(here, evidence, "score", IMPORTANCE), above)
    drawn = firing(drawn_as(here, "active"), drawn_as(here, "random"), above)
    once = drawn_as(there), drawn_as(here)
    for name, found in ((IMPORTANCE, weighted), (OWN, drawn | detection(*once) | fuzzing(*once))):
        for id, value in found.items():
            values[id][name] = value
    pooled = population(here, evidence, "score", "all")
    return Scored(
        latent,
        density,
        values,
        calibrated=_predictions(simulation, population(there, evidence, "calibrate", "all")),
        constant=bool(pooled) and measures.constant(Tokens.of(pooled).simulated),
        failed_examples=failed,
        uncovered=uncovered(here, evidence, "score"),
        mass=simulation.mass,
    )


def _of_simulation(calibration: Sequence[Window], score: Sequence[Window], highest: int) -> dict[str, Value]:
    """Scores of the windows of a population in the split `score`, calibrated on those in the split `calibrate`."""
    if not score or not calibration:
        return dict.fromkeys(_SIMULATION, Value(None, "no examples" + (" to calibrate on" if score else "")))
    there, here = Tokens.of(calibration), Tokens.of(score)
    a, raw, w = here.activations, here.simulated, here.weights
    if measures.constant(a):
        why = "the latent does not fire here" if a[0] == 0 else "the latent is constant here"
        return dict.fromkeys(_SIMULATION, Value(None, why))
    s = calibrate(there.simulated, there.activations, there.weights)(raw)
    note = "by convention: the simulation is constant" if measures.constant(raw) else None
    found = (
        Value(measures.activation_prediction_loss(a, s, w)),
        Value(measures.pearson(a, raw, w), note),
        Value(measures.spearman(a, raw, w), note),
        Value(measures.r2_uncentred(a, s, w)),
        Value(measures.absolute_deviation_explained(a, s, w)),
        _skill(there, here, highest),
    )
    return dict(zip(_SIMULATION, found, strict=True))


def _skill(there: Tokens, here: Tokens, highest: int) -> Value:
    """Of the levels that the simulator knows; the last stands for itself and all above."""
    if there.levels is None or here.levels is None:
        return Value(None, "the simulator gives no distribution over levels")
    seen, true = (np.minimum(own.true, highest) for own in (there, here))
    expected = measures.marginal(seen, highest + 1, there.weights)
    return Value(measures.likelihood_skill(true, here.levels[:, : highest + 1], expected, here.weights))


def _predictions(simulation: Simulation, calibration: Sequence[Window]) -> list[np.ndarray]:
    if not calibration:
        return []
    there = Tokens.of(calibration)
    own = calibrate(there.simulated, there.activations, there.weights)
    return [own(x) if np.isfinite(x).all() else np.full(len(x), np.nan) for x in simulation.values["score"]]
