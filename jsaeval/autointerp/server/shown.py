"""How tokens and activations are shown to language models: one line a token, whatever is in it."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jsaeval.autointerp.measures import levels_of
from jsaeval.autointerp.texts import escaped
from jsaeval.lm.tokenizer import TextTokenizer


_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}
# A token without text of its own.
_NOTHING = "\\0"


def one_line(text: str) -> str:
    """A text in one line: characters that break lines, or that cannot be seen, as escapes; spaces as they are."""
    if not text:
        return _NOTHING
    return "".join(_SHORT.get(own) or escaped(own) for own in text)


def token_texts(tokenizer: TextTokenizer, ids: Int[np.ndarray, " position"]) -> list[str]:
    """What each token adds to a text, visible; bytes that are no whole character are U+FFFD."""
    return [_text(tokenizer, int(index)) for index in ids]


@functools.lru_cache(maxsize=2**17)
def _text(tokenizer: TextTokenizer, index: int) -> str:
    # Decoders of SentencePiece take the space off a token at the beginning. The second of two has it.
    return one_line(tokenizer.decode([index, index])[len(tokenizer.decode([index])) :])


def quantised(activations: Sequence[Float[np.ndarray, "_"]], highest: int = 10) -> list[Int[np.ndarray, "_"]]:
    """Activations of one latent as levels: min(highest, ⌊10 relu(a) / max⌋), max over all that are given.

    Bills et al. 2023, as released: only the largest activation is shown as 10, and what is less than a tenth of it as
    0. All are 0 where none is positive. Bricken et al. 2023 end at 9.

    Args:
        activations: of the examples that are shown together (they have lengths of their own).
        highest: level.

    Returns:
        Levels of each example, from 0 to `highest`.
    """
    largest = max((float(own.max()) for own in activations if len(own)), default=0.0)
    return [np.minimum(highest, levels_of(own, largest)) for own in activations]
