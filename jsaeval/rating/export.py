"""Answers for other programs: a table in long form, as CSV or parquet.

One line for every answer and text that stands, repeats too; times and undone answers are in the store alone.

| column | |
|---|---|
| rater, item | who, and the id of what was rated |
| again | whether the rater got it the second time: True or False |
| sae, group, latent | what the item is, from the answer key |
| interval | number of the interval of activation, 0: the item as a whole |
| question, value | id of a question and the number, or id of a text and the text |
| skipped | why the rater did not rate the item, on each of its lines; if there is no other, one without question |
| seconds | that the rater was active on the item in all, the same on each of its lines |
| at, rubric, source | when the answer was stored (UTC), under which version of the rubric, from where it came |

`value` is text in parquet, too. In CSV a text that begins with `=`, `+`, `-`, `@`, one of these in full width, a tab, a
carriage return or a line feed has an apostrophe before it, or a spreadsheet would run it as a formula; so has one that
begins with apostrophes and then one of these. `jsaeval.rating.imported` takes it off.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from jsaeval.cache import atomic
from jsaeval.errors import InputError
from jsaeval.rating.answers import answers_of
from jsaeval.rating.store import Event, counting
from jsaeval.rating.study import AnswerKey, Study


COLUMNS = (
    "rater",
    "item",
    "again",
    "sae",
    "group",
    "latent",
    "interval",
    "question",
    "value",
    "skipped",
    "seconds",
    "at",
    "rubric",
    "source",
)
NO_REASON = "no reason given"
# Some spreadsheets take full-width signs for the others.
FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20\t\r\n]")


def long_form(study: Study, key: AnswerKey, events: Iterable[Event]) -> pd.DataFrame:
    """The table of the module, rater by rater, each in the order in which the last answers came.

    Args:
        study: what was rated.
        key: what its items are.
        events: of its store.
    """
    events = list(events)
    answers = answers_of(events, study)
    last: dict[tuple[Any, ...], Event] = {}
    skips: dict[tuple[str, str, bool], Event] = {}
    for event in counting(events):
        place = event.rater, event.item, event.again
        if event.kind == "skip":
            skips[place] = event
        elif event.kind in ("answer", "text"):
            line = *place, event.kind, event.interval if event.kind == "answer" else 0, event.question
            last.pop(line, None)  # the order is that of the last ones
            last[line] = event
    lines, alone = [], {place for place, own in answers.items() if own.skipped is not None}
    for (rater, item, again, kind, interval, question), event in last.items():
        own = answers.get((rater, item, again))
        there: dict[str, Any] = {}
        if own is not None:
            there = own.texts if kind == "text" else own.numbers.get(interval, {})
        if question in there:
            alone.discard((rater, item, again))
            lines.append((event, interval, question, str(there[question])))
    lines += [(skips[place], 0, "", "") for place in sorted(alone)]
    lines.sort(key=lambda line: (line[0].rater, line[0].id))
    made = [_line(key, event, interval, question, value, answers) for event, interval, question, value in lines]
    return pd.DataFrame(made, columns=list(COLUMNS)).astype(
        {"again": "bool", "latent": "int64", "interval": "int64", "seconds": "float64"}
    )


def _line(key: AnswerKey, event: Event, interval: int, question: str, value: str, answers: Any) -> dict[str, Any]:
    own, identity = answers[event.rater, event.item, event.again], key.items[event.item]
    return {
        "rater": event.rater,
        "item": event.item,
        "again": event.again,
        "sae": identity.sae,
        "group": identity.group,
        "latent": identity.latent,
        "interval": interval,
        "question": question,
        "value": value,
        "skipped": "" if own.skipped is None else own.skipped or NO_REASON,
        "seconds": own.seconds,
        "at": event.at,
        "rubric": event.rubric,
        "source": event.source,
    }


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write the table as CSV that no spreadsheet runs; only its owner can read it, for the answer key is in it.

    Raises:
        InputError: it cannot be written.
    """
    with _private(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        rows.writerow(COLUMNS)
        rows.writerows(
            [escaped(own) if isinstance(own, str) else own for own in row] for row in frame.itertuples(index=False)
        )


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write the table as parquet; only its owner can read it, for the answer key is in it.

    Raises:
        InputError: it cannot be written.
    """
    with _private(path) as temporary:
        frame.to_parquet(temporary, index=False)


def escaped(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if FORMULA.match(text) else text


@contextmanager
def _private(path: Path) -> Iterator[Path]:
    try:
        with atomic(path) as temporary:
            temporary.chmod(0o600)
            yield temporary
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
