"""Single texts → token ids of their own length: BOS, then the end of the text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jsaeval.errors import InputError
from jsaeval.lm.tokenizer import TextTokenizer


# Of a text, BOS first. (Texts have lengths of their own, so the axis has no name.)
TokenIds = Int[np.ndarray, "_"]
_ENCODE_AT_ONCE = 1024


@dataclass(frozen=True)
class TextTokens:
    """`ids` of each text, BOS first; `cut`: which texts lost their beginning, because the context is too short."""

    ids: tuple[TokenIds, ...]
    cut: tuple[bool, ...]


def text_tokens(texts: Sequence[str], tokenizer: TextTokenizer, context: int) -> TextTokens:
    """Token ids of texts, each on its own. What is longer than the context keeps its end.

    Args:
        texts: none of them empty.
        tokenizer: of the LM; special tokens that are written out in a text are ordinary text.
        context: positions, BOS included.

    Raises:
        InputError: the tokenizer has neither BOS nor EOS.
    """
    start = tokenizer.bos if tokenizer.bos is not None else tokenizer.eos
    if start is None:
        raise InputError("the tokenizer has neither BOS nor EOS to begin a text with")
    ids, cut = [], []
    for first in range(0, len(texts), _ENCODE_AT_ONCE):
        for own in tokenizer.encode(list(texts[first : first + _ENCODE_AT_ONCE])):
            cut.append(len(own) > context - 1)
            ids.append(np.array([start, *own[-(context - 1) :]], np.int32))
    return TextTokens(tuple(ids), tuple(cut))
