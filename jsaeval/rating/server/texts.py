"""Texts of a vocabulary, and texts that raters type, made fit for a page whatever they hold."""

import functools
import unicodedata


# Control, format, surrogate and unassigned characters, and separators of lines: a parser of HTML drops or changes some
# of them, others turn the direction of what stands beside them, or have no ink.
_UNSAFE = {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}


@functools.lru_cache(maxsize=2**16)
def printable(text: str) -> str:
    """A text in one line that shows what it holds. Made visible before, it stays as it is. It is not escaped.

    Markup is left to the template. What is left to do here are characters that no escape makes safe.
    """
    return "".join(own if unicodedata.category(own) not in _UNSAFE else _named(own) for own in text)


def typed(text: str) -> str:
    """What a rater typed, as it is stored: lines end alike, and control characters but tab are left out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(own for own in text if own in "\n\t" or unicodedata.category(own) not in ("Cc", "Cs"))


def _named(own: str) -> str:
    return "�" if unicodedata.category(own) == "Cs" else f"⟨U+{ord(own):04X}⟩"
