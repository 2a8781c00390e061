"""The page in headless Chromium: by keyboard, with hostile texts, without a connection for a while."""

import os
import re
import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from jsaeval.rating.answers import answers_of
from jsaeval.rating.queue import queue_of
from jsaeval.rating.server.texts import printable
from jsaeval.rating.store import NOTE
from tests.rating.hostile import hostile, hostile_study
from tests.rating.serving import Process
from tests.rating.studies import make_study, on_disk


pytestmark = pytest.mark.browser
SHOTS = os.environ.get("JSAEVAL_SCREENSHOTS")  # a folder for pictures of what the tests see


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    assert path, "these tests need Chromium"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Screen:
    """A page, and everything on it that should not have been."""

    def __init__(self, browser, width=1300, height=900, **options):
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page, self.wrong = self.context.new_page(), []
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", lambda own: own.type in ("error", "warning") and self.wrong.append(own.text))
        self.page.on("dialog", lambda own: (self.wrong.append(f"dialog: {own.message}"), own.accept()))
        self.page.on("request", lambda own: self._local(own.url))
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', (own) => console.error('policy', own.effectiveDirective))"
        )

    def _local(self, url):
        if not url.startswith(("http://127.0.0.1:", "data:")):
            self.wrong.append(f"request: {url}")

    def keys(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def write(self, key, text):
        self.keys(key)
        self.page.keyboard.type(text)
        self.keys("Control+Enter")

    def until(self, expression):
        """Playwright's own way to wait evaluates strings in the page, which the policy forbids."""
        end = time.monotonic() + 20
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def at(self, n):
        self.until(f"document.querySelector('#page')?.dataset.n === '{n}'")

    def saved(self):
        self.until("['Saved', ''].includes(document.querySelector('#status').textContent)")

    def focus(self):
        return self.page.evaluate("document.activeElement.id")

    def shot(self, name):
        if SHOTS:
            self.page.screenshot(path=Path(SHOTS) / f"{name}.png")

    def fits(self):
        """Nothing is wider than the window, and nothing visible sticks out of it."""
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


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
        screen.until("document.querySelector('#progress').textContent.includes('4 answers')")
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
                assert shown == [printable("".join(own.tokens)) for own in windows]
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


# Texts whose color has a contrast below 4.5 against the first background behind them that is not transparent.
CONTRASTS = """() => {
  const channel = (own) => (own /= 255) <= 0.04045 ? own / 12.92 : ((own + 0.055) / 1.055) ** 2.4;
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const low = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const own = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !own.checkVisibility() || own.closest('noscript, script')) continue;
    let behind = own;
    while (behind && rgb(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const back = rgb(getComputedStyle(behind ?? document.body).backgroundColor);
    const [a, b] = [light(rgb(getComputedStyle(own).color)), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${own.className} ${own.tagName} ${walk.currentNode.data}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""
