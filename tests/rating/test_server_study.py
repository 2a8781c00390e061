"""A whole study by keyboard, in headless Chromium."""

import pytest

from jsaeval.rating.answers import answers_of
from jsaeval.rating.queue import queue_of
from jsaeval.rating.store import NOTE
from tests.rating.screen import Screen
from tests.rating.serving import Process
from tests.rating.studies import make_study, on_disk


pytestmark = pytest.mark.browser


RATERS = ("Ada", "Bob", "Eve")


def test_a_whole_study_by_keyboard(tmp_path, chromium):
    """Three raters, thirty items: digits, notes, undo, skip, back, and a reload in the middle."""
    study = make_study(30, repeats=0.0, windows=2, rated=(11, 5))
    served = on_disk(tmp_path, study)
    with Process(tmp_path, RATERS) as server:
        for name in RATERS:
            screen = Screen(chromium)
            screen.page.goto(server.links[name])
            wanted = _rate_all(screen, study, RATERS.index(name))
            screen.page.wait_for_url("**/done")
            assert screen.page.inner_text("h1") == "Thank you", screen.page.inner_text("main")
            screen.context.close()
            assert not screen.wrong
            events = served.store.events(name)
            answers = answers_of(events, study)
            for n, place in enumerate(queue_of(study, name), 1):
                own = answers[name, place.item, False]
                assert (own.numbers, own.texts, own.skipped) == wanted[n]
                assert own.done(study.items[place.item], study.rubric, True) and 0 < own.seconds < 60
            # In order: items as they come in the queue, and on each its text, its groups, its questions.
            order = [queue_of(study, name)[n].item for n in range(30)]
            places = [order.index(own.item) for own in events]
            back = [i for i in range(1, len(places)) if places[i] < places[i - 1]]
            assert len(back) == 1 and places[back[0]] == 4  # but for the one that was gone back to
            for n in set(range(30)) - {4, 6, 9, 19}:
                kinds = [(own.kind, own.interval, own.question) for own in events if own.item == order[n]]
                asked = [own.id for own in study.rubric.questions]
                units = [("answer", u, q) for u in (11, 5) for q in asked if (u, q) in _asked(wanted[n + 1][0])]
                note = [("text", 0, NOTE)] if NOTE in wanted[n + 1][1] else []
                assert kinds == [("text", 0, "interpretation"), *units, *note]


def _asked(numbers):
    return {(unit, question) for unit, own in numbers.items() for question in own}


def _rate_all(screen, study, who):
    """Rate by keys alone; what should be stored by number of the item."""
    wanted = {}
    for n in range(1, 31):
        screen.at(n)
        texts = {"interpretation": f"words of item {n}, jkunsb? 0123"}
        screen.write("i", texts["interpretation"])
        numbers = {}
        for unit in (11, 5):
            digits = [(n + who) % 4, (n * unit) % 6, (n + unit + who) % 4, n % 2, (n // 2) % 4]
            ids = [own.id for own in study.rubric.questions]
            if digits[2] == 3:  # full marks: the gap is not asked
                del digits[3], ids[3]
            assert screen.focus() == f"{unit}.confidence"
            screen.keys(*map(str, digits))
            numbers[unit] = dict(zip(ids, digits, strict=True))
        skipped = None
        if n % 3 == 0:
            texts[NOTE] = f"a note on {n}"
            screen.write("c", texts[NOTE])
        if n == 5:
            screen.saved()
            screen.page.reload()
            checked = screen.page.locator(".q input:checked")
            assert checked.count() == sum(map(len, numbers.values()))
            assert screen.page.input_value("[data-text=interpretation]") == texts["interpretation"]
        if n == 7:  # undo the last answer, and give another one
            screen.saved()
            screen.keys("u")
            screen.until("document.activeElement.id === '5.specificity'")
            assert "Undone" in screen.page.inner_text(".flash")
            numbers[5]["specificity"] = 1
            screen.keys("1")
        if n == 10:  # up to the first question of the group, for another answer
            screen.keys("i", "Escape", *"j" * (1 + sum(map(len, numbers.values()))))
            assert screen.page.evaluate("document.activeElement.rel") == "next"
            screen.keys("k", "ArrowUp", "ArrowDown", *"k" * (len(ids) - 2), "ArrowUp")
            assert screen.focus() == "5.confidence"
            numbers[5]["confidence"] = (numbers[5]["confidence"] + 1) % 4
            screen.keys(str(numbers[5]["confidence"]))
        if n == 20:
            skipped = "Another reason: too much"
            screen.keys("s")
            screen.keys("A", "Tab")  # a list of the browser: letters choose
            screen.page.keyboard.type("too much")
            screen.keys("Enter")
        wanted[n] = (numbers, texts, skipped)
        if n == 6:  # back to the one before, which is as it was, and a note there
            screen.keys("b")
            screen.at(5)
            screen.write("c", "later")
            wanted[5][1][NOTE] = "later"
            screen.keys("n")
            screen.at(6)
        if n in (1, 15) and not who:
            screen.shot(f"rated-{n}")
        if n != 20:
            screen.keys("n")
    return wanted
