"""Ratings in tables, in the long form of `jsaeval.rating.export`."""

import csv
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from jsaeval.errors import InputError, one_line
from jsaeval.rating.export import FORMULA
from jsaeval.rating.import_lines import Line, is_seconds, is_time, questions_of, wrong_answer, wrong_names
from jsaeval.rating.queue import queue_of
from jsaeval.rating.store import LONGEST_TEXT
from jsaeval.rating.study import Study


NEEDED = ("rater", "item", "interval", "question", "value")
_OPTIONAL = ("again", "skipped", "seconds", "at", "rubric")
_LONGEST_RUBRIC = 64  # characters of a version; ours have 12
_AGAIN = {"": False, "0": False, "1": True, "false": False, "true": True}
_Rows = list[tuple[str, dict[str, str]]]


def table_lines(path: Path, study: Study, complaints: list[str]) -> Iterator[Line]:
    """What is in a .csv or .parquet file.

    Args:
        path: of the file.
        study: that was rated.
        complaints: what is wrong with it is added.

    Raises:
        InputError: it cannot be read, or lacks a column.
    """
    twice = functools.cache(lambda rater: {place.item for place in queue_of(study, rater) if place.again})
    for where, row in (_csv if path.suffix.lower() == ".csv" else _parquet)(path):
        wrong = list(_wrong(row, study)) or list(_wrong_repeat(row, twice))
        complaints += [f"{where}: {own}" for own in wrong]
        if wrong:
            continue
        again, seconds = _AGAIN[row.get("again", "").lower()], float(row.get("seconds") or 0.0)
        about = seconds, row.get("at", ""), row.get("rubric") or study.rubric.version
        place = where, row["rater"], row["item"], again
        if row["question"] in questions_of(study):
            yield Line(*place, "answer", int(row["interval"]), row["question"], row["value"], *about)
        elif row["question"]:
            yield Line(*place, "text", 0, row["question"], row["value"], *about)
        if row.get("skipped"):
            yield Line(*place, "skip", 0, "", row["skipped"], *about)


def _csv(path: Path) -> _Rows:
    """(where, row) of a file; apostrophes before formulas are gone."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restval="", strict=True)
            columns = reader.fieldnames or []
            rows = []
            for row in reader:
                if row.pop(None, None):  # where cells beyond the last column go
                    raise InputError(f"{path}: line {reader.line_num}: more cells than columns")
                rows.append((f"line {reader.line_num}", {name: _plain(value) for name, value in row.items()}))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({one_line(error)})") from None
    return _with_columns(path, columns, rows)


def _plain(value: str) -> str:
    return value[1:] if value.startswith("'") and FORMULA.match(value) else value


def _parquet(path: Path) -> _Rows:
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a parquet file ({one_line(error)})") from None
    names = [name for name in (*NEEDED, *_OPTIONAL) if name in frame.columns]
    rows = [
        (f"row {i}", {name: _cell(value) for name, value in zip(names, row, strict=True)})
        for i, row in enumerate(frame[names].itertuples(index=False), 1)
    ]
    return _with_columns(path, [str(name) for name in frame.columns], rows)


def _cell(value: Any) -> str:
    """A cell as CSV would have it; whole numbers may have become floats because others are missing."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _with_columns(path: Path, columns: Sequence[str], rows: _Rows) -> _Rows:
    if missing := [name for name in NEEDED if name not in columns]:
        raise InputError(f"{path}: column {missing[0]} is missing; needed are {', '.join(NEEDED)}")
    return rows


def _wrong(row: Mapping[str, str], study: Study) -> Iterator[str]:
    """What is wrong with a row of a table."""
    yield from wrong_names(row["rater"], row["item"], study)
    if row.get("again", "").lower() not in _AGAIN:
        yield f"again {row['again']!r}: true or false was expected"
    if not is_seconds(row.get("seconds", "")):
        yield f"seconds {row['seconds']!r}: a number from 0 was expected"
    if not is_time(row.get("at", "")):
        yield f"at {row['at']!r}: a time as 2025-01-31T12:00:00+00:00 was expected"
    rubric = row.get("rubric", "")
    if len(rubric) > _LONGEST_RUBRIC or not rubric.isprintable():
        shown = rubric[:_LONGEST_RUBRIC]
        yield f"rubric {shown!r}: a version of at most {_LONGEST_RUBRIC} printable characters was expected"
    if len(row.get("skipped", "")) > LONGEST_TEXT:
        yield f"skipped: longer than {LONGEST_TEXT} characters"
    if not row["question"]:
        if not row.get("skipped"):
            yield "neither a question nor why the item was skipped"
    elif row["item"] in study.items:
        yield from wrong_answer(row["item"], row["interval"], row["question"], row["value"], study)


def _wrong_repeat(row: Mapping[str, str], twice: Callable[[str], set[str]]) -> Iterator[str]:
    """Whether a row is of a repeat that its rater never gets. `twice`: which items a rater gets twice."""
    if _AGAIN[row.get("again", "").lower()] and row["item"] not in twice(row["rater"]):
        yield f"again {row['again']!r}: {row['rater']} does not get item {row['item']} twice"
