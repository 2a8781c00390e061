"""Events are stored once, in order, and never change; undo; links; other files."""

import concurrent.futures
import dataclasses
import sqlite3

import pytest

from jsaeval.errors import InputError
from jsaeval.rating.answers import answers_of
from jsaeval.rating.store import NOTE, Conflict, Event, Store, counting
from tests.rating.made import made_study


STUDY, _ = made_study()
FIRST, SECOND = list(STUDY.items)[:2]


def event(nonce, value="2", kind="answer", question="confidence", rater="ann", item=FIRST, interval=3, again=False):
    return Event(nonce, rater, item, again, kind, interval, question, value, 1.5, STUDY.rubric.version)


@pytest.fixture
def store(tmp_path):
    with_it = Store(tmp_path / "answers.sqlite", STUDY.id)
    yield with_it
    with_it.close()


def test_events_come_back_in_order(store, tmp_path):
    stored = store.append(event("a"), event("b", "3"), event("c", rater="bob"))
    assert [own.id for own in stored] == [1, 2, 3] and all(own.at.endswith("+00:00") for own in stored)
    assert store.events() == stored and store.events("bob") == stored[2:]
    again = Store(tmp_path / "answers.sqlite", STUDY.id)
    assert again.events() == stored
    again.close()


def test_sent_again_is_stored_once(store):
    (stored,) = store.append(event("a"))
    assert store.append(dataclasses.replace(event("a"), seconds=9.0)) == [stored]
    for other in (event("a", "1"), event("a", rater="bob"), event("a", item=SECOND), event("a", again=True)):
        with pytest.raises(Conflict):
            store.append(event("b"), other)
    assert store.events() == [stored]  # all or none: "b" is not there


def test_events_never_change(store, tmp_path):
    store.append(event("a"))
    other = sqlite3.connect(tmp_path / "answers.sqlite")
    for statement in ("UPDATE events SET value = '3'", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="events are not"):
            other.execute(statement)
    other.close()


def test_time_is_bounded(store):
    for i, (given, kept) in enumerate(((-5.0, 0.0), (1e9, 3600.0), (2.5, 2.5))):
        (stored,) = store.append(dataclasses.replace(event(f"n{i}"), seconds=given))
        assert stored.seconds == kept


def test_undo(store):
    store.append(event("a", "1"), event("b", "2"), event("x", rater="bob"), event("c", "why", "text", NOTE, interval=0))
    undone, what = store.undo("ann", "u1", "v")
    assert what.nonce == "c" and undone.value == str(what.id)
    assert store.undo("ann", "u1", "v") == (undone, what)  # sent again
    assert store.undo("ann", "u2", "v")[1].nonce == "b"
    answers = answers_of(store.events("ann"), STUDY)[("ann", FIRST, False)]
    assert answers.numbers == {3: {"confidence": 1}} and answers.texts == {}
    store.append(event("d", "3"))
    assert [store.undo("ann", f"u{i}", "v")[1].nonce for i in (3, 4)] == ["d", "a"]
    assert store.undo("ann", "u5", "v") is None
    assert [own.nonce for own in counting(store.events())] == ["x"]
    for nonce in ("a", "x"):
        with pytest.raises(Conflict):
            store.undo("ann", nonce, "v")
    with pytest.raises(Conflict):
        store.undo("bob", "u1", "v")


def test_undo_leaves_what_was_rated_elsewhere(store):
    store.append(event("a"), dataclasses.replace(event("b", "2"), source="sheet.csv"))
    assert store.undo("ann", "u1", "v")[1].nonce == "a"
    assert store.undo("ann", "u2", "v") is None
    assert [own.nonce for own in counting(store.events())] == ["b"]


