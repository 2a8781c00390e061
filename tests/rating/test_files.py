"""Answers that leave as files and come back: equal in another store; wrong lines named; Label Studio both ways."""

import csv
import dataclasses
import json
import os
import re
import sqlite3
import stat
from xml.etree import ElementTree

import pandas as pd
import pytest

from jsaeval.cli.rate_results import RateExport, RateImport, rate_export, rate_import
from jsaeval.errors import InputError
from jsaeval.rating.answers import answers_of
from jsaeval.rating.export import COLUMNS, escaped
from jsaeval.rating.imported import import_file
from jsaeval.rating.label_studio import config, place_of, tasks
from jsaeval.rating.queue import queue_of
from jsaeval.rating.rubric import parse_rubric
from jsaeval.rating.store import NOTE, Store
from tests.rating.made import answer, events_of, made_study, simulated, write
from tests.report.nested import Nested


TEXTS = [
    "=1+1",
    "+x",
    "-x",
    "@x",
    "\tx",
    "\rx",
    "'=x",
    "''-",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff201",
    "\nx",
    "'\uff1d1",
    "'tis",
    'a "b", c',
    "two\nlines\r\nor three\r",
    "NA",
    "1.0",
]
TEXTS += ["  space ", "𝛼 مرحبا \u202e", "x" * 4000, "a\x00b"]


@pytest.fixture
def made(tmp_path):
    """A folder with a study and answers of all kinds: undone, cleared, skipped, repeated, odd texts and names."""
    study, key = made_study(latents=14)
    assert len(TEXTS) + 4 <= len(study.items)
    store = write(tmp_path / "run", study, key)
    for i, name in enumerate(("ann", "=ben")):
        store.append(*simulated(study, key, name, 0.1, i, most=(None, 5)[i]))
    items = list(study.items)
    for text, item in zip(TEXTS, items, strict=False):
        store.append(answer(study, "-eve", item, 0, NOTE, text, kind="text"))
    a, b, c, d = items[-4:]
    store.append(answer(study, "ann", a, 3, "confidence", 2), answer(study, "ann", a, 0, "", "=why", kind="skip"))
    store.append(answer(study, "dan", b, 0, "", "", kind="skip"))
    store.append(answer(study, "dan", c, 3, "confidence", 2), answer(study, "dan", c, 3, "confidence", 1))
    store.append(
        answer(study, "dan", c, 3, "specificity", 1), answer(study, "dan", c, 3, "specificity", "", kind="clear")
    )
    store.append(answer(study, "dan", d, 0, "", "no", kind="skip"), answer(study, "dan", d, 7, "confidence", 0))
    last = store.append(answer(study, "dan", c, 7, "confidence", 3))[0]
    store.append(answer(study, "dan", c, 7, "", last.id, kind="undo"))
    return tmp_path, study, key, store


def standing(store, study):
    """Answers without what only undone events left; times rounded."""
    found = answers_of(store.events(), study)
    return {
        place: (
            own.numbers and {u: n for u, n in own.numbers.items() if n},
            own.texts,
            own.skipped,
            round(own.seconds, 6),
        )
        for place, own in found.items()
        if any(own.numbers.values()) or own.texts or own.skipped is not None
    }


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_the_round_trip(made, format, capsys):
    folder, study, key, store = made
    assert rate_export(RateExport(str(folder / "run"), format=format)) == 0
    path = folder / "run" / "rating" / f"answers.{format}"
    assert capsys.readouterr().out.strip() == str(path)
    other = write(folder / "other", study, key)
    added = import_file(path, study, other).added
    before, after = standing(store, study), standing(other, study)
    before = {
        place: (*own[:2], own[2] or (own[2] if own[2] is None else "no reason given"), own[3])
        for place, own in before.items()
    }
    assert after == before and added == len(other.events()) > 100
    assert {own.source for own in other.events()} == {path.name}
    stamps = {(own.rater, own.item, own.again, own.interval, own.question): own.at for own in store.events()}
    assert all(
        stamps[own.rater, own.item, own.again, own.interval, own.question] == own.at
        for own in other.events()
        if own.question
    )
    # The same file once more, or back to where it came from, says nothing new.
    assert import_file(path, study, other).added == 0 and standing(other, study) == after
    path.rename(folder / f"renamed.{format}")
    assert rate_import(RateImport(str(folder / "other"), str(folder / f"renamed.{format}"))) == 0
    assert "nothing new" in capsys.readouterr().out and len(other.events()) == added


