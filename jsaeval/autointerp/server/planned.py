"""What a run will ask of a server, as far as that can be told without a call."""

from collections.abc import Iterator, Sequence

from jsaeval.autointerp.evaluate import Work
from jsaeval.autointerp.evidence import Evidence
from jsaeval.autointerp.explanation import Explainer, Explanation, Simulator
from jsaeval.autointerp.floors import floor_explanations
from jsaeval.autointerp.kept import KeptExplainer
from jsaeval.autointerp.server.estimate import Estimate, unwritten
from jsaeval.autointerp.server.json_levels import JSONSimulator
from jsaeval.autointerp.server.llm import LLMExplainer
from jsaeval.autointerp.server.logprobs import LogprobSimulator
from jsaeval.autointerp.server.simulated import Pair


def planned(work: Sequence[Work], simulator: Simulator, seed: int) -> Estimate:
    """Of the calls of explainers and simulator.

    Args:
        work: all of a run.
        simulator: of the run.
        seed: of the floors.
    """
    explainers = [(own.explainer, own.sound) for own in work]
    found = sum((own.estimate(of) for own, of in explainers if isinstance(own, LLMExplainer)), Estimate())
    if isinstance(simulator, LogprobSimulator | JSONSimulator):
        found += simulator.estimate([pair for own in work for pair in _simulated(own, seed)])
    return found


def foreseen(explainer: Explainer, evidence: Sequence[Evidence]) -> list[Explanation]:
    """Explanations that take neither a call nor minutes, and for others texts of a usual length.

    Those of N2G take minutes: they are there if they are kept.
    """
    slow = isinstance(explainer, LLMExplainer | KeptExplainer)
    there = explainer.kept(evidence) if slow else explainer.explain(evidence)
    return [known or unwritten(own.latent) for known, own in zip(there, evidence, strict=True)]


def _simulated(work: Work, seed: int) -> Iterator[Pair]:
    """The pairs that the simulator will get: of the explanations, and of floors that no rule follows."""
    explanations = foreseen(work.explainer, work.sound)
    yield from zip(explanations, work.sound, strict=True)
    if work.look_alike is None:
        for floor in floor_explanations(explanations, explanations, seed).values():
            if not floor.by_rule:
                yield from zip(floor.explanations, work.sound, strict=True)
