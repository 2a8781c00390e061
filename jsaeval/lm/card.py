"""Where a language model came from, and what of its tokenizer the masks need."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LMCard:
    """Facts about an LM besides its weights. A host LM without a `card` attribute has none of them.

    `sha256` is of everything that decides its activations: weights and shape.
    """

    name: str = "LM"
    source: str = ""
    sha256: str = ""
    context: int | None = None
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    family: str | None = None

    @property
    def special_ids(self) -> tuple[int, ...]:
        """BOS, EOS and PAD, without repeats, ascending."""
        return tuple(sorted({i for i in (self.bos, self.eos, self.pad) if i is not None}))


def card_of(lm: Any) -> LMCard:
    """The card of a host LM, or an empty one."""
    card = getattr(lm, "card", None)
    return card if isinstance(card, LMCard) else LMCard()
