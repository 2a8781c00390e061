"""What the pages of the rating server show, and that they are of one size."""

import re

import numpy as np
import pytest

from jsaeval.rating.queue import Place, queue_of
from jsaeval.rating.rubric import load_rubric
from jsaeval.rating.server.pages import Pages
from jsaeval.rating.server.progress import Rater
from jsaeval.rating.server.static import load_assets
from jsaeval.rating.store import NOTE
from jsaeval.rating.study import INTERVALS, Effect
from tests.rating.browser import Person, tree
from tests.rating.studies import make_study, on_disk


@pytest.fixture
def served(tmp_path):
    return on_disk(tmp_path, make_study(6, repeats=0.2, windows=2))


def first_item(person):
    return person.study.items[queue_of(person.study, person.name)[0].item]


def test_the_link_leads_to_the_first_item(person):
    answer = person.client.get("/")
    assert answer.status_code == 303 and answer.headers["location"] == "/item/1"


def test_every_interval_is_there_from_the_strongest_to_the_weakest(person):
    page, item = person.page(), first_item(person)
    groups = page.all("section", class_="group")
    assert [group.one("h3").text.split()[1] for group in groups] == [str(i) for i in range(INTERVALS, 0, -1)]
    for group, windows in zip(groups, reversed(item.intervals), strict=True):
        for shown, window in zip(group.all("li"), windows, strict=True):
            assert shown.text == "".join(window.tokens)
            assert shown.one("b").text == window.tokens[window.focus]
            firing = [own for own, share in zip(window.tokens, window.shares, strict=True) if share > 0]
            assert [own.text for own in shown.walk()] == firing


def test_shades_are_tenths_of_the_largest_activation(person):
    item = first_item(person)
    shown = person.page().all("section", class_="group")[0].all("li")[0]
    window = item.intervals[-1][0]
    shares = [own for own in window.shares if own > 0]
    assert [own.attributes["class"] for own in shown.walk()] == [f"s{int(np.ceil(10 * own))}" for own in shares]


def test_effects_are_bars(person):
    item, page = first_item(person), person.page()
    more, less = page.one("div", class_="effects").all("ol")
    assert [own.one("bdi").text for own in more.all("li")] == [own.token for own in item.promoted]
    assert [own.one("bdi").text for own in less.all("li")] == [own.token for own in item.suppressed]
    assert [own.one("small").text for own in less.all("li")] == [f"{abs(own.share):.2f}" for own in item.suppressed]
    assert more.all("i")[0].attributes["class"] == f"w{round(20 * item.promoted[0].share)}"


def test_every_unit_is_asked_everything(person):
    page, rubric = person.page(), person.study.rubric
    names = [own.attributes["id"] for own in page.all("fieldset", class_="q")]
    assert names == [f"{unit}.{own.id}" for unit in (11, 7, 3) for own in rubric.questions]
    for field, question in zip(page.all("fieldset", class_="q"), rubric.questions * 3, strict=True):
        assert field.one("legend").text.startswith(question.prompt)
        radios = field.all("input", type="radio")
        assert [own.attributes["value"] for own in radios] == [str(i) for i in range(len(question.answers))]
        assert {own.attributes["name"] for own in radios} == {field.attributes["id"]}
        assert len(field.all("label")) == len(radios)
    for section, unit in zip(page.all("section", class_="unit"), (11, 7, 3), strict=True):
        windows = first_item(person).intervals[unit - 1]
        assert [own.text for own in section.all("li")] == ["".join(own.tokens) for own in windows]
    assert [own.attributes["data-text"] for own in page.all("textarea")] == ["interpretation", NOTE]
    assert {own.attributes["for"] for own in page.all("label") if "for" in own.attributes} == {
        own.attributes["id"] for own in page.all("textarea")
    }


def test_without_logits_nothing_is_shown_or_asked_of_them(tmp_path):
    served = on_disk(tmp_path, make_study(2, logits=False))
    page = Person(served.study, served.store).page()
    assert not page.all("div", class_="effects")
    assert not [own for own in page.all("fieldset") if "logit" in own.attributes["id"] or "gap" in own.attributes["id"]]


def test_a_rubric_of_whole_items_is_asked_once(tmp_path):
    served = on_disk(tmp_path, make_study(2, rubric="interpretability"))
    person = Person(served.study, served.store)
    names = [own.attributes["id"] for own in person.page().all("fieldset", class_="q")]
    assert names == [f"0.{own.id}" for own in load_rubric("interpretability").questions]
    assert person.answer(1, 0, "useful", 2).status_code == 200


def test_answers_and_texts_are_there_again(person):
    person.answer(1, 7, "confidence", 2)
    person.write(1, "interpretation", "\n words <b>&amp;\n\tof 'money' \"")
    page = person.page()
    (checked,) = [own for own in page.all("input", type="radio") if "checked" in own.attributes]
    assert (checked.attributes["name"], checked.attributes["value"]) == ("7.confidence", "2")
    # A parser drops the first line end of a textarea, which the page therefore puts before the text.
    assert page.all("textarea")[0].text == "\n\n words <b>&amp;\n\tof 'money' \""


