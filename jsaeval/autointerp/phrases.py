"""Tokens and patterns of tokens as people read them: short, and with everything visible."""

from collections.abc import Callable, Iterable, Sequence

from jsaeval.autointerp.trie import Pattern
from jsaeval.corpus.visible import visible_alone


LONGEST = 300  # characters of a text
_WORDS_FIRST, _LONGER_FIRST = 12, 3


def quoted(text: str) -> str:
    """With signs in the place of white space and of what cannot be seen."""
    return f'"{visible_alone(text)}"'


def joined(first: str, parts: Iterable[str], between: str = "; ", longest: int = LONGEST) -> str:
    """As many parts as fit behind `first`, and how many did not."""
    parts = list(parts)
    for shown in range(len(parts), 0, -1):
        rest = f"{between}and {len(parts) - shown} more" if shown < len(parts) else ""
        if len(text := first + between.join(parts[:shown]) + rest) <= longest:
            return text
    return (first + between.join(parts))[: longest - 1] + "…"


def describe(patterns: Sequence[Pattern], token: Callable[[int], str]) -> str:
    """Patterns in words, those with the largest part in the activations first.

    Single tokens come in one list, forms of one word together: `fires on "␣oil" (3 forms), "␣crude"; on "␣Street" after
    "␣Wall"; on * after "www"*` (any token, two after "www"). Longer patterns are made from few examples; up to
    three of those that have several stand before the tokens, of which there are many.
    """
    first = sorted(patterns, key=lambda own: (-own.value * own.examples, -own.value))
    single = [own for own in first if own.literals == 1 and own.tokens[-1] is not None and not own.at_start]
    longer = sorted((own for own in first if own not in single), key=lambda own: -own.examples)
    ahead = sum(own.examples > 1 for own in longer[:_LONGER_FIRST])
    phrases = [_phrase(own, token) for own in longer]
    words = _words([token(index) for own in single for index in own.tokens[-1:] if index is not None])
    names = [quoted(own[0]) + (f" ({len(own)} forms)" if len(own) > 1 else "") for own in words[:_WORDS_FIRST]]
    left = sum(map(len, words[_WORDS_FIRST:]))
    more = f" and {left} other token{'s' if left > 1 else ''}" if left else ""
    tokens = f"on {', '.join(names)}{more}"
    return joined("fires ", [*phrases[:ahead], *([tokens] if names else []), *phrases[ahead:]])


def _words(tokens: Sequence[str]) -> list[list[str]]:
    """Tokens that differ by case and white space alone together, in the order of their first."""
    words: dict[str, list[str]] = {}
    for own in tokens:
        words.setdefault(own.strip().casefold() or own, []).append(own)
    return list(words.values())


def _phrase(pattern: Pattern, token: Callable[[int], str]) -> str:
    *before, last = pattern.tokens
    if pattern.at_start:
        before = [None] * len(before) if not any(t is not None for t in before) else before
        place = f" after {_run(before, token)}, these first in a text" if before else " first in a text"
        return f"on {_token(last, token)}{place}"
    return f"on {_token(last, token)} after {_run(before, token)}"


def _token(index: int | None, token: Callable[[int], str]) -> str:
    return "*" if index is None else quoted(token(index))


def _run(tokens: Sequence[int | None], token: Callable[[int], str]) -> str:
    """Neighbouring literals in one pair of quotes: "␣New␣York"*."""
    out, text = "", ""
    for index in [*tokens, None]:
        if index is not None:
            text += token(index)
            continue
        out += (quoted(text) if text else "") + "*"
        text = ""
    return out[:-1]
