"""Texts that come from outside (files, servers, vocabularies), made fit for prompts, reports and terminals."""

import unicodedata


# Categories of characters that cannot be seen or that break lines: controls, formats, surrogates, separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Characters of an explanation, at most.
LONGEST_TEXT = 4000


def escaped(character: str) -> str:
    """A character as it is, or where it cannot be seen or breaks lines as an escape."""
    if unicodedata.category(character) not in _UNSEEN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line_of(text: str, longest: int | None = None) -> str:
    """A text in one line: white space as single spaces, characters that cannot be seen as escapes.

    Args:
        text: any; also lone surrogates, which no file of UTF-8 can hold.
        longest: characters; what is longer is cut, and ends with "…".
    """
    line = "".join(map(escaped, " ".join(text.split())))
    return line if longest is None or len(line) <= longest else f"{line[: longest - 1]}…"
