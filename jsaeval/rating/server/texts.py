"""Texts that raters type."""

import unicodedata


def typed(text: str) -> str:
    """What a rater typed, as it is stored: lines end alike, and control characters but tab are left out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(own for own in text if own in "\n\t" or unicodedata.category(own) not in ("Cc", "Cs"))
