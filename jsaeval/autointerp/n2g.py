"""N2G: a latent as patterns of tokens, found by cutting and replacing what stands before its activations.

Neuron2Graph (Foote et al. 2023, arXiv 2305.19911) as simplified by Gao et al. 2024 (arXiv 2406.04093, §4.2 and the code
released with it): the shortest end of the context that keeps half of the activation, in which every token that the
activation can do without becomes a wildcard. What is done otherwise here, and why:

- An end of the context is tried behind BOS and text of another document, not at position 0, where activations are of
  their own kind. Only where nothing of that kind holds and nothing but BOS stands there, the pattern is one of a start.
- Tokens become wildcards one after the other, all earlier ones replaced together. One at a time, of two tokens either
  of which suffices both would become wildcards.
- Replacements are drawn from the corpus, several for each question (`jsaeval.autointerp.substitutes`).
- Whether a token alone is enough is not asked of the LM, but read from the corpus (`TokenTable`), for every token that
  the latent fires at. Ablations are for the activations that no token explains.
- The last token becomes a wildcard only beside a literal, so that no pattern matches everywhere.
- A pattern is kept if it is expected to be right often enough (`jsaeval.autointerp.keeping`).

All ablations of all latents are asked for together, a step at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jsaeval.autointerp.evidence import Evidence, Example, Kind
from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.function import Activate
from jsaeval.autointerp.keeping import Candidate, reliable, token_patterns
from jsaeval.autointerp.phrases import describe
from jsaeval.autointerp.substitutes import Substitutes
from jsaeval.autointerp.trie import Pattern, TrieRule
from jsaeval.corpus.texts import TokenIds


SHOWN = 24  # activations of a latent
CONTEXT = 12  # tokens of the context that are looked at
LITERALS = 6  # tokens of a pattern at most; more are a quotation and hardly ever come again
KEEPS = 0.5  # share of the activation that has to stay
_DRAWS, _MORE_DRAWS = 3, 6
_LATENTS_AT_ONCE = 64
_ORDER: tuple[Kind, ...] = ("active", "top", "interval")


@dataclass(eq=False)
class _Case:
    """An activation, and what is known of it: the pattern becomes shorter, then wilder."""

    latent: int
    substitutes: Substitutes
    context: TokenIds
    whole: bool  # nothing but BOS stands before the context
    activation: float
    pattern: list[int | None]
    at_start: bool = False

    @property
    def literals(self) -> int:
        return sum(token is not None for token in self.pattern)

    @property
    def key(self) -> tuple[tuple[int | None, ...], bool]:
        return tuple(self.pattern), self.at_start


def shown(evidence: Evidence, most: int = SHOWN) -> list[tuple[Example, TokenIds]]:
    """The activations that N2G looks at, and the text up to each; those drawn evenly first, none of them twice."""
    found: dict[tuple[int, int], tuple[Example, TokenIds]] = {}
    for example in sorted(evidence.of("explain", *_ORDER), key=lambda own: _ORDER.index(own.kind)):
        text = np.concatenate([example.before, example.tokens[: example.focus + 1]]).astype(np.int32)
        if example.activations[example.focus] > 0:
            found.setdefault((example.row, example.start + example.focus), (example, text))
    return list(found.values())[:most]


@dataclass(frozen=True)
class N2G:
    """The explainer.

    Attributes:
        activate: the latents as functions of text, see `jsaeval.autointerp.function`.
        token: the text of a token id.
        most: activations of a latent that are looked at.
        seed: of the replacements.
    """

    activate: Activate
    token: Callable[[int], str]
    most: int = SHOWN
    seed: int = 0

    def explain(self, evidence: Sequence[Evidence]) -> list[Explanation]:
        out = []
        for first in range(0, len(evidence), _LATENTS_AT_ONCE):
            part = evidence[first : first + _LATENTS_AT_ONCE]
            candidates = self._candidates([own for own in part if own.problem is None])
            out += [self._explanation(own, candidates.get(own.latent, [])) for own in part]
        return out

    def _explanation(self, evidence: Evidence, candidates: list[Candidate]) -> Explanation:
        if evidence.problem is not None:
            return Explanation(evidence.latent, "", "n2g", error=evidence.problem)
        patterns = [*token_patterns(evidence), *reliable(candidates, evidence)]
        if not patterns:
            return Explanation(evidence.latent, "", "n2g", error="no pattern of tokens makes it fire reliably")
        return Explanation(evidence.latent, describe(patterns, self.token), "n2g", TrieRule(patterns))

    def _candidates(self, evidence: Sequence[Evidence]) -> dict[int, list[Candidate]]:
        """Of each latent: its patterns, and how often they make it fire in other text."""
        cases = self._cases(evidence)
        cases = self._shortened(cases)
        self._put_wildcards(cases)
        by_key: dict[tuple, list[_Case]] = {}
        for case in cases:
            by_key.setdefault((case.latent, *case.key), []).append(case)
        groups = [own for own in by_key.values() if own[0].literals <= LITERALS]
        values = self._values([own[0] for own in groups], [own[0].pattern for own in groups], _MORE_DRAWS)
        found: dict[int, list[Candidate]] = {}
        for own, measured in zip(groups, values, strict=True):
            tokens, at_start = own[0].key
            rate = float((measured > 0).mean())
            value = float(np.mean([case.activation for case in own]))
            found.setdefault(own[0].latent, []).append(Candidate(Pattern(tokens, value, at_start, len(own)), rate))
        return found

    def _cases(self, evidence: Sequence[Evidence]) -> list[_Case]:
        cases = []
        for own in evidence:
            substitutes = Substitutes(own, self.seed)
            settled = {pattern.tokens[0] for pattern in token_patterns(own)}
            for example, text in shown(own, self.most):
                context = text[-CONTEXT:]
                if int(text[-1]) not in settled:
                    whole = example.begins and len(context) == len(text)
                    cases.append(_Case(own.latent, substitutes, context, whole, 0.0, context.tolist()))
        values = self.activate([case.context for case in cases], [case.latent for case in cases])
        for case, value in zip(cases, values, strict=True):
            case.activation = float(value)
        # Without what stood further ahead some do not fire at all; nothing can be learnt from them.
        return [case for case in cases if case.activation > 0]

    def _shortened(self, cases: list[_Case]) -> list[_Case]:
        """With the shortest end that keeps the activation: lengths 2, 4, 8, ..., then halving between two of them."""
        too_short = {case: min(1, len(case.context) - 1) for case in cases}
        enough: dict[_Case, int] = {}
        trying = {case: min(2, len(case.context)) for case in cases}
        while trying:
            asked = list(trying)
            holds = self._holds(asked, [case.context[-trying[case] :].tolist() for case in asked])
            for case, good in zip(asked, holds, strict=True):
                (enough if good else too_short)[case] = trying[case]
                if case in enough:
                    trying[case] = (too_short[case] + enough[case]) // 2
                else:
                    trying[case] = min(2 * too_short[case], len(case.context))
                if trying[case] <= too_short[case]:
                    del trying[case]
        for case in cases:
            case.at_start = case not in enough
            case.pattern = case.context[-enough.get(case, len(case.context)) :].tolist()
        return [case for case in cases if case in enough or case.whole]

    def _put_wildcards(self, cases: list[_Case]) -> None:
        """Tokens that the activation can do without, from the left; then the last one, if another literal stays."""
        for position in range(CONTEXT - 1):
            # The first token of a shortest end is needed.
            asked = [case for case in cases if len(case.pattern) > position + 1 and (position or case.at_start)]
            self._try_wildcard(asked, position, _DRAWS)
        anchored = [case for case in cases if case.at_start or any(t is not None for t in case.pattern[:-1])]
        self._try_wildcard(anchored, -1, _MORE_DRAWS)
        for case in cases:
            while case.pattern[0] is None and not case.at_start:
                case.pattern.pop(0)

    def _try_wildcard(self, cases: list[_Case], position: int, draws: int) -> None:
        wilder = [[*case.pattern] for case in cases]
        for pattern in wilder:
            pattern[position] = None
        for case, pattern, good in zip(cases, wilder, self._holds(cases, wilder, draws), strict=True):
            if good:
                case.pattern = pattern

    def _holds(self, cases: list[_Case], patterns: list[list[int | None]], draws: int = _DRAWS) -> list[bool]:
        values = self._values(cases, patterns, draws)
        needed = np.array([KEEPS * case.activation for case in cases])
        return (values.mean(axis=1) >= needed).tolist()

    def _values(
        self, cases: list[_Case], patterns: list[list[int | None]], draws: int
    ) -> Float[np.ndarray, "case draw"]:
        texts = [
            text
            for case, pattern in zip(cases, patterns, strict=True)
            for text in case.substitutes.fill(pattern, case.at_start, draws)
        ]
        latents = [case.latent for case in cases for _ in range(draws)]
        return self.activate(texts, latents).reshape(len(cases), draws)
