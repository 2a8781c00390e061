"""Explain → simulate: what explainers and simulators give each other.

Bills et al. 2023 ("Language models can explain neurons in language models"): an explanation is as good as the
activations that can be predicted from it alone. An explainer sees the split `explain` of the evidence; a simulator sees
an explanation and the tokens of the other two splits, never their activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jsaeval.autointerp.evidence import SIMULATED, Evidence, Split


LEVELS = 11  # activations are shown to language models as 0 to 10


@runtime_checkable
class Rule(Protocol):
    """An explanation that a program can follow."""

    def predict(
        self, before: Int[np.ndarray, " earlier"], tokens: Int[np.ndarray, " position"], begins: bool = True
    ) -> Float[np.ndarray, " position"]:
        """Activations at `tokens`, in the unit of the latent; `before` stands to their left in the same document, and
        `begins` says whether only BOS stands before them, or text that is not given."""
        ...


@dataclass(frozen=True)
class Explanation:
    """Of one latent: in words, and where a program made it as a rule.

    Attributes:
        latent: its index.
        text: what people and language models read. "" says nothing: the empty explanation.
        explainer: who made it.
        rule: what a program follows, if there is one.
        error: why there is none (a refusal, a failed call), in one line; its text is "" then.
    """

    latent: int
    text: str
    explainer: str
    rule: Rule | None = None
    error: str | None = None


@dataclass(frozen=True)
class Simulation:
    """Predicted activations of one latent on all examples of the splits `calibrate` and `score`, in their order.

    Attributes:
        values: for each example one value a token, in any unit (calibration maps them to activations); all NaN where
            the simulator failed on that example. (Examples have lengths of their own, so the axis has no name.)
        levels: the distribution over the levels 0 to 10 behind each value, where the simulator has one; level 10 has
            no mass where `highest` is 9.
        mass: mean probability that the simulator gave to levels at all, before they were normalised, where it has one.
        error: why there is none, in one line; `values` is empty then.
        highest: level that the simulator knows: 10, or 9 where its tokenizer splits "10". Then 9 stands for all from
            nine tenths of the largest activation on, and mean levels end at 9.
    """

    values: dict[Split, list[Float[np.ndarray, "_"]]] = field(default_factory=dict)
    levels: dict[Split, list[Float[np.ndarray, "_ level"]]] | None = None
    mass: float | None = None
    error: str | None = None
    highest: int = LEVELS - 1


@runtime_checkable
class Explainer(Protocol):
    """Makes explanations. One that fails for a latent says so in `Explanation.error` and goes on with the others."""

    def explain(self, evidence: Sequence[Evidence]) -> list[Explanation]: ...


@runtime_checkable
class Simulator(Protocol):
    """Predicts activations from explanations. One that fails for a latent says so in `Simulation.error`."""

    def simulate(self, pairs: Sequence[tuple[Explanation, Evidence]]) -> list[Simulation]: ...


class RuleSimulator:
    """Follows the rule of an explanation; one without a rule never fires."""

    def simulate(self, pairs: Sequence[tuple[Explanation, Evidence]]) -> list[Simulation]:
        return [self._one(explanation, evidence) for explanation, evidence in pairs]

    def _one(self, explanation: Explanation, evidence: Evidence) -> Simulation:
        rule, found = explanation.rule, {}
        for split in SIMULATED:
            found[split] = [
                np.zeros(len(own.tokens), np.float32)
                if rule is None
                else rule.predict(own.before, own.tokens, own.begins)
                for own in evidence.examples[split]
            ]
        return Simulation(found)
