"""Texts of a vocabulary that want to be more than text."""

import unicodedata

import pytest

from jsaeval.corpus.visible import in_one_line
from jsaeval.rating.rubric import parse_rubric
from jsaeval.rating.server.evidence import line
from jsaeval.rating.server.texts import typed
from jsaeval.rating.study import Window
from tests.rating.browser import Person, browser, tree
from tests.rating.hostile import PIECES, hostile, hostile_study
from tests.rating.studies import make_study, on_disk


def test_what_pages_show_is_the_text_and_nothing_else(tmp_path):
    texts = hostile(1000)
    study = hostile_study(texts)
    served = on_disk(tmp_path, study)
    person = Person(study, served.store)
    plain = Person(make_study(1), on_disk(tmp_path / "plain", make_study(1)).store)
    known = {(own.tag, name) for own in plain.page().walk() for name in ["", *own.attributes]}
    shown, seen = [], 0
    for n in range(1, len(study.items) + 1):
        raw = person.client.get(f"/item/{n}").content
        page = tree(raw.decode("utf-8", "strict"))
        assert {(own.tag, name) for own in page.walk() for name in ["", *own.attributes]} <= known
        assert not any(
            unicodedata.category(own) in ("Cc", "Cf", "Cs", "Zl", "Zp") for own in page.text.replace("\n", "")
        )
        shown += [own.text for group in page.all("section", class_="group") for own in group.all("li")]
        seen += len(page.one("div", class_="effects").all("li"))
    windows = [own for item in study.items.values() for group in item.intervals for own in group]
    assert sorted(shown) == sorted(in_one_line("".join(own.tokens)) for own in windows)
    assert len(windows) == 111 and seen == 1000 + 3 * 8


@pytest.mark.parametrize("text", PIECES)
def test_a_token_is_one_text_between_its_tags(text):
    window = Window((text, text, text), (0.0, 1.0, 0.35), 1)
    root = tree(str(line(window)))
    assert [(own.tag, own.attributes, own.text) for own in root.walk()] == [
        ("b", {"class": "s10"}, in_one_line(text)),
        ("i", {"class": "s4"}, in_one_line(text)),
    ]
    assert root.text == 3 * in_one_line(text)
    root.text.encode()


def test_what_is_visible_stays_as_it_is():
    for text in (" the", "<b>", "&amp;", "مرحبا", "日本", "😀", "é", "⟨U+202E⟩", "⏎", "␣"):
        assert in_one_line(text) == text
    assert in_one_line("a\n\u202eb\ud800\x00") == "a⏎⟨U+202E⟩b�␀"


def test_shades_have_ten_levels():
    shares = (-0.5, 0.0, 1e-9, 0.1, 0.100001, 0.95, 1.0, 1.5)
    window = Window(("x",) * len(shares), shares, 1)
    shades = [own.attributes["class"] for own in tree(str(line(window))).walk()]
    assert shades == ["s0", "s1", "s1", "s2", "s10", "s10", "s10"]


def test_what_raters_type_is_text_again(tmp_path):
    served = on_disk(tmp_path, make_study(1, windows=1))
    person = Person(served.study, served.store, "<script>alert('name')</script>")
    for text in (
        "</textarea><script>alert(1)</script>",
        "&lt;b&gt; \"x\" 'y'",
        "<!--padding-->",
        "{{ 7*7 }}",
        "\u202e ab",
    ):
        assert person.write(1, "interpretation", text).status_code == 200
        page = person.page()
        assert page.all("textarea")[0].text == "\n" + text
        assert not [own for own in page.all("script") if own.children]
    assert page.one("p", class_="about").one("bdi").text == person.name
    person.post("/item/1/skip", reason="other", more="<img src=x onerror=alert(1)>")
    assert not person.page().all("img")


def test_typed():
    assert typed("a\r\nb\rc\n\td\x00\x1b\ud800é") == "a\nb\nc\n\tdé"


def test_a_hostile_rubric_and_title(tmp_path):
    bad = "<script>alert(1)</script>\\\"'&amp;"
    toml = f'id = "x"\ntitle = "{bad}"\nsource = "{bad}"\nunit = "interval"\nintro = "{bad}"\n'
    toml += f'[[text]]\nid = "t"\nprompt = "{bad}"\n[[question]]\nid = "q"\nprompt = "{bad}"\nanswers = ["{bad}", ""]\n'
    served = on_disk(tmp_path, make_study(1, rubric=parse_rubric(toml, "test"), windows=1))
    person = Person(served.study, served.store)
    person.answer(1, 7, "q", 1)
    person.post("/undo")
    for path in ("/item/1?undone=7.q", "/help", "/done"):
        page = person.page(path)
        assert not [own for own in page.all("script") if own.children]
        if path != "/done":
            assert page.text.count("<script>alert(1)</script>\"'&amp;") >= 2


def test_a_hostile_refusal(tmp_path):
    served = on_disk(tmp_path, make_study(1, windows=1))
    for path in ("/<script>alert(1)</script>", "/item/<b>", "/r/<b>", "/static/<b>"):
        answer = browser(served.study, served.store).get(path)
        assert answer.status_code in (401, 404) and "<b>" not in answer.text and "alert" not in answer.text
