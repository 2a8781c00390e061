"""Which patterns are worth keeping: those that are right often enough to raise the F1 of firing.

A set of patterns has its best F1, F*, when it holds exactly those that are right with a probability above F*/2 (Lipton,
Elkan & Naryanaswamy 2014, arXiv 1402.1892). F* is taken from the patterns of a single token, whose probabilities
`TokenTable` gives for the whole split `explain`. All shares are shrunk, because most tokens are seen only a few times.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jsaeval.autointerp.evidence import Evidence
from jsaeval.autointerp.trie import Pattern, Trie


# Occurrences that a prior is worth: of the density for a token, of what ablations say for a longer pattern.
_TOKEN_PRIOR, _ABLATION_PRIOR = 1.0, 2.0
# Of a latent that depends on context, single tokens have a low F*; longer patterns can do better.
_LEAST = 0.3


@dataclass(frozen=True)
class Candidate:
    """A pattern, and the share of other texts in which the latent fired at the end of it."""

    pattern: Pattern
    rate: float


def token_rates(evidence: Evidence) -> Float[np.ndarray, " token"]:
    """P(the latent fires | token) for the tokens of the table."""
    table = evidence.tokens
    return (table.fires + _TOKEN_PRIOR * table.density) / (table.seen + _TOKEN_PRIOR)


def least_rate(evidence: Evidence) -> float:
    """F*/2 of single tokens, or `_LEAST` if that is more."""
    table, rates = evidence.tokens, token_rates(evidence)
    if not len(rates):
        return _LEAST
    order = np.argsort(-rates, kind="stable")
    seen = table.seen[order]
    f1 = 2 * np.cumsum(rates[order] * seen) / (np.cumsum(seen) + table.fires.sum())
    return max(float(f1.max()) / 2, _LEAST)


def token_patterns(evidence: Evidence) -> list[Pattern]:
    """Tokens at which the latent fires often enough whatever stands before; their value is E[a | token]."""
    table, good = evidence.tokens, token_rates(evidence) >= least_rate(evidence)
    return [
        Pattern((int(token),), float(value), examples=int(fires))
        for token, value, fires in zip(table.ids[good], table.mean[good], table.fires[good], strict=True)
    ]


def reliable(candidates: Sequence[Candidate], evidence: Evidence) -> list[Pattern]:
    """Longer patterns that are right often enough: in other texts, and wherever else they match in the examples.

    The activations that the patterns were made from do not count, nor others that an example was chosen for: a window
    that was drawn twice shows two of them, either of which would confirm the pattern of the other.
    """
    trie = Trie([own.pattern for own in candidates])
    seen = dict.fromkeys((own.pattern for own in candidates), 0)
    fires = dict(seen)
    examples = evidence.of("explain")
    chosen = {(own.row, own.start + own.focus) for own in examples if own.activations[own.focus] > 0}
    for example in {(own.row, own.start): own for own in examples}.values():
        text = np.concatenate([example.before, example.tokens])
        for i, activation in enumerate(example.activations):
            if (example.row, example.start + i) in chosen:
                continue
            for pattern in trie.matches(text, len(example.before) + i, example.begins):
                seen[pattern] += 1
                fires[pattern] += activation > 0
    least = least_rate(evidence)
    return [
        own.pattern
        for own in candidates
        if fires[own.pattern] + _ABLATION_PRIOR * own.rate >= least * (seen[own.pattern] + _ABLATION_PRIOR)
    ]
