"""What an item looks like: windows by interval with their activations as shades, and effects on the logits as bars."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from jsaeval.corpus.visible import in_one_line
from jsaeval.rating.study import INTERVALS, Effect, Item, Window


SHADES, BARS = 10, 20  # classes s1 to s10 and w0 to w20 of the style sheet: the policy forbids styles in the page


@dataclass(frozen=True)
class Group:
    """An interval as it is shown: its number, what part of the largest activation it covers, and its windows."""

    number: int
    range: str
    lines: tuple[Markup, ...]


def groups_of(item: Item) -> tuple[Group, ...]:
    """The intervals of an item, the strongest first."""
    return tuple(
        Group(i, f"{_percent(i - 1)}–{_percent(i)} %", tuple(line(own) for own in item.intervals[i - 1]))
        for i in range(INTERVALS, 0, -1)
    )


def line(window: Window) -> Markup:
    """A window as HTML: its focus bold; what fires is shaded."""
    parts: list[Markup] = []
    for i, (token, share) in enumerate(zip(window.tokens, window.shares, strict=True)):
        text, level = escape(in_one_line(token)), _shade(share)
        if i == window.focus:
            parts.append(Markup('<b class="s{}">{}</b>').format(level, text))
        elif level:
            parts.append(Markup('<i class="s{}">{}</i>').format(level, text))
        else:
            parts.append(text)
    return Markup("").join(parts)


def bars_of(effects: Sequence[Effect]) -> list[tuple[str, int, str]]:
    """(token, class of its bar, its share) of each."""
    return [(in_one_line(own.token), round(BARS * min(abs(own.share), 1)), f"{abs(own.share):.2f}") for own in effects]


def _shade(share: float) -> int:
    return 0 if share <= 0 else min(SHADES, math.ceil(SHADES * share))


def _percent(edge: int) -> int:
    return round(100 * edge / INTERVALS)
