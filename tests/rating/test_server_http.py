"""What the rating server stores, and what it refuses."""

import asyncio

import pytest

from jsaeval.rating.queue import queue_of
from jsaeval.rating.server.app import make_app
from jsaeval.rating.server.forms import LONGEST_REASON, MOST_BYTES, REASONS
from jsaeval.rating.store import LONGEST_TEXT, NOTE
from tests.rating.browser import Person, fresh, refused, stored, tree


# What is stored.


def test_an_answer_is_stored_as_what_it_is(person):
    answer = person.answer(2, 11, "confidence", 3, seconds="12.25", nonce="n" * 20)
    assert answer.status_code == 200
    place = queue_of(person.study, "Ada")[1]
    (event,) = person.store.events()
    assert (event.item, event.again, event.rater, event.nonce) == (place.item, False, "Ada", "n" * 20)
    assert (event.kind, event.interval, event.question, event.value) == ("answer", 11, "confidence", "3")
    assert (event.seconds, event.rubric, event.source) == (12.25, person.study.rubric.version, "page")
    fragment = tree(answer.text)
    assert fragment.one("p").attributes["id"] == "progress"
    assert "Here: 11 answers and 1 text left" in fragment.text


def test_sent_again_it_is_stored_once(person):
    for _ in range(3):
        assert person.answer(1, 7, "confidence", 2, nonce="n" * 20).status_code == 200
    assert len(stored(person)) == 1
    assert "Nothing was stored" in refused(person.answer(1, 7, "confidence", 3, nonce="n" * 20), 409)
    assert len(stored(person)) == 1


def test_an_empty_answer_takes_one_back(person):
    person.answer(1, 7, "confidence", 2)
    assert person.answer(1, 7, "confidence", "").status_code == 200
    assert stored(person)[-1] == ("clear", 7, "confidence", "")
    assert not [own for own in person.page().all("input") if "checked" in own.attributes]


def test_texts_are_stored_with_their_lines_and_without_controls(person):
    assert person.write(1, "interpretation", "one\r\ntwo\rthree\x00\x07\u202e\tend").status_code == 200
    assert stored(person) == [("text", 0, "interpretation", "one\ntwo\nthree\u202e\tend")]
    assert person.write(1, NOTE, "").status_code == 200


def test_what_does_not_apply_is_not_taken(person):
    assert "not asked" in refused(person.answer(1, 7, "effect_size_gap", 1), 409)
    person.answer(1, 7, "logit_consistency", 3)
    refused(person.answer(1, 7, "effect_size_gap", 1), 409)
    refused(person.answer(1, 11, "effect_size_gap", 1), 409)
    person.answer(1, 7, "logit_consistency", 2)
    assert person.answer(1, 7, "effect_size_gap", 1).status_code == 200


BAD_ANSWERS = [
    ({"value": "4"}, 422),
    ({"value": "-1"}, 422),
    ({"value": "1.0"}, 422),
    ({"value": "٣"}, 422),
    ({"value": "1" * 5000}, 422),
    ({"question": "confidenc"}, 422),
    ({"question": "interpretation"}, 422),
    ({"question": ""}, 422),
    ({"unit": "8"}, 422),
    ({"unit": "0"}, 422),
    ({"unit": "x"}, 422),
    ({"unit": "9" * 5000}, 422),
    ({"nonce": ""}, 400),
    ({"nonce": "short"}, 400),
    ({"nonce": "x" * 65}, 400),
    ({"nonce": "ä" * 20}, 400),
    ({"seconds": "x"}, 400),
    ({"seconds": "nan"}, 400),
    ({"seconds": "inf"}, 400),
    ({"seconds": "-1"}, 400),
]


def test_bad_answers_are_refused(person):
    for fields, status in BAD_ANSWERS:
        refused(person.post("/item/1/answer", **({"unit": 7, "question": "confidence", "value": 1} | fields)), status)
    assert not stored(person)


@pytest.mark.parametrize("fields", [{"question": "confidence"}, {"question": ""}, {"value": "x" * (LONGEST_TEXT + 1)}])
def test_bad_texts_are_refused(person, fields):
    refused(person.post("/item/1/text", **({"question": NOTE, "value": "x"} | fields)), 422)
    assert not stored(person)


def test_the_longest_text_fits(person):
    assert person.write(1, NOTE, "𝔘" * LONGEST_TEXT).status_code == 200
    assert person.page().all("textarea")[1].text == "\n" + "𝔘" * LONGEST_TEXT


