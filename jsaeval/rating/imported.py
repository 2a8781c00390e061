"""Ratings made elsewhere: a table in the long form of `jsaeval.rating.export`, or what Label Studio exports.

Needed columns of a table: rater, item, interval, question, value; again, skipped, seconds, at and rubric may be there,
others are not looked at. A line without question needs `skipped`. All of a file is stored or nothing is. What stands in
the store already is not stored again, and a file that was imported before adds nothing. An answer that a file does not
hold is not taken back. A line that is older than what the store last heard of the same thing says nothing: an export
of yesterday does not undo what was answered since. A line without a time is taken as new.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from jsaeval.cache import sha256_of
from jsaeval.errors import InputError
from jsaeval.rating.answers import ItemAnswers, answers_of
from jsaeval.rating.import_label_studio import annotations
from jsaeval.rating.import_lines import Line
from jsaeval.rating.import_tables import table_lines
from jsaeval.rating.store import Event, Store
from jsaeval.rating.study import Study


_COMPLAINTS = 30  # that are spelled out
_Place = tuple[str, str, bool]  # rater, item, whether it was the second time
_Thing = tuple[object, ...]  # that events are about: a question, a text, or whether an item is skipped


class Imported(NamedTuple):
    """What became of a file: events that were added, and lines that contradict newer ones and were left out."""

    added: int
    older: int


def import_file(path: Path, study: Study, store: Store) -> Imported:
    """Store the ratings of a file.

    Args:
        path: a .csv or .parquet file, or a .json file of Label Studio.
        study: that was rated.
        store: of it.

    Raises:
        InputError: it cannot be read, or lines are wrong; the message names them. Nothing was stored.
    """
    complaints: list[str] = []
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet", ".json"):
        raise InputError(f"{path}: .csv, .parquet, or .json of Label Studio was expected")
    lines = list((annotations if suffix == ".json" else table_lines)(path, study, complaints))
    lines = _once(lines, complaints)
    if complaints:
        more = len(complaints) - _COMPLAINTS
        said = "; ".join(complaints[:_COMPLAINTS]) + (f"; and {more} more" if more > 0 else "")
        raise InputError(f"{path}: nothing was imported; {said}")
    if not lines:
        raise InputError(f"{path}: holds no ratings")
    events, older = _new(path, lines, study, store)
    store.append(*events)
    return Imported(len(events), older)


def _new(path: Path, lines: Sequence[Line], study: Study, store: Store) -> tuple[list[Event], int]:
    """Events for what does not stand yet, and how many lines are too old. Nonces are made of the file, so that its
    events are stored once."""
    before = store.events()
    stands, known, digest = answers_of(before, study), {own.nonce for own in before}, sha256_of(path)
    kept = _not_older(lines, stands, _newest(before))
    skipped = {line.place for line in kept if line.kind == "skip"}
    new = [line for line in kept if line.kind != "skip" and not _stands(line, stands.get(line.place), skipped)]
    taken_back = {line.place for line in new if line.kind == "answer"}  # a skip, by an answer
    skips = [line for line in kept if line.kind == "skip"]
    new += [line for line in skips if line.place in taken_back or not _stands(line, stands.get(line.place), skipped)]
    of_place, events = Counter(line.place for line in new), []
    for line in new:
        nonce = hashlib.sha256(json.dumps([study.id, digest, *line.what]).encode()).hexdigest()
        # Time is that of the item; a file that corrects an answer does not add it once more.
        seconds = 0.0 if line.place in stands else line.seconds / of_place[line.place]
        about = line.rater, line.item, line.again, line.kind, line.interval, line.question, line.value
        events.append(Event(nonce, *about, seconds, line.rubric, path.name, line.at))
    return [own for own in events if own.nonce not in known], len(lines) - len(kept)


def _newest(events: Iterable[Event]) -> dict[_Thing, datetime]:
    """When each thing was last said something of. To undo or to clear an answer is to say something of it, too."""
    found: dict[_Thing, datetime] = {}
    things: dict[int, list[_Thing]] = {}
    for event in events:
        if event.kind == "undo":
            about: list[_Thing] = things.get(int(event.value), [])
        else:
            kind = "answer" if event.kind == "clear" else event.kind
            place = event.rater, event.item, event.again
            about = [(*place, kind, event.interval if kind == "answer" else 0, event.question)]
            if kind == "answer":
                about.append(place)  # a skip would take back what was answered since
        things[event.id] = about
        for thing in about:
            found[thing] = max(found.get(thing, _time(event.at)), _time(event.at))
    return found


def _not_older(
    lines: Sequence[Line], stands: Mapping[_Place, ItemAnswers], newest: Mapping[_Thing, datetime]
) -> list[Line]:
    """The lines that say what stands already, or are not older than the last thing said."""
    last: dict[_Place, datetime] = {}  # a table gives a skip on lines of answers, with the time of each
    for line in lines:
        if line.at:
            last[line.place] = max(last.get(line.place, _time(line.at)), _time(line.at))

    def older(line: Line, skipped: set[_Place]) -> bool:
        own = stands.get(line.place)
        if not line.at or _stands(line, own, skipped):
            return False
        about: list[_Thing] = [line.what]
        at = _time(line.at)
        if line.kind == "skip":
            about, at = [line.what, line.place], last[line.place]
        elif line.kind == "answer" and own is not None and own.skipped is not None and line.place not in skipped:
            about.append((*line.place, "skip", 0, ""))  # which the answer would take back
        return any(thing in newest and at < newest[thing] for thing in about)

    everywhere = {line.place for line in lines if line.kind == "skip"}
    skipped = {line.place for line in lines if line.kind == "skip" and not older(line, everywhere)}
    return [line for line in lines if not older(line, skipped)]


def _time(text: str) -> datetime:
    """A time without a zone is taken as UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _stands(line: Line, own: ItemAnswers | None, skipped: set[_Place]) -> bool:
    """Whether the store says so already. `skipped`: places that the file says were skipped."""
    if own is None:
        return False
    if line.kind == "skip":
        return own.skipped == line.value
    if line.kind == "text":
        return own.texts.get(line.question) == line.value
    same = own.numbers.get(line.interval, {}).get(line.question) == int(line.value)
    # An answer takes back a skip that the file does not know.
    return same and (own.skipped is None or line.place in skipped)


def _once(lines: Sequence[Line], complaints: list[str]) -> list[Line]:
    """Each thing once; two that contradict each other are a complaint."""
    found: dict[_Thing, Line] = {}
    for line in lines:
        before = found.setdefault(line.what, line)
        if before.value != line.value:
            complaints.append(f"{line.where}: contradicts {before.where} ({line.value!r}, there {before.value!r})")
    return list(found.values())
