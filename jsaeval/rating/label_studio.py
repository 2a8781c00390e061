"""A study as a project of Label Studio: tasks and a labelling configuration, as blind as the study itself.

A task is an item. Its units are asked about one after the other, in places 1, 2, ...: which interval is asked about in
a place differs from item to item and stands in the task (`unit1` for people, `interval1` for `jsaeval rate import`).
Every question is `Choices`, whose values are the numbers: `Rating` cannot tell 0 from no answer. Label Studio shows the
tasks once, in its own order: hidden repeats are not among them.
"""

import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jsaeval.cache import atomic
from jsaeval.errors import InputError
from jsaeval.rating.rubric import Question
from jsaeval.rating.store import NOTE
from jsaeval.rating.study import INTERVALS, Effect, Item, Study, Window


TASKS, CONFIG = "tasks.json", "config.xml"
TEXT = "text__"  # before the id of a text, in the name of its field
_SHOWN = "shown"  # name of what is looked at
# What XML 1.0 cannot hold.
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def place_of(name: str) -> tuple[int, str] | None:
    """(place, question) of the name of a field, None where it is not one of a question."""
    found = re.fullmatch(r"u([1-9][0-9]?)__([a-z][a-z0-9_]*)", name)
    return None if found is None else (int(found[1]), found[2])


def write_label_studio(folder: Path, study: Study) -> list[Path]:
    """Write `tasks.json` and `config.xml`, and return their paths.

    Raises:
        InputError: they cannot be written.
    """
    content = {TASKS: json.dumps(tasks(study), indent=1) + "\n", CONFIG: config(study)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in content.items():
            with atomic(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    return [folder / name for name in content]


def tasks(study: Study) -> list[dict[str, Any]]:
    """What to import into Label Studio: one task for each item, in the order of their ids, which are random."""
    return [{"data": {"item": item.id, "html": _html(item)} | _places(item, study)} for item in study.items.values()]


def _places(item: Item, study: Study) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place in range(1, _most(study) + 1):
        unit = item.units[place - 1] if place <= len(item.units) else None
        said = "The item as a whole" if unit == 0 else f"Group {unit} of {INTERVALS}"
        found |= {f"unit{place}": "Nothing to answer here" if unit is None else said, f"interval{place}": unit}
    return found


def config(study: Study) -> str:
    """The labelling configuration: the texts, then all questions for every place."""
    view = ElementTree.Element("View")
    _add(view, "Header", value=_said(study.rubric.title), size="3")
    _add(view, "Header", value=_said(study.rubric.intro), size="5")
    _add(view, "HyperText", name=_SHOWN, value="$html")
    for text in study.rubric.texts:
        _add(view, "Header", value=_said(text.prompt), size="4")
        required = {"required": "true"} if text.required else {}
        _add(view, "TextArea", name=TEXT + text.id, toName=_SHOWN, rows="2", maxSubmissions="1", **required)
    everywhere = min(len(item.units) for item in study.items.values())
    for place in range(1, _most(study) + 1):
        _add(view, "Header", value=f"$unit{place}", size="3")
        for question in study.rubric.asked(study.logits):
            _question(view, place, question, required=place <= everywhere)
    _add(view, "Header", value="Note", size="4")
    _add(view, "TextArea", name=TEXT + NOTE, toName=_SHOWN, rows="1", maxSubmissions="1")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _question(view: ElementTree.Element, place: int, question: Question, required: bool) -> None:
    about = {}
    if question.only_if is not None:
        of, below = question.only_if
        about = {"visibleWhen": "choice-selected", "whenTagName": f"u{place}__{of}"}
        about |= {"whenChoiceValue": ",".join(map(str, range(below)))}
    inside = _add(view, "View", **about)
    meant = [f"{i}: {_said(answer)}" for i, answer in enumerate(question.answers) if answer]
    _add(inside, "Header", value=f"{_said(question.prompt)} ({'; '.join(meant)})", size="4")
    needed = {"required": "true"} if required and question.only_if is None else {}
    choices = _add(
        inside,
        "Choices",
        name=f"u{place}__{question.id}",
        toName=_SHOWN,
        choice="single-radio",
        showInline="true",
        **needed,
    )
    for i in range(len(question.answers)):
        _add(choices, "Choice", value=str(i))


def _add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _said(text: str) -> str:
    """A text of the rubric as Label Studio shows it as it is: $ would name a field of the task."""
    return _UNPRINTABLE.sub("�", text).replace("$", "＄").strip()


def _most(study: Study) -> int:
    return max(len(item.units) for item in study.items.values())


def _html(item: Item) -> str:
    parts = []
    for i, windows in enumerate(item.intervals, 1):
        lines = "".join(_window(own) for own in windows) or "<p>none</p>"
        parts.append(f"<h4>Group {i} of {INTERVALS}</h4>{lines}")
    for title, effects in (("Makes more likely", item.promoted), ("Makes less likely", item.suppressed)):
        if effects:
            parts.append(f"<h4>{title}</h4><p>{', '.join(map(_effect, effects))}</p>")
    return f'<div dir="ltr">{"".join(parts)}</div>'


def _window(own: Window) -> str:
    return f"<p>{''.join(_tokens(own))}</p>"


def _tokens(own: Window) -> Iterator[str]:
    for i, (token, share) in enumerate(zip(own.tokens, own.shares, strict=True)):
        shade = f' style="background:rgba(230,150,30,{min(max(share, 0.0), 1.0):.2f})"' if share > 0 else ""
        text = f"<bdi>{escape(token)}</bdi>"
        yield f"<span{shade}>{f'<b>{text}</b>' if i == own.focus else text}</span>"


def _effect(own: Effect) -> str:
    return f"<bdi>{escape(own.token)}</bdi> ({own.share:.0%})"
