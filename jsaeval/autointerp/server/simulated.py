"""What simulators that ask a server share: from pairs to examples, and from what became of each to a `Simulation`.

Failed examples are NaN, and too many of them are an error.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jsaeval.autointerp.evidence import SIMULATED, Evidence, Example, Split
from jsaeval.autointerp.explanation import LEVELS, Explanation, Simulation
from jsaeval.autointerp.server.calls import Answer, CallError
from jsaeval.autointerp.server.client import Server
from jsaeval.autointerp.server.shown import token_texts
from jsaeval.lm.tokenizer import TextTokenizer


Pair = tuple[Explanation, Evidence]


class Simulated(NamedTuple):
    """One example: a value a token; where there is one, the distribution behind it, the mass on levels, and the
    highest of them."""

    values: Float[np.ndarray, " position"]
    levels: Float[np.ndarray, "position level"] | None = None
    mass: float | None = None
    highest: int = LEVELS - 1


def examples_of(evidence: Evidence) -> list[Example]:
    """All examples to simulate, in order."""
    return [example for split in SIMULATED for example in evidence.examples[split]]


def problem_of(explanation: Explanation, evidence: Evidence) -> str | None:
    """Why a latent is not simulated at all."""
    nothing = None if examples_of(evidence) else "no examples to simulate"
    return evidence.problem or explanation.error or nothing


def sound(pairs: Sequence[Pair]) -> list[Pair]:
    """Those that are simulated."""
    return [pair for pair in pairs if problem_of(*pair) is None]


def shown_examples(pairs: Sequence[Pair], tokenizer: TextTokenizer) -> Iterator[tuple[str, list[str]]]:
    """For each example of the pairs: the text of the explanation, and of the tokens."""
    for explanation, evidence in pairs:
        for example in examples_of(evidence):
            yield explanation.text, token_texts(tokenizer, example.tokens)


def read(
    server: Server,
    answers: Sequence[Answer | CallError],
    sizes: Sequence[int],
    simulated: Callable[[Answer, int], Simulated],
) -> list[Simulated | CallError]:
    """What answers say of examples; one of no use is counted among the failures of the server.

    Args:
        server: that gave them.
        answers: one for each example.
        sizes: tokens of each example.
        simulated: reads an answer of so many tokens; raises `CallError` where it is of no use.
    """
    found: list[Simulated | CallError] = []
    for answer, size in zip(answers, sizes, strict=True):
        if isinstance(answer, CallError):
            found.append(answer)
            continue
        try:
            found.append(simulated(answer, size))
        except CallError as error:
            server.failed(error.kind)
            found.append(error)
    return found


def simulations(pairs: Sequence[Pair], run: Callable[[list[Pair]], list[Simulated | CallError]]) -> list[Simulation]:
    """Simulate all latents that can be simulated at once.

    Args:
        pairs: explanations and what to simulate.
        run: what becomes of every example of the pairs that it is given, in one list.
    """
    able = sound(pairs)
    found = iter(run(able) if able else [])
    made = []
    for explanation, evidence in pairs:
        if (problem := problem_of(explanation, evidence)) is not None:
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
    masses, ahead, highest = [], iter(found), LEVELS - 1
    for split in SIMULATED:
        for example in evidence.examples[split]:
            own, n = next(ahead), len(example.tokens)
            if isinstance(own, CallError):
                own = Simulated(np.full(n, np.nan))
            highest = min(highest, own.highest)
            values[split].append(own.values)
            levels[split].append(np.full((n, LEVELS), np.nan) if own.levels is None else own.levels)
            masses += [] if own.mass is None else [own.mass]
    # A simulator gives distributions for all examples or for none.
    return Simulation(values, levels if masses else None, float(np.mean(masses)) if masses else None, highest=highest)
