"""Patterns of tokens that end where a latent fires, and a trie of them that finds all that match.

After Neuron2Graph (Foote et al. 2023, arXiv 2305.19911), with these differences: keys are token ids, so tokens of one
text stay apart; a match follows the literal *and* the wildcard branch, as a set of states; of all patterns that match,
the most specific gives the value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Pattern:
    """What the text looks like where the latent fires.

    Attributes:
        tokens: ids as they stand in the text, the last one where the latent fires; None: any token.
        value: activation there.
        at_start: only where nothing but BOS stands before it in the LM's context.
        examples: how many activations it was made from.
    """

    tokens: tuple[int | None, ...]
    value: float
    at_start: bool = False
    examples: int = 1

    @property
    def literals(self) -> int:
        """Tokens that are not wildcards; the start of the text counts as one."""
        return sum(token is not None for token in self.tokens) + self.at_start


@dataclass
class _Node:
    """`children` by token id; `wildcard`: any token; `here` and `at_start`: patterns that end at this node."""

    children: dict[int, "_Node"] = field(default_factory=dict)
    wildcard: "_Node | None" = None
    here: Pattern | None = None
    at_start: Pattern | None = None

    def child(self, token: int | None) -> "_Node":
        if token is not None:
            return self.children.setdefault(token, _Node())
        if self.wildcard is None:
            self.wildcard = _Node()
        return self.wildcard


class Trie:
    """Patterns by their tokens, the last one at the root."""

    def __init__(self, patterns: Sequence[Pattern]):
        """Raises ValueError where a pattern has no literal at all, which would match everywhere."""
        self._root = _Node()
        for pattern in patterns:
            if not pattern.literals:
                raise ValueError("a pattern of wildcards alone matches everywhere")
            node = self._root
            for token in reversed(pattern.tokens):
                node = node.child(token)
            if pattern.at_start:
                node.at_start = pattern
            else:
                node.here = pattern

    def matches(self, text: Int[np.ndarray, " position"], end: int, begins: bool = True) -> Iterator[Pattern]:
        """All patterns that end at position `end` of a text, shortest first; those of a start only if nothing but BOS
        stands before the text, so that it `begins`."""
        states = [self._root]
        for position in range(end, -1, -1):
            token = int(text[position])
            followed = [state.children.get(token) for state in states] + [state.wildcard for state in states]
            states = [state for state in followed if state is not None]
            for state in states:
                if state.here is not None:
                    yield state.here
                if begins and position == 0 and state.at_start is not None:
                    yield state.at_start
            if not states:
                return


class TrieRule:
    """The activation is the value of the most specific pattern that matches, 0 where none does."""

    def __init__(self, patterns: Sequence[Pattern]):
        self.patterns, self._trie = tuple(patterns), Trie(patterns)

    def predict(
        self, before: Int[np.ndarray, " earlier"], tokens: Int[np.ndarray, " position"], begins: bool = True
    ) -> Float[np.ndarray, " position"]:
        text, found = np.concatenate([before, tokens]), np.zeros(len(tokens), np.float32)
        for i in range(len(tokens)):
            matched = max(self._trie.matches(text, len(before) + i, begins), key=_specificity, default=None)
            found[i] = 0.0 if matched is None else matched.value
        return found


def _specificity(pattern: Pattern) -> tuple[int, int, float]:
    return pattern.literals, len(pattern.tokens), pattern.value
