"""From what became of each example to a `Simulation`: failed examples are NaN, and too many of them are an error."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jsaeval.autointerp.evidence import Evidence, Example, Split
from jsaeval.autointerp.explanation import LEVELS, Explanation, Simulation
from jsaeval.autointerp.server.calls import CallError


SIMULATED: tuple[Split, ...] = ("calibrate", "score")
Pair = tuple[Explanation, Evidence]


class Simulated(NamedTuple):
    """One example: a value a token; where there is one, the distribution behind it, and the mass on levels."""

    values: Float[np.ndarray, " position"]
    levels: Float[np.ndarray, "position level"] | None = None
    mass: float | None = None


def examples_of(evidence: Evidence) -> list[Example]:
    """All examples to simulate, in order."""
    return [example for split in SIMULATED for example in evidence.examples[split]]


def problem_of(explanation: Explanation, evidence: Evidence) -> str | None:
    """Why a latent is not simulated at all."""
    nothing = None if examples_of(evidence) else "no examples to simulate"
    return evidence.problem or explanation.error or nothing


def simulations(pairs: Sequence[Pair], run: Callable[[list[Pair]], list[Simulated | CallError]]) -> list[Simulation]:
    """Simulate all latents that can be simulated at once.

    Args:
        pairs: explanations and what to simulate.
        run: what becomes of every example of the pairs that it is given, in one list.
    """
    problems = [problem_of(*pair) for pair in pairs]
    able = [pair for pair, problem in zip(pairs, problems, strict=True) if problem is None]
    found = iter(run(able) if able else [])
    made = []
    for (_, evidence), problem in zip(pairs, problems, strict=True):
        if problem is not None:
            made.append(Simulation(error=problem))
        else:
            made.append(simulation(evidence, [next(found) for _ in examples_of(evidence)]))
    return made


def simulation(evidence: Evidence, found: Sequence[Simulated | CallError]) -> Simulation:
    """All examples of a latent. One that failed has NaN everywhere; if more than half failed, there is an error.

    Args:
        evidence: of the latent.
        found: what became of `examples_of(evidence)`.
    """
    failed = [own for own in found if isinstance(own, CallError)]
    if 2 * len(failed) > len(found):
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(own.kind for own in failed).most_common())
        return Simulation(
            error=f"{len(failed)} of {len(found)} examples failed ({kinds}; the first: {failed[0].detail})"
        )
    values: dict[Split, list] = {split: [] for split in SIMULATED}
    levels: dict[Split, list] = {split: [] for split in SIMULATED}
    masses, ahead = [], iter(found)
    for split in SIMULATED:
        for example in evidence.examples[split]:
            own, n = next(ahead), len(example.tokens)
            if isinstance(own, CallError):
                own = Simulated(np.full(n, np.nan))
            values[split].append(own.values)
            levels[split].append(np.full((n, LEVELS), np.nan) if own.levels is None else own.levels)
            masses += [] if own.mass is None else [own.mass]
    # A simulator gives distributions for all examples or for none.
    return Simulation(values, levels if masses else None, float(np.mean(masses)) if masses else None)
