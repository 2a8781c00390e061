"""Explanations that every explanation has to beat, made for the same latents and scored on the same examples.

| floor | explanation | why |
|---|---|---|
| empty | says nothing | what the simulator predicts of any latent |
| another | of another latent | what fits any latent of this dictionary |
| constant | the same activation everywhere | the mean; a loss of 1, but for the calibration |
| token | the mean activation of each token | no context; latents of random models need no more (Bricken et al. 2023) |
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from jsaeval.autointerp.explanation import Explanation


@dataclass(frozen=True)
class Constant:
    """The rule that a latent fires alike at every token."""

    def predict(
        self, before: Int[np.ndarray, " earlier"], tokens: Int[np.ndarray, " position"], begins: bool = True
    ) -> Float[np.ndarray, " position"]:
        return np.ones(len(tokens), np.float32)


@dataclass(frozen=True)
class Floor:
    """A floor for each explained latent.

    Attributes:
        explanations: in the order of those that they stand beside; one that cannot be made has an `error`.
        by_rule: whether `jsaeval.autointerp.explanation.RuleSimulator` is to follow them, whoever simulates the
            explanations that are tested; else the same simulator.
    """

    explanations: list[Explanation]
    by_rule: bool


def floor_explanations(
    explanations: Sequence[Explanation], by_token: Sequence[Explanation], seed: int = 0
) -> dict[str, Floor]:
    """The floors of some explanations, by name.

    Args:
        explanations: of all latents that are tested, each once. The empty explanation has the text "" and no rule, and
            a simulator has to take it.
        by_token: of the same latents in the same order: what each token predicts alone, as a rule.
        seed: of who gets whose explanation.
    """
    latents = [own.latent for own in explanations]
    if [own.latent for own in by_token] != latents or len(set(latents)) != len(latents):
        raise ValueError("explanations by token are not those of the same latents, each once and in the same order")
    empty = [Explanation(latent, "", "empty") for latent in latents]
    constant = [Explanation(latent, "every token", "constant", Constant()) for latent in latents]
    return {
        "empty": Floor(empty, by_rule=False),
        "another": Floor(_exchanged(explanations, seed), by_rule=False),
        "constant": Floor(constant, by_rule=True),
        "token": Floor(list(by_token), by_rule=True),
    }


def _exchanged(explanations: Sequence[Explanation], seed: int) -> list[Explanation]:
    """Each latent with the explanation of another one: one cycle, at random, through all that have one."""
    there = [i for i, own in enumerate(explanations) if own.error is None]
    order = np.random.default_rng(seed).permutation(there).tolist()
    source = dict(zip(order, order[1:] + order[:1], strict=True)) if len(order) > 1 else {}
    return [
        replace(explanations[source[i]], latent=own.latent, explainer="another")
        if i in source
        else Explanation(own.latent, "", "another", error=own.error or "no other latent is explained")
        for i, own in enumerate(explanations)
    ]
