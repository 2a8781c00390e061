"""The prompts: templates in `prompts/`, filled with demonstrations made up for them."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2


# Begins a turn of a chat. `jsaeval.autointerp.server.shown` writes this character out wherever it comes from outside.
_TURN = "\x1e"
# A token and its level; before simulation, "?".
Line = tuple[str, int | str]
# Bills et al. 2023 show what is above 0 once more where that is less than this share of the tokens.
_SPARSE = 0.2


@dataclass(frozen=True)
class Demonstration:
    """A latent that does not exist, and how one would explain it.

    Attributes:
        explanation: the answer.
        reasoning: what leads to it, in words.
        promotes, suppresses: tokens that it makes more and less likely.
        records: tokens and levels from 0 to 10; those in which it is active first, strongest first.
    """

    explanation: str
    reasoning: str
    promotes: list[str]
    suppresses: list[str]
    records: list[list[tuple[str, int]]] = field(default_factory=list)


@functools.cache
def demonstrations() -> tuple[Demonstration, ...]:
    """The three that stand in every prompt."""
    return tuple(
        Demonstration(**(own | {"records": [_record(text) for text in own["records"]]}))
        for own in json.loads(_file("demonstrations.json"))
    )


def _record(text: str) -> list[tuple[str, int]]:
    """`token|token^level|...`; without a level it is 0."""
    lines = (part.partition("^") for part in text.split("|"))
    return [(token, int(level or 0)) for token, _, level in lines]


def is_sparse(records: Sequence[Sequence[tuple[str, int]]]) -> bool:
    """Whether less than a fifth of the levels are above 0, but some are."""
    levels = [level for record in records for _, level in record]
    return 0 < sum(level > 0 for level in levels) < _SPARSE * len(levels)


def text_prompt(name: str, **values: Any) -> str:
    """A template as one text."""
    return _template(name).render(values).rstrip("\n") + "\n"


def chat_prompt(name: str, **values: Any) -> list[dict[str, str]]:
    """A template as the messages of a chat.

    Turns of one role that follow each other are one message: instructions stand before the first question, because the
    chat templates of some models have no system role.
    """
    text = _template(name).render(values, turn=lambda role: f"{_TURN}{role}", levels_json=levels_json)
    turns = (part.partition("\n") for part in text.split(_TURN)[1:])
    messages: list[dict[str, str]] = []
    for role, _, content in turns:
        content = content.strip("\n")
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{content}"
        else:
            messages.append({"role": role, "content": content})
    return messages


def levels_json(levels: Sequence[int]) -> str:
    """Levels as an answer in JSON: {"1": 0, "2": 7, ...}."""
    return json.dumps({str(i): level for i, level in enumerate(levels, 1)})


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_file(f"{name}.jinja"))


def _file(name: str) -> str:
    return (resources.files("jsaeval.autointerp.server") / "prompts" / name).read_text(encoding="utf-8")
