"""The N2G that was released with Gao et al. 2024 (arXiv 2406.04093), traps and all, as a baseline.

From its description: the shortest suffix that keeps half of the activation, run without BOS; tokens whose replacement
by one padding token costs less than half become wildcards, the last one too; a rule that does not survive padding in
front holds at the start only; a later leaf overwrites an earlier one. Prediction walks back greedily, the literal child
before the wildcard, and stops at the first leaf. Keys are token strings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int


# Activation at the last token of each text, exactly as the text is: no BOS is put before it.
Activate = Callable[[Sequence[np.ndarray], Sequence[int]], Float[np.ndarray, " text"]]
WILDCARD, START, LEAF = "token(*)", "token(^)", "<saliency>"


@dataclass
class ReleasedRule:
    """The trie; `names` gives the string of a token."""

    names: Callable[[int], str]
    trie: dict = field(default_factory=dict)

    def insert(self, tokens: Sequence[str], value: float) -> None:
        node = self.trie
        for token in tokens:
            node = node.setdefault(token, {})
        node[LEAF] = value

    def predict(
        self, before: Int[np.ndarray, " earlier"], tokens: Int[np.ndarray, " position"], begins: bool = True
    ) -> Float[np.ndarray, " position"]:
        text = [self.names(int(i)) for i in (*before, *tokens)]
        return np.array([self._at(text, i, begins) for i in range(len(before), len(text))], np.float32)

    def _at(self, text: list[str], end: int, begins: bool) -> float:
        node = self.trie
        for position in range(end, -1, -1):
            node = node.get(text[position], node.get(WILDCARD))
            if node is None:
                return 0.0
            if LEAF in node:
                return node[LEAF]
            if begins and position == 0 and START in node:
                return node[START][LEAF]
        return 0.0


def released_n2g(
    contexts: Sequence[tuple[int, np.ndarray, float]],
    activate: Activate,
    names: Callable[[int], str],
    pad: int,
) -> dict[int, ReleasedRule]:
    """Rules of latents from (latent, tokens up to the activation, activation), in lockstep: a few large batches.

    Args:
        contexts: what each rule is made from; an earlier one may be overwritten by a later.
        activate: the latents as functions of text.
        names: the string of a token.
        pad: the token that replaces others.
    """
    latents = [latent for latent, _, _ in contexts]
    suffix: dict[int, np.ndarray] = {}
    value = {i: act for i, (_, _, act) in enumerate(contexts)}
    length, open_ = 1, list(range(len(contexts)))
    while open_:
        tried = [contexts[i][1][-length:] for i in open_]
        for i, text, found in zip(open_, tried, activate(tried, [latents[i] for i in open_]), strict=True):
            if found / contexts[i][2] >= 0.5:
                suffix[i], value[i] = text, float(found)
        length += 1
        open_ = [i for i in open_ if i not in suffix and length <= len(contexts[i][1])]
    for i, (_, text, _) in enumerate(contexts):
        suffix.setdefault(i, text)
    everything = range(len(contexts))
    padded = activate([np.concatenate([[pad], suffix[i]]).astype(np.int32) for i in everything], latents)
    places = [(i, j) for i in everything for j in range(len(suffix[i]))]
    replaced = activate([_with(suffix[i], j, pad) for i, j in places], [latents[i] for i, _ in places])
    salient = {place: 1 - found / value[place[0]] >= 0.5 for place, found in zip(places, replaced, strict=True)}
    rules: dict[int, ReleasedRule] = {}
    for i, (latent, _, activation) in enumerate(contexts):
        path = [names(int(t)) if salient[i, j] else WILDCARD for j, t in enumerate(suffix[i])][::-1]
        start = [] if padded[i] / activation >= 0.5 else [START]
        rules.setdefault(latent, ReleasedRule(names)).insert([*path, *start], value[i])
    return rules


def _with(text: np.ndarray, place: int, token: int) -> np.ndarray:
    out = text.copy()
    out[place] = token
    return out
