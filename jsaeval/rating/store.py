"""Answers of raters: one SQLite file a study, in WAL mode, to which events are appended and never changed.

An event is stored before its sender is told so (`synchronous=FULL`), and carries a nonce that its sender made up: sent
again, because an answer got lost on the way, it is stored once.
"""

import hashlib
import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from jsaeval.errors import InputError, one_line


# answer: a number to a question. clear: no answer to it any more. text: what was written. skip: the rater does not rate
# the item, and why. undo: the event whose id is its value counts no longer.
Kind = Literal["answer", "clear", "text", "skip", "undo"]
NOTE = "note"  # a text that every item has, besides those of its rubric
LONGEST_TEXT, LONGEST_NAME = 4000, 64


@dataclass(frozen=True)
class Event:
    """Something that a rater did.

    Attributes:
        nonce: made up by the sender, never used twice.
        rater: the rater's name.
        item: id of the item; of an undo, that of the event that is undone.
        again: whether it was its second time in the rater's queue.
        kind: what.
        interval: number of the interval that an answer is about, 0: the item as a whole.
        question: id of the question or the text; empty for a skip and an undo.
        value: the number or the text; the reason of a skip; the id of an undone event.
        seconds: that the rater was active on the item since the last event.
        rubric: version of the rubric.
        source: "page", or where a rating made elsewhere comes from.
        at: when it was stored, UTC; empty before.
        id: its number; 0 before it is stored.
    """

    nonce: str
    rater: str
    item: str
    again: bool
    kind: Kind
    interval: int
    question: str
    value: str
    seconds: float
    rubric: str
    source: str = "page"
    at: str = ""
    id: int = 0


class Conflict(ValueError):
    """A nonce came again with something else."""


_COLUMNS = ", ".join(own.name for own in fields(Event) if own.name != "id")
_SECONDS_AT_ONCE = 3600.0
# Every migration leads from version i to i + 1 of the file (`PRAGMA user_version`). None is ever changed.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE study (id TEXT NOT NULL)",
        """CREATE TABLE links (
            hash TEXT PRIMARY KEY, rater TEXT NOT NULL, at TEXT NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE events (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            nonce TEXT NOT NULL UNIQUE,
            rater TEXT NOT NULL,
            item TEXT NOT NULL,
            again INTEGER NOT NULL CHECK (again IN (0, 1)),
            kind TEXT NOT NULL CHECK (kind IN ('answer', 'clear', 'text', 'skip', 'undo')),
            interval INTEGER NOT NULL,
            question TEXT NOT NULL,
            value TEXT NOT NULL,
            seconds REAL NOT NULL,
            rubric TEXT NOT NULL,
            source TEXT NOT NULL,
            at TEXT NOT NULL
        )""",
        "CREATE INDEX events_of_rater ON events (rater, id)",
        "CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are not changed'); END",
        "CREATE TRIGGER events_kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are not deleted'); END",
    ),
)


