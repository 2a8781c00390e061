"""Lookup tables: E[a | token], and E[a | the token before it, token]. What a latent is worth that knows no context.

Whatever an explanation says must predict better than the table of single tokens, which anybody can read off the data;
SAEs of randomly initialised LMs do well on it, too (Bricken et al. 2023, "Towards Monosemanticity").
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jsaeval.autointerp.evidence import Evidence, TokenTable
from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.phrases import joined, quoted


# Occurrences of a pair of tokens that E[a | token] is worth.
_PRIOR = 2.0
_NAMED = 40  # entries of a table that its text may name
NO_TOKEN = -1  # before the first token of a row, behind BOS
_UNKNOWN = -2  # before the first token of a document that others stand before


@dataclass(frozen=True)
class LookupRule:
    """The activation is that of the pair of tokens where it is known, else that of the token, else 0."""

    of_token: Mapping[int, float]
    of_pair: Mapping[tuple[int, int], float]

    def predict(
        self, before: Int[np.ndarray, " earlier"], tokens: Int[np.ndarray, " position"], begins: bool = True
    ) -> Float[np.ndarray, " position"]:
        previous = [_last(before, begins), *map(int, tokens[:-1])]
        pairs = zip(previous, map(int, tokens), strict=True)
        found = [self.of_pair.get(pair, self.of_token.get(pair[1], 0.0)) for pair in pairs]
        return np.array(found, np.float32)


@dataclass(frozen=True)
class Lookup:
    """The explainer. `token`: the text of a token id; `kind`: "token" for single tokens only, "lookup" for pairs, too.

    Pairs are counted in the examples of the split `explain`. These are not drawn evenly: an example counts as much as
    windows with a largest activation like its own are more frequent in the split than among the examples. The mean of a
    pair is shrunk to that of its token.
    """

    token: Callable[[int], str]
    kind: Literal["token", "lookup"] = "lookup"

    def explain(self, evidence: Sequence[Evidence]) -> list[Explanation]:
        return [self._one(own) for own in evidence]

    def _one(self, evidence: Evidence) -> Explanation:
        if evidence.problem is not None:
            return Explanation(evidence.latent, "", self.kind, error=evidence.problem)
        table = evidence.tokens
        of_token = dict(zip(map(int, table.ids), map(float, table.mean), strict=True))
        of_pair = pair_means(evidence, of_token) if self.kind == "lookup" else {}
        return Explanation(evidence.latent, self._text(table, of_pair), self.kind, LookupRule(of_token, of_pair))

    def _text(self, table: TokenTable, of_pair: Mapping[tuple[int, int], float]) -> str:
        """What is largest: of pairs the mean, of tokens the sum, so that those seen once do not come first."""
        parts = []
        for i in np.argsort(-(table.mean * table.seen), kind="stable")[:_NAMED]:
            named = quoted(self.token(int(table.ids[i])))
            parts.append(f"{named} {table.mean[i]:.2g} ({table.fires[i]} of {table.seen[i]})")
        if not of_pair:
            return joined("mean activation at ", parts, ", ")
        largest = sorted(of_pair, key=lambda pair: -of_pair[pair])[:_NAMED]
        pairs = [f"{self._pair(*pair)} {of_pair[pair]:.2g}" for pair in largest]
        few = joined("mean activation at ", parts[:4], ", ")
        return joined(f"{few}; at the second of ", pairs, ", ")

    def _pair(self, first: int, second: int) -> str:
        if first == NO_TOKEN:
            return f"{quoted(self.token(second))} first in a text"
        return quoted(self.token(first) + self.token(second))


def pair_means(evidence: Evidence, of_token: Mapping[int, float]) -> dict[tuple[int, int], float]:
    """E[a | token before, token] of the pairs in the examples at whose second token the latent ever fired."""
    examples = evidence.of("explain")
    weights = _weights(evidence)
    found: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    places = set()
    for example in examples:
        previous = _last(example.before, example.begins)
        for i, token in enumerate(map(int, example.tokens)):
            place = example.row, example.start + i
            if previous != _UNKNOWN and token in of_token and place not in places:
                found[previous, token].append((weights[example.interval], float(example.activations[i])))
            places.add(place)
            previous = token
    means = {}
    for pair, seen in found.items():
        weight, activation = np.array(seen).T
        mean = float(weight @ activation / weight.sum())
        means[pair] = (len(seen) * mean + _PRIOR * of_token[pair[1]]) / (len(seen) + _PRIOR)
    return means


def _last(before: Int[np.ndarray, " earlier"], begins: bool) -> int:
    if len(before):
        return int(before[-1])
    return NO_TOKEN if begins else _UNKNOWN


def _weights(evidence: Evidence) -> dict[int, float]:
    """How many windows of its interval an example stands for; 1 where that is not known."""
    examples, strata = evidence.of("explain"), evidence.strata.get("explain")
    places: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for example in examples:
        places[example.interval].add((example.row, example.start))
    if strata is None:
        return dict.fromkeys(places, 1.0)
    return {interval: max(1.0, strata[interval] / len(own)) for interval, own in places.items()}
