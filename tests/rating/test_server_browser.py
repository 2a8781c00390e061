"""The page in headless Chromium: with hostile texts, without a connection or scripts, its keys, its contrast."""

import re
from functools import partial

import pytest

from jsaeval.corpus.visible import in_one_line
from jsaeval.rating.queue import queue_of
from tests.rating.hostile import hostile, hostile_study
from tests.rating.screen import CONTRASTS, Screen
from tests.rating.serving import Process
from tests.rating.studies import make_study, on_disk


pytestmark = pytest.mark.browser


def test_without_a_connection_answers_wait_and_are_sent_once(tmp_path, chromium):
    served = on_disk(tmp_path, make_study(3, windows=1))
    screen = Screen(chromium)
    with Process(tmp_path, ("Ada",)) as server:
        screen.page.goto(server.links["Ada"])
        screen.write("i", "before")
        screen.saved()
        server.kill()
        screen.keys("2", "3")
        screen.until("document.querySelector('#status').textContent === 'Not saved, trying again'")
        screen.shot("not-saved")
        screen.keys("n")  # waits for the answers
        screen.page.wait_for_timeout(1500)
        assert screen.page.url.endswith("/item/1")
        with Process(tmp_path, ("nobody",), port=server.port):
            screen.at(2)
            screen.page.wait_for_url("**/item/2")
            screen.keys("b")
            screen.at(1)
            assert screen.page.locator(".q input:checked").count() == 2
    assert [(own.question, own.value) for own in served.store.events("Ada")] == [
        ("interpretation", "before"),
        ("confidence", "2"),
        ("activation_consistency", "3"),
    ]
    assert all("ERR_CONNECTION" in own for own in screen.wrong)
    screen.context.close()


def test_leaving_with_unsaved_answers_warns(tmp_path, chromium):
    on_disk(tmp_path, make_study(2, windows=1))
    screen = Screen(chromium)
    with Process(tmp_path, ("Ada",)) as server:
        screen.page.goto(server.links["Ada"])
        screen.write("i", "x")
        screen.saved()
        screen.page.goto("about:blank")
        assert not screen.wrong  # everything was saved
        screen.page.goto(server.links["Ada"])
        screen.write("c", "y")
        server.kill()
        screen.keys("1")
        screen.until("document.querySelector('#status').textContent === 'Not saved, trying again'")
        screen.page.close(run_before_unload=True)
        screen.page.wait_for_event("close")
        assert [own for own in screen.wrong if own.startswith("dialog")]
    screen.context.close()


def test_another_rater_in_the_browser_is_noticed(tmp_path, chromium):
    served = on_disk(tmp_path, make_study(2, windows=1))
    screen = Screen(chromium)
    with Process(tmp_path, ("Ada", "Bob")) as server:
        screen.page.goto(server.links["Ada"])
        other = screen.context.new_page()
        other.goto(server.links["Bob"])
        screen.keys("j", "2")
        screen.until("document.querySelector('#status').textContent.startsWith('Not saved: This page')")
        assert screen.page.locator(".q.lost").count() == 1
        screen.shot("other-rater")
    assert not served.store.events()
    screen.context.close()


def test_conditions_clicks_and_clearing(tmp_path, chromium):
    served = on_disk(tmp_path, make_study(2, windows=1, rated=(7,)))
    screen = Screen(chromium, width=390, height=844, has_touch=True)
    with Process(tmp_path, ("Ada",)) as server:
        page = screen.page
        page.goto(server.links["Ada"])
        gap = page.locator("[id='7.effect_size_gap']")
        off = partial(gap.evaluate, "(own) => own.disabled")
        assert off() and "Only if" in gap.inner_text()
        page.locator("[name='7.logit_consistency'][value='3']").tap()
        assert off() and "Not applicable" in gap.inner_text()
        page.locator("[name='7.logit_consistency'][value='1']").tap()
        assert not off() and "Only if" in gap.inner_text()
        page.locator("[name='7.effect_size_gap'][value='1']").focus()
        page.keyboard.press("Space")
        page.keyboard.press("ArrowLeft")  # as everywhere: the option before
        screen.keys("Delete", "9", "x")
        screen.saved()
        assert "Here: 4 answers" in page.locator("#progress").inner_text()
        screen.shot("phone-conditions")
    assert [(own.kind, own.question, own.value) for own in served.store.events("Ada")] == [
        ("answer", "logit_consistency", "3"),
        ("answer", "logit_consistency", "1"),
        ("answer", "effect_size_gap", "1"),
        ("answer", "effect_size_gap", "0"),
        ("clear", "effect_size_gap", ""),
    ]
    assert not screen.wrong
    screen.context.close()


def test_help_skip_and_their_keys(tmp_path, chromium):
    served = on_disk(tmp_path, make_study(2, windows=1))
    screen = Screen(chromium)
    with Process(tmp_path, ("Ada",)) as server:
        screen.page.goto(server.links["Ada"])
        screen.keys("?")
        screen.until("document.querySelector('dialog').open")
        assert "previous question" in screen.page.inner_text("dialog")
        screen.keys("1", "n", "u", "Escape")
        assert not screen.page.evaluate("document.querySelector('dialog').open")
        screen.keys("s")
        screen.page.keyboard.type("n1?u")  # in a list, letters choose
        screen.keys("Escape")
        assert (
            screen.page.evaluate("!document.querySelector('.skip').open && document.activeElement.tagName") == "SUMMARY"
        )
        screen.keys("1")  # nothing has the focus: it leads to the first question, and answers nothing
        assert screen.focus() == "11.confidence" and screen.page.url.endswith("/item/1")
        screen.keys("Control+a", "Alt+2", "Control+2")
        screen.page.wait_for_timeout(300)
    assert not served.store.events() and not screen.wrong
    screen.context.close()


