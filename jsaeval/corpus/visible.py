"""Tokens as text that people can trust: what would be invisible, or would move what stands beside it, is shown.

A vocabulary holds white space, control characters, halves of characters, marks that turn the direction of writing
(U+202E) and pieces of HTML. Nothing of this reaches a page as it is.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable


_MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍", "\x00": "␀"}
# Letters and symbols that have no ink.
_BLANK = {"\u115f", "\u1160", "\u2800", "\u3164", "\uffa0", "\u034f", "\u17b4", "\u17b5", "\ufffc"}
# Control, format, surrogate, private and unassigned characters, and every white space but the space itself.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


@functools.lru_cache(maxsize=2**18)
def visible(token: str) -> str:
    """A token inside a text. One space before a word stays a space, so that text can be read; any other is ␣."""
    first = " " if re.match(r" [^ ]", token) else ""
    return first + _shown(token[len(first) :])


def visible_alone(token: str) -> str:
    """A token by itself: every space is ␣."""
    return _shown(token) or "∅"


def in_one_line(text: str) -> str:
    """A text whose spaces stay spaces. What was made visible before stays as it is."""
    return "".join(map(_character, text))


def clean(text: str) -> str:
    """A text of several lines, whose spaces stay spaces and whose lines stay lines."""
    return "".join(own if own in " \n" else _character(own) for own in text)


def right_to_left(tokens: Iterable[str]) -> bool:
    """Whether most letters of a text are of scripts that run from right to left."""
    kinds = [unicodedata.bidirectional(own) for token in tokens for own in token]
    return sum(kind in ("R", "AL") for kind in kinds) > kinds.count("L")


def _shown(text: str) -> str:
    return "".join("␣" if own == " " else _character(own) for own in text)


@functools.lru_cache(maxsize=2**14)
def _character(own: str) -> str:
    if own in _MARKS:
        return _MARKS[own]
    if own == "\ufffd" or "\ud800" <= own <= "\udfff":
        return "�"
    if own == " ":
        return own
    return f"⟨U+{ord(own):04X}⟩" if own in _BLANK or unicodedata.category(own) in _UNSEEN else own