def test_the_table(made):
    folder, study, key, _store = made
    rate_export(RateExport(str(folder / "run"), to=str(folder / "out.csv")))
    raw = (folder / "out.csv").read_text(encoding="utf-8")
    assert tuple(next(csv.reader([raw.splitlines()[0]]))) == COLUMNS
    assert stat.S_IMODE(os.stat(folder / "out.csv").st_mode) == 0o600  # the answer key is in it
    with (folder / "out.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        assert not any(re.match("[=+\\-@\uff1d\uff0b\uff0d\uff20\t\r\n]", cell) for cell in row.values())
        identity = key.items[row["item"]]
        assert (row["sae"], row["group"], int(row["latent"])) == (identity.sae, identity.group, identity.latent)
    assert {row["rater"] for row in rows} == {"ann", "'=ben", "'-eve", "dan"}
    assert {row["rubric"] for row in rows} == {study.rubric.version} and {row["source"] for row in rows} == {"page"}
    skipped = [row for row in rows if row["skipped"]]
    assert ("dan", "", "") in {(row["rater"], row["question"], row["value"]) for row in skipped}
    assert [
        row["value"] for row in rows if row["rater"] == "ann" and row["skipped"] == "'=why" and row["interval"] == "3"
    ]
    mine = {row["question"]: row for row in rows if row["rater"] == "dan" and row["value"] == "1"}
    assert set(mine) == {"confidence"}  # neither the first answer nor the cleared or undone one
    frame = pd.read_parquet(exported(folder, "parquet"))
    assert list(frame.columns) == list(COLUMNS) and len(frame) == len(rows) and frame["again"].any()


def exported(folder, format):
    path = folder / f"out.{format}"
    assert rate_export(RateExport(str(folder / "run" / "rating"), format=format, to=str(path))) == 0
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_formulas_are_escaped_and_nothing_else(text):
    dangerous = text[0] in "=+-@\uff1d\uff0b\uff0d\uff20\t\r\n"
    assert escaped(text) == ("'" + text if dangerous or text in ("'=x", "''-", "'\uff1d1") else text)


def test_a_copy_while_others_write(made, capsys):
    folder, _study, _, store = made
    assert rate_export(RateExport(str(folder / "run"), format="sqlite")) == 0
    (path,) = capsys.readouterr().out.split()
    copied = sqlite3.connect(path).execute("SELECT count(*) FROM events").fetchone()[0]
    assert copied == len(store.events()) and re.search(r"answers-[\d-]+\.sqlite$", path)
    with pytest.raises(InputError, match="exists"):
        rate_export(RateExport(str(folder / "run"), format="sqlite", to=path))
    for name in ("answers.sqlite", "study.json", "key.json"):
        with pytest.raises(InputError, match="part of the study itself"):
            rate_export(RateExport(str(folder / "run"), to=str(folder / "run" / "rating" / name)))
    with pytest.raises(InputError, match="no folder"):
        rate_export(RateExport(str(folder / "run"), to=str(folder / "nowhere" / "x.csv")))


def table(path, *rows, columns="rater,item,interval,question,value"):
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


@pytest.fixture
def empty(tmp_path):
    study, key = made_study()
    return tmp_path, study, write(tmp_path, study, key), next(iter(study.items))


def test_five_columns_are_enough_and_corrections_count(empty):
    folder, study, store, item = empty
    first = table(
        folder / "a.csv", f"ann,{item},3,confidence,2", f"ann,{item},0,interpretation,cats", f"ann,{item},,note,hm"
    )
    assert import_file(first, study, store).added == 3
    second = table(folder / "b.csv", f"ann,{item},3,confidence,1", f"ann,{item},0,interpretation,cats")
    assert import_file(second, study, store).added == 1  # what stands is not stored again
    own = answers_of(store.events(), study)["ann", item, False]
    assert own.numbers == {3: {"confidence": 1}} and own.texts == {"interpretation": "cats", "note": "hm"}
    assert import_file(first, study, store).added == 0  # imported before: it adds nothing
    store.append(answer(study, "ann", item, 3, "confidence", 3))
    back = table(folder / "c.csv", f"ann,{item},3,confidence,2")
    assert import_file(back, study, store).added == 1


def repeated(study, rater):
    return [place.item for place in queue_of(study, rater) if place.again]


def test_an_older_export_overwrites_nothing(empty, capsys):
    """What was answered, cleared, undone or skipped since stays; what the file alone knows comes in."""
    folder, study, store, item = empty
    ids = list(study.items)
    day = "2025-01-{:02}T12:00:00+00:00".format

    def at(when, *about, **more):
        return store.append(dataclasses.replace(answer(study, "ann", *about, **more), at=day(when)))[0]

    at(1, item, 3, "confidence", 2), at(1, item, 3, "specificity", 1), at(1, item, 0, "note", "old", kind="text")
    undone = at(1, item, 7, "confidence", 1)
    at(1, ids[1], 3, "confidence", 1), at(1, ids[2], 3, "confidence", 1)
    at(1, ids[2], 0, "", "too hard", kind="skip")
    at(1, ids[3], 0, "", "too hard", kind="skip")
    at(1, ids[4], 3, "confidence", 1)
    rate_export(RateExport(str(folder), to=str(folder / "old.csv")))
    at(3, item, 3, "confidence", 3), at(3, item, 3, "specificity", "", kind="clear")
    at(3, item, 0, "note", "new", kind="text"), at(3, item, 7, "", undone.id, kind="undo")
    at(3, ids[1], 0, "", "tired", kind="skip")  # an older answer would take it back
    at(3, ids[2], 3, "confidence", 2), at(3, ids[3], 3, "confidence", 2)  # older skips would take these back
    before = standing(store, study)
    capsys.readouterr()
    assert rate_import(RateImport(str(folder), str(folder / "old.csv"))) == 0
    # Four things of the first item, the answer of the second, answer and skip of the third, skip of the fourth.
    assert "nothing new; 8 left out, older than what stands" in capsys.readouterr().out
    assert standing(store, study) == before
    columns = "rater,item,interval,question,value,at"
    rows = [f"ann,{item},3,confidence,1,2025-01-04T01:00:00+13:00", f"ann,{item},11,confidence,1,{day(2)}"]
    rows += [f"ann,{item},3,specificity,3,{day(4)}", f"ann,{ids[1]},3,confidence,1,2025-01-04"]
    # The first is of the third of January, 12:00, as is what stands; the last takes back a skip.
    assert import_file(table(folder / "new.csv", *rows, columns=columns), study, store) == (4, 0)
    own = answers_of(store.events(), study)
    assert own["ann", item, False].numbers[3] == {"confidence": 1, "specificity": 3}
    assert own["ann", ids[1], False].skipped is None


def test_repeats_that_never_come_and_odd_rubrics_are_named(empty):
    folder, study, store, _ = empty
    twice = repeated(study, "ann")
    once = next(id for id in study.items if id not in twice)
    columns = "rater,item,interval,question,value,again,rubric"
    rows = [f"ann,{twice[0]},3,confidence,2,1,{'r' * 64}", f"ann,{once},3,confidence,2,1,"]
    rows += [f"ann,{once},3,confidence,2,0,{'r' * 65}", f"ann,{once},7,confidence,2,0,a\x1bb"]
    with pytest.raises(InputError) as error:
        import_file(table(folder / "a.csv", *rows, columns=columns), study, store)
    said = str(error.value)
    assert f"line 3: again '1': ann does not get item {once} twice" in said and "line 2" not in said
    assert "line 4: rubric 'rrr" in said and "line 5: rubric 'a\\x1bb': a version of at most 64 printable" in said
    assert store.events() == []


def test_optional_columns(empty):
    folder, study, store, item = empty
    item = repeated(study, "ann")[0]
    columns = "note_to_self,rater,item,interval,question,value,again,skipped,seconds,at,rubric"
    rows = [
        f"x,ann,{item},3,confidence,2,True,,30,2025-01-31T12:00:00+00:00,0ld",
        f"x,ann,{item},7,confidence,2,1,,30,,0ld",
    ]
    assert (
        import_file(
            table(folder / "a.csv", *rows, f"x,ben,{item},,,,no,tired,,,".replace(",no,", ",0,"), columns=columns),
            study,
            store,
        ).added
        == 3
    )
    found = answers_of(store.events(), study)
    own = found["ann", item, True]
    assert own.seconds == 30 and own.rubrics == {"0ld"} and found["ben", item, False].skipped == "tired"
    assert store.events()[0].at == "2025-01-31T12:00:00+00:00" and store.events()[1].at > "2025-02"


def test_every_wrong_line_is_named_and_nothing_is_stored(empty):
    folder, study, store, item = empty
    rows = [
        f"ann,{item},3,confidence,2",
        f"ann,{item},3,confidence,4",
        f"ann,{item},4,confidence,2",
        "ann,nowhere,3,confidence,2",
        f",{item},3,confidence,2",
        f"ann,{item},3,confidense,2",
        f"ann,{item},3,confidence,",
        f"ann,{item},3,specificity,-1",
        f"ann,{item},0,interpretation, ",
        f"ann,{item},3,,",
        f"ann,{item},3,confidence,3",
    ]
    with pytest.raises(InputError) as error:
        import_file(table(folder / "a.csv", *rows), study, store)
    said = str(error.value)
    assert store.events() == [] and "\n" not in said and "nothing was imported" in said
    for line, what in (
        (3, "confidence '4': 0 to 3 was expected"),
        (4, "interval '4': of this item 3, 7, 11 was expected"),
        (5, "item 'nowhere': not in the study"),
        (6, "rater ''"),
        (7, "question 'confidense': not in the rubric, which has confidence"),
        (8, "confidence '': 0 to 3"),
        (9, "specificity '-1'"),
        (10, "interpretation: a text of 1 to 4000 characters"),
        (11, "neither a question nor why the item was skipped"),
        (12, "contradicts line 2 ('3', there '2')"),
    ):
        assert f"line {line}: {what}" in said, said
    many = table(folder / "b.csv", *[f"ann,nowhere{i},3,confidence,2" for i in range(99)])
    with pytest.raises(InputError, match="and 69 more"):
        import_file(many, study, store)
    columns = "rater,item,interval,question,value,again,seconds,at"
    odd = table(folder / "c.csv", f"a,{item},3,confidence,2,maybe,-1,yesterday", columns=columns)
    with pytest.raises(InputError, match=r"again 'maybe'.*seconds '-1'.*at 'yesterday'"):
        import_file(odd, study, store)


def test_files_that_are_none(empty):
    folder, study, store, item = empty
    for name, content, said in (
        ("a.csv", b"rater,item\nann,x\n", "column interval is missing; needed are rater, item"),
        ("b.csv", b"\xff\xfe\x00", "not a CSV file in UTF-8"),
        (
            "c.csv",
            f"rater,item,interval,question,value\nann,{item},3,confidence,2,9\n".encode(),
            "more cells than columns",
        ),
        ("d.csv", b"rater,item,interval,question,value\n", "holds no ratings"),
        ("e.csv", b"", "column rater is missing"),
        ("f.parquet", b"PAR1", "not a parquet file"),
        ("g.json", b"{", "not valid JSON"),
        ("h.json", b"{}", "a list of tasks was expected"),
        ("i.json", b"[]", "holds no ratings"),
        (
            "j.json",
            b'[1, {"data": {}}, {"data": {"item": "x"}, "annotations": [{"completed_by": 1}]}]',
            "task 1: not one of",
        ),
        ("k.txt", b"", ".csv, .parquet, or .json"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=re.escape(said)):
            import_file(folder / name, study, store)
    for name in ("no.csv", "no.json", "no.parquet"):
        with pytest.raises(InputError, match="no such file"):
            import_file(folder / name, study, store)
    assert store.events() == []


def test_nobody_has_rated(empty):
    folder, _, _, _ = empty
    for format in ("csv", "parquet", "sqlite"):
        with pytest.raises(InputError, match="nobody has rated"):
            rate_export(RateExport(str(folder), format=format))
    assert rate_export(RateExport(str(folder), format="label-studio")) == 0  # which needs no answers
    assert sorted(path.name for path in (folder / "rating" / "label-studio").iterdir()) == ["config.xml", "tasks.json"]


HOSTILE = ["<script>alert(1)</script>", '" onerror="x', "&lt;", "</p></div>", "\u202e", "$html", "]]>"]


@pytest.mark.parametrize("token", HOSTILE)
def test_tasks_of_label_studio_are_blind_and_escaped(token):
    study, _key = made_study(token=token, saes=("sae-x7",))
    made = json.dumps(tasks(study))
    for word in ("random_sae", "neurons", "random_directions", "density", '"latent', "safetensors", "sae-x7"):
        assert word not in made, word
    found: list[str] = []

    class Html(Nested):
        VOID = ("img",)

        def handle_starttag(self, tag, attrs):
            assert tag in ("div", "h4", "p", "span", "b", "bdi") and {name for name, _ in attrs} <= {"style", "dir"}
            super().handle_starttag(tag, attrs)

        def handle_data(self, data):
            found.append(data)

    for task in tasks(study):
        assert set(task) == {"data"} and set(task["data"]) == {
            "item",
            "html",
            *(f"{own}{i}" for own in ("unit", "interval") for i in (1, 2, 3)),
        }
        assert [task["data"][f"interval{i}"] for i in (1, 2, 3)] == list(study.items[task["data"]["item"]].rated)
        Html(task["data"]["html"])
    assert "".join(found).count(token) == len(study.items) * 12


def test_the_configuration_of_label_studio():
    study, _ = made_study()
    root = ElementTree.fromstring(config(study))
    names = [own.get("name") for own in root.iter() if own.get("name")]
    assert len(names) == len(set(names)) == 1 + 1 + 3 * 5 + 1
    asked = {own.id: own for own in study.rubric.questions}
    for own in root.iter("Choices"):
        place, question = place_of(own.get("name"))
        assert 1 <= place <= 3 and [one.get("value") for one in own] == list(
            map(str, range(len(asked[question].answers)))
        )
        assert own.get("toName") == "shown" and (own.get("required") == "true") == (question != "effect_size_gap")
    hidden = [own for own in root.iter("View") if own.get("visibleWhen")]
    assert [(own.get("whenTagName"), own.get("whenChoiceValue")) for own in hidden] == [
        (f"u{i}__logit_consistency", "0,1,2") for i in (1, 2, 3)
    ]
    assert not list(root.iter("Rating"))  # which cannot tell 0 from no answer


def test_a_hostile_rubric_stays_text():
    study, _ = made_study()
    odd = '<b a="1">&amp; $html \\u0000 \\ud7ff ]]>'
    toml = study.rubric.toml.replace("How sure are you of your interpretation?", odd.replace('"', '\\"'))
    study = dataclasses.replace(study, rubric=parse_rubric(toml, "odd"))
    headers = [own.get("value") for own in ElementTree.fromstring(config(study)).iter("Header")]
    assert sum('<b a="1">&amp; ＄html � \ud7ff ]]>' in value for value in headers) == 3
    assert {value for value in headers if "$" in value} == {"$unit1", "$unit2", "$unit3"}


def test_items_with_fewer_units():
    study, _ = made_study()
    first = next(iter(study.items.values()))
    study = dataclasses.replace(study, items=study.items | {first.id: dataclasses.replace(first, rated=(9,))})
    data = tasks(study)[0]["data"]
    assert (data["interval1"], data["interval2"], data["unit2"]) == (9, None, "Nothing to answer here")
    required = [
        own.get("name")[:2] for own in ElementTree.fromstring(config(study)).iter("Choices") if own.get("required")
    ]
    assert set(required) == {"u1"}
    whole, _ = made_study(rubric="interpretability")
    assert tasks(whole)[0]["data"]["unit1"] == "The item as a whole" and tasks(whole)[0]["data"]["interval1"] == 0


def choice(name, value):
    return {"from_name": name, "to_name": "shown", "type": "choices", "value": {"choices": [value]}, "id": "x"}


def area(name, *text):
    return {"from_name": name, "to_name": "shown", "type": "textarea", "value": {"text": list(text)}}


def annotation(by, *result, at="2025-03-09T22:16:08.728353Z", **more):
    return {"id": 1, "completed_by": by, "result": list(result), "was_cancelled": False, "lead_time": 12.5} | {
        "created_at": at,
        "updated_at": at,
        **more,
    }


def test_annotations_of_label_studio_come_in(empty):
    folder, study, store, _ = empty
    made = tasks(study)
    first, second = made[0]["data"]["item"], made[1]["data"]["item"]
    ann, nobody = {"id": 3, "email": "ann@example.org"}, {"id": 4, "email": ""}
    old = annotation(ann, choice("u1__confidence", "0"), at="2025-03-08T00:00:00Z")
    new = annotation(
        ann,
        choice("u1__confidence", "3"),
        choice("u3__specificity", "1"),
        area("text__interpretation", "cats", "and dogs"),
    )
    other = annotation(nobody, choice("u2__confidence", "2"), area("text__note", ""))
    gone = annotation(7, was_cancelled=True, lead_time=None)
    export = [made[0] | {"id": 1, "annotations": [new, old, other]}, made[1] | {"id": 2, "annotations": [gone]}]
    export.append(made[2] | {"id": 3, "annotations": []})
    path = folder / "project-1.json"
    path.write_text(json.dumps(export))
    assert import_file(path, study, store).added == 5
    found = answers_of(store.events(), study)
    mine = found["ann@example.org", first, False]
    assert mine.numbers == {3: {"confidence": 3}, 11: {"specificity": 1}} and mine.texts == {
        "interpretation": "cats\nand dogs"
    }
    assert mine.seconds == pytest.approx(12.5) and found["user 4", first, False].numbers == {7: {"confidence": 2}}
    assert found["user 7", second, False].skipped == "skipped in Label Studio"
    assert {own.source for own in store.events()} == {"project-1.json"} and import_file(path, study, store).added == 0
    assert store.events()[0].at == "2025-03-09T22:16:08.728353Z"


def test_wrong_annotations_are_named(empty):
    folder, study, store, _ = empty
    made = tasks(study)
    wrong = annotation(3, choice("u1__confidence", "9"), choice("u9__confidence", "1"))
    export = [made[0] | {"annotations": [annotation(1, choice("u1__confidence", "1")), wrong]}]
    export.append({"data": made[1]["data"] | {"item": "elsewhere"}, "annotations": [annotation(1)]})
    export.append(made[2] | {"annotations": [annotation(2, choice("sentiment", "1"), area("text__note", "\ud800"))]})
    path = folder / "a.json"
    path.write_text(json.dumps(export))
    with pytest.raises(InputError) as error:
        import_file(path, study, store)
    said = str(error.value)
    for part in ("task 1, user 3: confidence '9': 0 to 3", "task 1: not one of Label Studio's", "interval9"):
        assert part in said, said
    for part in ("item 'elsewhere': not in the study", "'sentiment': no field", "note: halves of characters"):
        assert part in said, said
    assert store.events() == []


def test_a_store_of_another_study_is_refused(made):
    folder, study, _key, _ = made
    other = dataclasses.replace(study, id="else")
    with pytest.raises(InputError):
        Store(folder / "run" / "rating" / "answers.sqlite", other.id)


def test_times_are_those_of_items(made):
    folder, study, _key, store = made
    frame = pd.read_parquet(exported(folder, "parquet"))
    assert (frame.groupby(["rater", "item", "again"])["seconds"].nunique() == 1).all()
    answers = answers_of(events_of(*store.events()), study)
    line = frame.iloc[0]
    assert line["seconds"] == answers[line["rater"], line["item"], bool(line["again"])].seconds