class Store:
    """The answers of a study. Threads may share it; so may processes, which each open it."""

    def __init__(self, path: Path, study: str):
        """Open the file, or make it.

        Args:
            path: of the file.
            study: id of the study.

        Raises:
            InputError: it holds another study, was made by a later version, or cannot be read or written.
        """
        self._path, self._lock = path, threading.Lock()
        try:
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._migrate(study)
        except sqlite3.Error as error:
            raise InputError(f"{path}: cannot be used as a store of answers ({one_line(error)})") from None

    def _migrate(self, study: str) -> None:
        with self._transaction() as run:
            (version,) = run("PRAGMA user_version").fetchone()
            if version > len(_MIGRATIONS):
                raise InputError(f"{self._path}: made by a later version of jsaeval (its schema is {version})")
            for step in _MIGRATIONS[version:]:
                for statement in step:
                    run(statement)
            run(f"PRAGMA user_version = {len(_MIGRATIONS)}")
            found = run("SELECT id FROM study").fetchone()
            if found is None:
                run("INSERT INTO study VALUES (?)", (study,))
            elif found[0] != study:
                raise InputError(f"{self._path}: holds the answers of another study")

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def new_link(self, rater: str) -> str:
        """A new secret of a rater, 256 bits; earlier ones stay good until they are revoked. Only its hash is stored.

        Raises:
            InputError: the name is empty, too long, or has characters that cannot be printed.
        """
        check_name(rater)
        secret = secrets.token_urlsafe(32)
        with self._transaction() as run:
            run("INSERT INTO links VALUES (?, ?, ?)", (_hash(secret), rater, _now()))
        return secret

    def revoke(self, raters: Collection[str]) -> None:
        """Remove all links of raters, whose answers stay; all or none. Servers that run know of it at once.

        Raises:
            InputError: somebody has neither a link nor an answer here.
        """
        known = self.raters()
        for rater in raters:
            if rater not in known:
                there = f"known are {', '.join(known)}" if known else "nobody has a link yet"
                raise InputError(f"--revoke {rater}: there is no such rater; {there}")
        with self._transaction() as run:
            for rater in raters:
                run("DELETE FROM links WHERE rater = ?", (rater,))

    def rater_of(self, secret: str) -> str | None:
        """Whose secret it is."""
        with self._lock:
            found = self._connection.execute("SELECT rater FROM links WHERE hash = ?", (_hash(secret),)).fetchone()
        return None if found is None else found[0]

    def raters(self) -> list[str]:
        """Names of everybody who has a link or an event, sorted."""
        with self._lock:
            found = self._connection.execute("SELECT rater FROM links UNION SELECT rater FROM events ORDER BY 1")
            return [rater for (rater,) in found]

    def append(self, *events: Event) -> list[Event]:
        """Store events, all or none, and give them as stored; one with a known nonce as it was stored before.

        Raises:
            Conflict: a known nonce came with something else.
        """
        with self._transaction() as run:
            return [_stored(run, event) for event in events]

    def undo(self, rater: str, nonce: str, rubric: str) -> tuple[Event, Event] | None:
        """Undo the last event of a rater that still counts; (the undo, what was undone), or None: there is nothing.

        What was rated elsewhere stays: the page does not undo what it did not store. Sent again with the same nonce, it
        undoes nothing more.

        Raises:
            Conflict: the nonce is that of another event.
        """
        with self._transaction() as run:
            before = _by_nonce(run, nonce)
            if before is not None:
                if before.kind != "undo" or before.rater != rater:
                    raise Conflict(f"nonce {nonce!r} was used before")
                return before, _by_id(run, int(before.value))
            counted = reversed(counting(_events(run, rater)))
            last = next((own for own in counted if own.source == "page"), None)
            if last is None:
                return None
            event = Event(nonce, rater, last.item, last.again, "undo", last.interval, "", str(last.id), 0.0, rubric)
            return _stored(run, event), last

    def events(self, rater: str | None = None, after: int = 0) -> list[Event]:
        """Events of a rater, or of all, in the order in which they were stored; those with an id above `after`."""
        with self._lock:
            return _events(self._connection.execute, rater, after)

    def backup(self, path: Path) -> None:
        """A copy as of now, while others write.

        Raises:
            InputError: it is there already, or cannot be written.
        """
        if path.exists():
            raise InputError(f"{path}: exists; a backup replaces no file")
        try:
            copy = sqlite3.connect(path)
            with self._lock:
                self._connection.backup(copy)
            copy.close()
        except sqlite3.Error as error:
            raise InputError(f"{path}: cannot be written ({one_line(error)})") from None


def counting(events: Sequence[Event]) -> list[Event]:
    """Events without those that were undone, and without the undos."""
    undone = {int(event.value) for event in events if event.kind == "undo"}
    return [event for event in events if event.kind != "undo" and event.id not in undone]


def check_name(rater: str) -> None:
    """Raises InputError where it is no name for a rater."""
    if not rater.strip() or rater != rater.strip() or len(rater) > LONGEST_NAME or not rater.isprintable():
        raise InputError(f"rater {rater!r}: a name of 1 to {LONGEST_NAME} printable characters was expected")


def _stored(run: Callable[..., sqlite3.Cursor], event: Event) -> Event:
    before = _by_nonce(run, event.nonce)
    if before is not None:
        if _content(before) != _content(event):
            raise Conflict(f"nonce {event.nonce!r} was used before")
        return before
    seconds = min(max(event.seconds, 0.0), _SECONDS_AT_ONCE)
    values = (*astuple(event)[:8], seconds, event.rubric, event.source, event.at or _now())
    marks = ", ".join("?" * len(values))
    run(f"INSERT INTO events ({_COLUMNS}) VALUES ({marks})", values)
    stored = _by_nonce(run, event.nonce)
    assert stored is not None
    return stored


def _content(event: Event) -> tuple[object, ...]:
    """What makes it the same event; the time that it took may be measured anew."""
    return event.rater, event.item, event.again, event.kind, event.interval, event.question, event.value


def _events(run: Callable[..., sqlite3.Cursor], rater: str | None, after: int = 0) -> list[Event]:
    where, values = ("id > ?", (after,)) if rater is None else ("rater = ? AND id > ?", (rater, after))
    return [_event(row) for row in run(f"SELECT {_COLUMNS}, id FROM events WHERE {where} ORDER BY id", values)]


def _by_nonce(run: Callable[..., sqlite3.Cursor], nonce: str) -> Event | None:
    row = run(f"SELECT {_COLUMNS}, id FROM events WHERE nonce = ?", (nonce,)).fetchone()
    return None if row is None else _event(row)


def _by_id(run: Callable[..., sqlite3.Cursor], id: int) -> Event:
    return _event(run(f"SELECT {_COLUMNS}, id FROM events WHERE id = ?", (id,)).fetchone())


def _event(row: Sequence[object]) -> Event:
    nonce, rater, item, again, *rest = row
    return Event(nonce, rater, item, bool(again), *rest)  # pyright: ignore[reportArgumentType]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
