"""Lines of files with ratings made elsewhere, and what may be wrong with them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from jsaeval.errors import InputError
from jsaeval.rating.store import LONGEST_TEXT, NOTE, Kind, check_name
from jsaeval.rating.study import Study


@dataclass(frozen=True)
class Line:
    """Something that a file says, and where; the rest is as in `jsaeval.rating.store.Event`."""

    where: str
    rater: str
    item: str
    again: bool
    kind: Kind
    interval: int
    question: str
    value: str
    seconds: float
    at: str
    rubric: str

    @property
    def place(self) -> tuple[str, str, bool]:
        return self.rater, self.item, self.again

    @property
    def what(self) -> tuple[object, ...]:
        return self.rater, self.item, self.again, self.kind, self.interval, self.question


def wrong_names(rater: str, item: str, study: Study) -> Iterator[str]:
    """What is wrong with who rated what."""
    try:
        check_name(rater)
    except InputError as error:
        yield str(error)
    if item not in study.items:
        yield f"item {item!r}: not in the study"


def wrong_answer(item: str, interval: str, question: str, value: str, study: Study) -> Iterator[str]:
    """What is wrong with an answer to an item of the study, or with a text."""
    asked, texts = questions_of(study), [*(own.id for own in study.rubric.texts), NOTE]
    if question in texts:
        if not value.strip() or len(value) > LONGEST_TEXT:
            yield f"{question}: a text of 1 to {LONGEST_TEXT} characters was expected"
        elif value != value.encode("utf-8", "replace").decode():
            yield f"{question}: halves of characters are in it"
    elif question not in asked:
        yield f"question {question!r}: not in the rubric, which has {', '.join([*asked, *texts])}"
    else:
        units, highest = study.items[item].units, asked[question]
        if number_of(interval) not in units:
            yield f"interval {interval!r}: of this item {', '.join(map(str, units))} was expected"
        if number_of(value) not in range(highest + 1):
            yield f"{question} {value!r}: 0 to {highest} was expected"


def questions_of(study: Study) -> dict[str, int]:
    """The questions that are asked, and their highest answers."""
    return {own.id: own.highest for own in study.rubric.asked(study.logits)}


def number_of(text: str) -> int | None:
    """A whole number of few digits; None where it is none."""
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 3 else None


def is_seconds(text: str) -> bool:
    """Whether it is a time span, or empty."""
    try:
        return not text or 0 <= float(text) < math.inf
    except ValueError:
        return False


def is_time(text: str) -> bool:
    """Whether it is a date and time in ISO 8601, or empty."""
    try:
        return not text or bool(datetime.fromisoformat(text))
    except ValueError:
        return False
