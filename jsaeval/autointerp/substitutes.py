"""Text to put in the place of text: pieces of the corpus itself, so that ablated inputs stay what the LM knows.

One fixed padding token, as in the released N2G of Gao et al. 2024, is itself a context that a latent may like or
dislike, and no token is neutral in every tokenizer. The mean over several draws from the corpus is.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jsaeval.autointerp.evidence import Evidence
from jsaeval.corpus.texts import TokenIds


AHEAD = 6  # tokens of another document that are put before a piece of text


class Substitutes:
    """Draws for one latent, from the random windows of its split `explain`; the same in every run."""

    def __init__(self, evidence: Evidence, seed: int):
        windows = evidence.of("explain", "random") or evidence.of("explain")
        silent = [own.tokens for own in windows if not own.activations.any()]
        self._pieces = [own for own in silent if len(own) >= AHEAD] or [own.tokens for own in windows]
        self._tokens = np.concatenate([own.tokens for own in windows])
        self._rng = np.random.default_rng((seed, evidence.latent))

    def fill(self, pattern: Sequence[int | None], at_start: bool, draws: int) -> list[TokenIds]:
        """Texts that end with a pattern: a random token for each wildcard, and, but for a pattern that is to stand at
        the start, a piece of another document before it."""
        wild = np.array([token is None for token in pattern])
        literal = np.array([0 if token is None else token for token in pattern], np.int32)
        texts = []
        for _ in range(draws):
            own = np.where(wild, self._rng.choice(self._tokens, len(literal)), literal)
            texts.append(own if at_start else np.concatenate([self._ahead(), own]))
        return [text.astype(np.int32) for text in texts]

    def _ahead(self) -> Int[np.ndarray, "_"]:
        piece = self._pieces[self._rng.integers(len(self._pieces))]
        first = self._rng.integers(max(1, len(piece) - AHEAD + 1))
        return piece[first : first + AHEAD]
