"""The examples of a latent as lines of tokens, shaded by activation."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from jsaeval.autointerp.evidence import INTERVALS, SPLITS
from jsaeval.corpus.visible import right_to_left, visible, visible_alone
from jsaeval.report.numbers import number


SHADES = 10
_AT_FIRST = 10  # examples of a group that are open; the others unfold
_TITLES = {
    "top": ("Where it is largest", "Windows with the largest activations, one of a document."),
    "interval": (
        "Over its whole range",
        f"Windows by their largest activation, in {INTERVALS} intervals of equal width.",
    ),
    "active": ("Where it fires", "Windows around activations drawn uniformly from all that are not 0."),
    "random": ("In any text", "Windows drawn uniformly from all; in most of them it does not fire."),
}


def example_groups(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups of examples by why they were chosen; within a group the largest activation comes first.

    `open` are shown at once, of intervals one each: if possible one with a simulation.
    """
    every = [(split, own) for split in SPLITS for own in record["examples"].get(split, ())]
    simulated = [value for _, own in every for value in own["simulated"] or () if value is not None]
    lowest = max(0.0, min(simulated, default=0.0))
    groups = []
    for kind, (title, note) in _TITLES.items():
        own = sorted((pair for pair in every if pair[1]["kind"] == kind), key=lambda pair: -_largest(pair[1]))
        if own:
            first = _first_of_each(own) if kind == "interval" else set(range(_AT_FIRST))
            shown = [_shown(example, split, record["largest"], lowest) for split, example in own]
            open_, rest = ([shown[i] for i in range(len(own)) if (i in first) == is_open] for is_open in (True, False))
            groups.append({"id": kind, "title": title, "note": note, "open": open_, "rest": rest})
    return groups


def largest_tokens(record: Mapping[str, Any], most: int = 6) -> list[str]:
    """The different tokens at which a latent is largest in its examples, the largest first."""
    best: dict[str, float] = {}
    for split in SPLITS:
        for own in record["examples"].get(split, ()):
            if (value := _largest(own)) > 0:
                token = visible_alone(own["text"][own["activations"].index(value)])
                best[token] = max(best.get(token, 0.0), value)
    return sorted(best, key=lambda token: -best[token])[:most]


def line(
    text: Sequence[str], values: Sequence[float | None], shades: Sequence[int], kind: str, focus: int | None = None
) -> Markup:
    """Tokens, each in an element of its own, in the shade of its value.

    Args:
        text: of the tokens, as it is shown.
        values: of the tokens.
        shades: of the values.
        kind: "a" for activations, "s" for simulated ones.
        focus: index of the token to underline.
    """
    known = zip(text, values, [f"{kind}{shade}" if shade else "" for shade in shades], strict=True)
    return Markup("".join(_token(*own, i == focus) for i, own in enumerate(known)))


def _first_of_each(own: Sequence[tuple[str, Mapping[str, Any]]]) -> set[int]:
    best: dict[int, int] = {}
    for i, (_, example) in enumerate(own):
        known = best.setdefault(example["interval"], i)
        if own[known][1]["simulated"] is None and example["simulated"] is not None:
            best[example["interval"]] = i
    return set(best.values())


def _token(shown: str, value: float | None, shade: str, focus: bool) -> str:
    classes = " ".join(filter(None, (shade, "f" if focus else "")))
    named = f' class="{classes}"' if classes else ""
    told = f' data-v="{number(value)}"' if value else ""
    return f"<i{named}{told}>{escape(shown)}</i>"


def _shade(value: float | None, largest: float | None) -> int:
    """0 to `SHADES`; only 0 is not shaded."""
    if not value or not largest or value <= 0:
        return 0
    return min(SHADES, math.ceil(SHADES * value / largest))


def _simulated_shade(value: float | None, lowest: float, largest: float | None) -> int:
    """0 to `SHADES`, from the lowest value, and what is nearer to it than to the first shade, on.

    Simulators that give levels say something else of every token; with a shade for each of these, all would have one.
    """
    if value is None or largest is None or not lowest < value or not lowest < largest:
        return 0
    return min(SHADES, round(SHADES * (value - lowest) / (largest - lowest)))


def _shown(example: Mapping[str, Any], split: str, largest: float | None, lowest: float) -> dict[str, Any]:
    """An example; `lowest`: what is simulated of the latent where nothing is said of it."""
    values, simulated = example["activations"], example["simulated"]
    shades = [_shade(value, largest) for value in values]
    said = [_simulated_shade(value, lowest, largest) for value in simulated or ()]
    silent = [not value and not (said and said[i]) for i, value in enumerate(values)]
    # A space that does nothing is one: LMs that cut off digits have it before every number.
    text = [own if own == " " and silent[i] else visible(own) for i, own in enumerate(example["text"])]
    facts = [f"interval {example['interval']}"] if example["kind"] == "interval" else []
    facts += [split, f"document {example['document']}", f"row {example['row']}, from {example['start']}"]
    focus = example["focus"] if values[example["focus"]] else None
    return {
        "largest": number(_largest(example)) if _largest(example) else "0",
        "facts": facts,
        "rtl": right_to_left(example["text"]),
        "line": line(text, values, shades, "a", focus),
        "simulated": None if simulated is None else line(text, simulated, said, "s"),
    }


def _largest(example: Mapping[str, Any]) -> float:
    return max((value for value in example["activations"] if value is not None), default=0.0)