def test_progress_and_the_end(person):
    total = len(queue_of(person.study, "Ada"))
    assert total == 7
    assert "Here: 12 answers and 1 text left" in person.page().one("p", id="progress").text
    for n in range(1, total + 1):
        person.write(n, "interpretation", "money")
        for unit in (11, 7, 3):
            for question in ("confidence", "activation_consistency", "logit_consistency", "specificity"):
                answer = person.answer(n, unit, question, 3)
        assert f"{n} done" in tree(answer.text).text and "This one is done" in tree(answer.text).text
        if n == 3:
            left = [own.attributes["href"] for own in person.page("/done").one("ul", class_="left").all("a")]
            assert left == [f"/item/{i}" for i in range(4, total + 1)]
            assert person.client.get("/").headers["location"] == "/item/4"
    assert person.client.get("/").headers["location"] == "/done"
    done = person.page("/done")
    assert done.one("h1").text == "Thank you" and not done.all("ul", class_="left")


def test_the_second_time_begins_without_the_answers_of_the_first(person):
    queue = queue_of(person.study, "Ada")
    (again,) = [n for n, place in enumerate(queue, 1) if place.again]
    first = next(n for n, place in enumerate(queue, 1) if place.item == queue[again - 1].item)
    person.answer(first, 11, "confidence", 3)
    person.write(first, "interpretation", "money")
    assert len([own for own in person.page(f"/item/{first}").all("input") if "checked" in own.attributes]) == 1
    page = person.page(f"/item/{again}")
    assert not [own for own in page.all("input") if "checked" in own.attributes]
    assert page.all("textarea")[0].text == "\n"
    person.answer(again, 11, "confidence", 1)
    assert [event.again for event in person.store.events("Ada")] == [False, False, True]


def test_the_second_time_looks_like_a_first(person):
    """At the same place, the page says the same of an item whether it was there before or not."""
    study, (one, two, *_) = person.study, person.study.items
    pages = Pages(study, load_assets().urls)
    htmls = []
    for again in (False, True):
        rater = Rater("Ada", (Place(one, False), Place(two, again)), study)
        html = pages.item(rater, 2, "secret").decode()
        htmls.append(re.sub(r'<!--padding\w+-->|name="nonce" value="\w+"', "", html))
    assert htmls[0] == htmls[1] and len(htmls[0]) > 10_000


def test_ids_of_items_are_nowhere(person):
    for path in ("/item/1", "/item/7", "/done", "/help"):
        answer = person.client.get(path)
        for id in (*person.study.items, person.study.id, str(person.study.seed) * 5):
            assert id not in answer.text and id not in str(answer.headers)


def test_all_items_have_one_size(tmp_path):
    """Whatever their windows; what a rater writes makes a page larger in steps that do not depend on the item."""
    study = make_study(12, windows=3)
    for i, (id, item) in enumerate(study.items.items()):
        windows = tuple(tuple(own[: i % 4]) for own in item.intervals)
        long = tuple(Effect("<&\"'>" * i, 0.5) for _ in range(i))
        study.items[id] = item.__class__(id, windows, item.rated[: 1 + i % 3], long, item.suppressed)
    served = on_disk(tmp_path, study)
    person = Person(study, served.store, "A rater & a <very> long name, äöü " + 29 * "€")

    def sizes():
        answers = [person.client.get(f"/item/{n}") for n in range(1, 13)]
        assert len({str(sorted(own.headers.items())) for own in answers}) == 1
        (size,) = {len(own.content) for own in answers}
        assert size == int(answers[0].headers["content-length"])
        return size

    empty = sizes()
    for n in range(1, 13):
        for unit in study.items[queue_of(study, person.name)[n - 1].item].units:
            for question in study.rubric.questions:
                assert person.answer(n, unit, question.id, 1).status_code == 200
    assert sizes() == empty
    for n in range(1, 13):
        assert person.write(n, NOTE, "<" * 1000).status_code == 200
    assert sizes() == empty + 4096


def test_padding_is_new_each_time(person):
    one, two = (re.search(r"<!--padding(\w+)-->", person.client.get("/item/1").text)[1] for _ in range(2))
    assert one != two and len(one) >= 512


def test_help_says_what_the_rubric_says_first(person):
    assert person.study.rubric.intro.strip() in person.page("/help").text


def test_the_first_page_weighs_less_than_100_kb(tmp_path):
    served = on_disk(tmp_path, make_study(20, windows=5, rated=tuple(range(1, 12))))
    person = Person(served.study, served.store)
    answer = person.client.get("/item/1")
    page = tree(answer.text)
    links = [own.attributes.get("href") or own.attributes["src"] for own in page.all("script") + page.all("link")]
    files = [person.client.get(link) for link in links if link.startswith("/")]
    assert len(files) == 3 and all(own.status_code == 200 for own in files)
    total = len(answer.content) + sum(int(own.headers["content-length"]) for own in files)
    print(f"first item: page {len(answer.content)} B, all {total} B")
    assert total < 100_000