def test_answers_fold(store):
    store.append(
        event("a"),
        event("b", "cats", "text", "interpretation", interval=0),
        event("c", "cannot read it", "skip", "", interval=0),
        event("d", "4", question="activation_consistency", interval=7),
        event("e", "", "clear"),
        event("f", again=True),
        event("g", "9", question="no_such_question"),
        event("h", item="no such item"),
        event("i", "  ", "text", NOTE, interval=0),
    )
    found = answers_of(store.events(), STUDY)
    assert found.keys() == {("ann", FIRST, False), ("ann", FIRST, True)}
    own = found["ann", FIRST, False]
    assert own.numbers == {3: {}, 7: {"activation_consistency": 4}} and own.texts == {"interpretation": "cats"}
    assert own.skipped is None and own.seconds == 7 * 1.5 and own.rubrics == {STUDY.rubric.version}
    store.append(event("j", "tired", "skip", "", interval=0))
    assert answers_of(store.events(), STUDY)["ann", FIRST, False].done(STUDY.items[FIRST], STUDY.rubric, True)


def test_an_item_is_done_when_all_is_answered(store):
    item = STUDY.items[FIRST]
    left = [(unit, own.id) for unit in item.units for own in STUDY.rubric.questions]
    for i, (unit, question) in enumerate(left):
        answers = answers_of(store.events(), STUDY).get(("ann", FIRST, False))
        assert answers is None or not answers.done(item, STUDY.rubric, True)
        store.append(event(f"n{i}", "1", question=question, interval=unit))
    answers = answers_of(store.events(), STUDY)["ann", FIRST, False]
    assert not answers.done(item, STUDY.rubric, True)  # nothing is written yet
    assert [answers.score(unit, STUDY.rubric, True) for unit in item.units] == [5] * len(item.units)
    store.append(event("t", "cats", "text", "interpretation", interval=0))
    assert answers_of(store.events(), STUDY)["ann", FIRST, False].done(item, STUDY.rubric, True)


def test_links(store, tmp_path):
    ann, again, bob = store.new_link("ann"), store.new_link("ann"), store.new_link("bob")
    assert len({ann, again, bob}) == 3 and min(map(len, (ann, again, bob))) >= 43
    assert [store.rater_of(own) for own in (ann, again, bob, "x", "")] == ["ann", "ann", "bob", None, None]
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert ann.encode() not in content and b"ann" in content
    store.append(event("a", rater="cem"))
    assert store.raters() == ["ann", "bob", "cem"]
    for name in ("", " ", "x" * 65, "a\nb", " ann", "\u202eann"):
        with pytest.raises(InputError, match="a name of 1 to 64 printable characters"):
            store.new_link(name)


def test_several_threads_and_processes_write(store, tmp_path):
    other = Store(tmp_path / "answers.sqlite", STUDY.id)

    def write(i):
        own = (store, other)[i % 2]
        return own.append(event(f"n{i}", str(i % 4)), event(f"n{i // 2}", str(i // 2 % 4)))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(100)))
    other.close()
    assert sorted(own.nonce for own in store.events()) == sorted(f"n{i}" for i in range(100))


def test_a_backup_while_others_write(store, tmp_path):
    store.append(event("a"))
    store.backup(tmp_path / "copy.sqlite")
    store.append(event("b"))
    copy = Store(tmp_path / "copy.sqlite", STUDY.id)
    assert [own.nonce for own in copy.events()] == ["a"]
    copy.close()
    with pytest.raises(InputError, match="a backup replaces no file"):
        store.backup(tmp_path / "copy.sqlite")
    with pytest.raises(InputError, match="cannot be written"):
        store.backup(tmp_path / "no" / "copy.sqlite")


def test_files_that_are_not_ours(store, tmp_path):
    with pytest.raises(InputError, match="holds the answers of another study"):
        Store(tmp_path / "answers.sqlite", "another")
    (tmp_path / "text.sqlite").write_text("hello " * 200)
    with pytest.raises(InputError, match="cannot be used as a store"):
        Store(tmp_path / "text.sqlite", STUDY.id)
    with pytest.raises(InputError, match="cannot be used as a store"):
        Store(tmp_path / "no" / "answers.sqlite", STUDY.id)
    later = sqlite3.connect(tmp_path / "later.sqlite")
    later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(InputError, match="made by a later version"):
        Store(tmp_path / "later.sqlite", STUDY.id)