def test_there_are_no_other_items(person):
    for n in ("0", "8", "-1", "01", "1e0", "٣", "9" * 5000, "key.json", "%2e%2e", ""):
        for method, path in (("GET", f"/item/{n}"), ("POST", f"/item/{n}/answer")):
            token = {"csrf": person.csrf(), "nonce": fresh()} if method == "POST" else None
            refused(person.client.request(method, path, data=token, headers={"HX-Request": "true"}), 404)


def test_forms_that_are_none(person):
    token = person.csrf()

    def sent(content, type="application/x-www-form-urlencoded"):
        headers = {"Content-Type": type, "HX-Request": "true"}
        return person.client.post("/item/1/answer", content=content, headers=headers)

    refused(sent(b"{}", "application/json"), 415)
    refused(sent(b"x", "multipart/form-data; boundary=x"), 415)
    refused(sent(b"csrf=%ff"), 400)
    refused(sent(b"csrf=\xff"), 400)
    refused(sent(f"csrf={token}&csrf={token}".encode()), 400)
    refused(sent(b"&".join(b"a%d=1" % i for i in range(600))), 400)
    refused(sent(b"csrf=" + b"x" * MOST_BYTES), 413)
    refused(sent(iter([b"csrf=", *[b"x" * 1024] * 70])), 413)
    refused(sent(b""), 409)
    assert not stored(person)


def _sent_in_part(person, then, headers=()):
    """(status, headers) of what is answered to a POST of which one byte comes, and `then`."""
    app = make_app(person.study, person.store)
    parts, sent = iter([{"type": "http.request", "body": b"c", "more_body": True}]), []
    given = {"host": "127.0.0.1", "content-type": "application/x-www-form-urlencoded", "content-length": "10"}
    lines = [(key.encode(), own.encode()) for key, own in (given | dict(headers)).items()]
    scope = {"type": "http", "method": "POST", "path": "/undo", "query_string": b"", "headers": lines}

    async def receive():
        return next(parts, None) or await then()

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


def test_a_form_that_does_not_arrive(person, monkeypatch):
    monkeypatch.setattr("jsaeval.rating.server.forms.MOST_SECONDS", 0.05)
    cookie = {"cookie": f"jsaeval-{person.study.id}={person.secret}"}

    async def gone():
        return {"type": "http.disconnect"}

    async def read():
        raise AssertionError("a form of somebody unknown was read")

    for then, headers, status in (
        (asyncio.Event().wait, cookie, 408),
        (gone, cookie, 400),
        (read, {}, 401),
        (read, {"sec-fetch-site": "cross-site"}, 403),
    ):
        found, answered = _sent_in_part(person, then, headers)
        assert found == status and answered[b"connection"] == b"close"
    assert not stored(person)


def test_other_methods_are_refused(person):
    posted = [f"/item/1/{own}" for own in ("answer", "text", "save", "skip")] + ["/undo"]
    shown = ["/", "/item/1", "/done", "/help"]
    for method, paths in {"GET": posted, "PUT": posted + shown, "POST": shown, "DELETE": shown, "TRACE": shown}.items():
        for path in paths:
            refused(person.client.request(method, path, headers={"HX-Request": "true"}), 405)


# Undo, skip, back.


def test_undo_leads_to_what_was_undone(person):
    person.answer(1, 7, "confidence", 1)
    person.answer(1, 7, "confidence", 2)
    person.write(2, "interpretation", "money")
    answer = person.post("/undo")
    assert (answer.status_code, answer.headers["location"]) == (303, "/item/2?undone=interpretation")
    page = person.page(answer.headers["location"])
    assert page.all("textarea")[0].text == "\n"
    assert page.one("p", class_="flash").text.startswith("Undone: What does it respond to?")
    nonce = fresh()
    for _ in range(2):  # sent again, it undoes nothing more
        answer = person.post("/undo", nonce=nonce)
        assert answer.headers["location"] == "/item/1?undone=7.confidence"
    page = person.page(answer.headers["location"])
    assert [own.attributes["value"] for own in page.all("input") if "checked" in own.attributes] == ["1"]
    assert [own.attributes["id"] for own in page.all("fieldset") if "data-undone" in own.attributes] == ["7.confidence"]
    person.post("/undo")
    assert "nothing to undo" in refused(person.post("/undo"), 409)