def test_time_counts_while_somebody_is_there(tmp_path, chromium):
    served = on_disk(tmp_path, make_study(2, windows=1))
    screen = Screen(chromium)
    with Process(tmp_path, ("Ada",)) as server:
        screen.page.clock.install()
        screen.page.goto(server.links["Ada"])
        screen.page.clock.run_for(10_000)
        screen.keys("j")  # somebody is there
        screen.page.clock.run_for(600_000)  # a pause: half a minute of it counts
        screen.keys("1")
        screen.page.clock.run_for(5_000)
        screen.saved()
        screen.keys("2")
        screen.page.clock.run_for(1_000)
        screen.saved()
    first, second = (own.seconds for own in served.store.events("Ada"))
    assert 38 <= first <= 42 and 4 <= second <= 7
    screen.context.close()


def test_hostile_tokens_do_nothing(tmp_path, chromium):
    study = hostile_study(hostile(1000))
    on_disk(tmp_path, study)
    with Process(tmp_path, ("Ada",)) as server:
        for width, scheme in ((1300, "light"), (390, "dark")):
            screen = Screen(chromium, width=width, color_scheme=scheme)
            screen.page.goto(server.links["Ada"])
            for n, place in enumerate(queue_of(study, "Ada"), 1):
                screen.page.goto(re.sub("/r/.*", f"/item/{n}", server.links["Ada"]))
                item = study.items[place.item]
                shown = screen.page.locator(".evidence .lines li").evaluate_all(
                    "all => all.map((own) => own.textContent)"
                )
                windows = [own for group in reversed(item.intervals) for own in group]
                assert shown == [in_one_line("".join(own.tokens)) for own in windows]
                assert (
                    screen.page.locator("script").count() == 2
                    and screen.page.locator("img, svg, iframe, b[hx-get]").count() == 0
                )
                assert screen.fits()
            screen.shot(f"hostile-{width}")
            screen.page.wait_for_timeout(300)
            assert not screen.wrong
            screen.context.close()


def test_without_scripts(tmp_path, chromium):
    served = on_disk(tmp_path, make_study(2, windows=1, rated=(7,)))
    screen = Screen(chromium, java_script_enabled=False)
    with Process(tmp_path, ("Ada",)) as server:
        page = screen.page
        page.goto(server.links["Ada"])
        page.get_by_label("What does it respond to?").fill("one\ntwo")
        for name, value in (
            ("confidence", 2),
            ("activation_consistency", 5),
            ("logit_consistency", 3),
            ("specificity", 0),
        ):
            page.locator(f"[name='7.{name}'][value='{value}']").check(force=True)
        screen.shot("no-scripts")
        page.get_by_role("button", name="Save and go on").click()
        assert page.url.endswith("/item/2")
        page.get_by_text("Skip…").click()
        page.get_by_role("button", name="Skip this item").click()
        assert page.url.endswith("/done") and page.inner_text("h1") == "Thank you"
        page.get_by_role("button", name="Undo what you did last").click()
        assert page.url.endswith("/item/2")
    assert [own.kind for own in served.store.events("Ada")] == ["answer"] * 4 + ["text", "skip", "undo"]
    assert served.store.events("Ada")[4].value == "one\ntwo"
    assert not screen.wrong
    screen.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_labels_and_focus(tmp_path, chromium, scheme):
    """Text has a contrast of 4.5 (WCAG 2.2 AA), every control a name, and tabs go through the page in order."""
    on_disk(tmp_path, make_study(3, windows=2))
    screen = Screen(chromium, color_scheme=scheme)
    with Process(tmp_path, ("Ada",)) as server:
        page = screen.page
        page.goto(server.links["Ada"])
        page.locator("[name='7.confidence'][value='1']").check(force=True)
        screen.saved()
        for path in ("", "/help", "/done"):
            page.goto(re.sub("/r/.*", path or "/item/1", server.links["Ada"]))
            low = page.evaluate(CONTRASTS)
            assert not low, low
            nameless = page.evaluate(
                "[...document.querySelectorAll('input:not([type=hidden]), textarea, select, button, a')]"
                ".filter((own) => !(own.labels?.length || own.textContent.trim())).map((own) => own.outerHTML)"
            )
            assert not nameless
        page.goto(re.sub("/r/.*", "/item/1", server.links["Ada"]))
        screen.keys("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Go to the questions"
        seen = []
        for _ in range(12):
            screen.keys("Tab")
            seen.append(page.evaluate("document.activeElement.name || document.activeElement.tagName"))
        order = ["SUMMARY", "text.interpretation", "text.note", "11.confidence", "11.activation_consistency"]
        assert [own for own in seen if own in order] == order, seen
    screen.context.close()
