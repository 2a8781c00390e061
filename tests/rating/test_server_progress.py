"""How far raters are, against a fold of all their events at once."""

import random

from jsaeval.rating.answers import ItemAnswers, answers_of
from jsaeval.rating.queue import Place, queue_of
from jsaeval.rating.server.progress import Left, Raters
from jsaeval.rating.store import NOTE, Event
from tests.rating.studies import make_study, on_disk


def test_it_is_what_a_fold_of_all_events_gives(tmp_path):
    study = make_study(6, repeats=0.3, windows=1, length=3, rated=(4, 9))
    store = on_disk(tmp_path, study).store
    raters, draw, version = Raters(study, store), random.Random(0), study.rubric.version
    names, nonce = ("Ada", "Bob"), 0
    for step in range(200):
        name, nonce = draw.choice(names), nonce + 1
        place = draw.choice(queue_of(study, name)[:3] + queue_of(study, name)[-2:])
        kind = draw.choices(("answer", "clear", "text", "skip", "undo"), (12, 1, 2, 0.3, 2))[0]
        question = draw.choice(study.rubric.questions)
        unit, id, value = draw.choice((4, 9)), question.id, str(draw.randint(0, question.highest))
        if kind == "undo":
            store.undo(name, f"n{nonce}", version)
        else:
            if kind == "text":
                unit, id, value = 0, draw.choice(("interpretation", NOTE)), draw.choice(("", "x", " "))
            elif kind == "skip":
                unit, id, value = 0, "", "why"
            elif kind == "clear":
                value = ""
            store.append(Event(f"n{nonce}", name, place.item, place.again, kind, unit, id, value, 1.0, version))
        if step % 9:
            continue  # several events at once, too
        for name in names:
            found, rater = answers_of(store.events(name), study), raters.of(name)
            for n, place in enumerate(rater.queue, 1):
                wanted = found.get((name, place.item, place.again)) or ItemAnswers()
                assert rater.at(n) == wanted
                item = study.items[place.item]
                assert bool(rater.left(n)) != wanted.done(item, study.rubric, study.logits)
            assert rater.open() == {n: rater.left(n) for n in range(1, len(rater.queue) + 1) if rater.left(n)}


def test_left_is_said_in_words():
    assert [str(own) for own in (Left(0, 0), Left(1, 0), Left(0, 2), Left(12, 1))] == [
        "",
        "1 answer",
        "2 texts",
        "12 answers and 1 text",
    ]


def test_places_have_numbers(tmp_path):
    study = make_study(8, repeats=0.3, windows=1)
    rater = Raters(study, on_disk(tmp_path, study).store).of("Ada")
    assert [rater.number_of(place) for place in rater.queue] == list(range(1, len(rater.queue) + 1))
    assert rater.number_of(Place("nothing", False)) is None