def test_undo_does_not_reach_other_raters(served):
    ada, bob = Person(served.study, served.store, "Ada"), Person(served.study, served.store, "Bob")
    ada.answer(1, 7, "confidence", 1)
    refused(bob.post("/undo"), 409)
    assert len(stored(ada)) == 1


@pytest.mark.parametrize("undone", ["<script>alert(1)</script>", "7.nothing", "99.confidence", "x" * 3000])
def test_what_a_link_says_was_undone_is_not_believed(person, undone):
    answer = person.client.get("/item/1", params={"undone": undone})
    assert undone not in answer.text and "Undone" not in answer.text


def test_skip_and_its_undo(person):
    answer = person.post("/item/1/skip", reason="language", more="  Thai,\r\nI <think> ")
    assert (answer.status_code, answer.headers["location"]) == (303, "/item/2")
    (event,) = person.store.events()
    assert (event.kind, event.value) == ("skip", f"{REASONS['language']}: Thai,\nI <think>")
    assert person.client.get("/").headers["location"] == "/item/2"
    page = person.page()
    assert "Thai,\nI <think>. An answer takes that back." in page.one("p", class_="flash").text
    assert "This one is skipped" in page.one("p", id="progress").text
    assert person.post("/undo").headers["location"] == "/item/1"
    assert not person.page().all("p", class_="flash")
    person.post("/item/1/skip", reason="other")
    person.answer(1, 7, "confidence", 1)
    assert not person.page().all("p", class_="flash")
    assert person.post("/item/7/skip", reason="other").headers["location"] == "/done"


@pytest.mark.parametrize("fields", [{}, {"reason": "mood"}, {"reason": "other", "more": "x" * (LONGEST_REASON + 1)}])
def test_a_skip_needs_a_reason(person, fields):
    refused(person.post("/item/1/skip", **fields), 422)
    assert not stored(person)


# Without scripts.


def test_without_scripts_a_form_saves_all_of_it(person):
    def submit(page, then, **changes):
        form = page.one("form", id="answers")
        fields = {own.attributes["name"]: own.attributes["value"] for own in form.all("input", type="hidden")}
        fields |= {
            own.attributes["name"]: own.attributes["value"] for own in form.all("input") if "checked" in own.attributes
        }
        fields |= {own.attributes["name"]: own.text.removeprefix("\n") for own in form.all("textarea")}
        return person.client.post(form.attributes["action"], data=fields | {"then": then} | changes)

    page = person.page()
    assert [own.text for own in page.one("noscript").all("button")] == ["Save", "Save and go on"]
    changes = {
        "7.confidence": "1",
        "7.logit_consistency": "3",
        "7.effect_size_gap": "1",
        "text.interpretation": "a\r\nb",
    }
    for _ in range(2):  # a form sent twice
        answer = submit(page, "stay", **changes)
        assert (answer.status_code, answer.headers["location"]) == (303, "/item/1")
    # The gap does not apply to full marks, and is left out.
    wanted = [
        ("answer", 7, "confidence", "1"),
        ("answer", 7, "logit_consistency", "3"),
        ("text", 0, "interpretation", "a\nb"),
    ]
    assert stored(person) == wanted
    changed = submit(person.page(), "next", **{"7.logit_consistency": "2", "7.effect_size_gap": "1"})
    assert changed.headers["location"] == "/item/2"
    assert stored(person)[3:] == [("answer", 7, "logit_consistency", "2"), ("answer", 7, "effect_size_gap", "1")]
    assert submit(person.page(), "next").headers["location"] == "/item/2" and len(stored(person)) == 5
    for bad in (
        {"7.confidence": "9"},
        {"text.nothing": "x"},
        {"text.note": "x" * 4001},
        {"nonce": "x", "7.confidence": "3"},
    ):
        answer = submit(person.page(), "stay", **bad)
        assert answer.status_code in (400, 422) and len(stored(person)) == 5
        assert tree(answer.text).all("p")[0].text.endswith(".")


def test_undo_and_skip_are_forms(person):
    page = person.page()
    actions = {own.attributes.get("action"): own.attributes.get("method") for own in page.all("form")}
    assert actions == {"/item/1/save": "post", "/undo": "post", "/item/1/skip": "post", None: "dialog"}
    person.answer(1, 7, "confidence", 1)
    form = next(own for own in page.all("form") if own.attributes.get("action") == "/undo")
    fields = {own.attributes["name"]: own.attributes["value"] for own in form.all("input")}
    assert person.client.post("/undo", data=fields).status_code == 303
    assert [own[0] for own in stored(person)] == ["answer", "undo"]
