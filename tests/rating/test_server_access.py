"""Who is let in by the rating server, with which headers it answers, and what it opens."""

import sys

import pytest

from jsaeval.rating.server.static import load_assets
from jsaeval.rating.store import NOTE, Store
from jsaeval.rating.study import ANSWERS, FOLDER, KEY, STUDY, read_study
from tests.rating.browser import Person, browser, fresh, refused, stored, tree
from tests.rating.studies import make_study, on_disk


# Who is let in.


def test_the_link_sets_a_cookie_that_scripts_cannot_read(person):
    answer = person.client.get(f"/r/{person.secret}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    name, *attributes = answer.headers["set-cookie"].split("; ")
    assert name == f"jsaeval-{person.study.id}={person.secret}"
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(attributes)
    assert person.secret not in person.client.get("/item/1").text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_cookie_given_by_https_stays_there(person, scheme):
    answer = person.client.get(f"{scheme}://127.0.0.1/r/{person.secret}")
    assert ("Secure" in answer.headers["set-cookie"].split("; ")) == (scheme == "https")


@pytest.mark.parametrize("secret", ["wrong", "x" * 43, "%00", "a" * 5000, "%ff", "..%2f..%2fkey.json"])
def test_an_unknown_link_is_refused_in_a_sentence(served, secret):
    answer = browser(served.study, served.store).get(f"/r/{secret}")
    assert answer.status_code == 404 and not answer.cookies
    assert tree(answer.text).all("p")[0].text == (
        "There is no such page." if "2f" in secret else "This link is not known here."
    )


@pytest.mark.parametrize("path", ["/", "/item/1", "/done", "/help"])
def test_without_a_cookie_there_is_nothing(served, path):
    client = browser(served.study, served.store)
    assert client.get(path).status_code == 401
    client.cookies.set(f"jsaeval-{served.study.id}", "x" * 43)
    assert "Open the link" in client.get(path).text


def test_a_rater_with_two_links_has_one_queue(person):
    person.answer(1, 7, "confidence", 2)
    other = Person(person.study, person.store)
    assert [own.attributes["value"] for own in other.page().all("input") if "checked" in own.attributes] == ["2"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "", "127.0.0.1.evil.example", "localhost@evil.example", "a b", "[::1", "x:y"],
)
def test_other_host_names_are_refused(person, host):
    refused(person.client.get("/item/1", headers={"Host": host}), 421)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "192.168.1.7:99", "rate.lab.example"]
)
def test_addresses_and_known_names_are_allowed(served, host):
    client = browser(served.study, served.store, proxied=["rate.lab.example"])
    assert client.get("/help", headers={"Host": host}).status_code == 401


HOST = "127.0.0.1:8000"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "http://rate.lab.example.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none", "Origin": f"http://{HOST}"},
        {"Sec-Fetch-Site": "cross-site", "Origin": f"http://{HOST}"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    ],
)
def test_posts_of_other_sites_are_refused(person, headers):
    token = person.csrf()
    data = {"csrf": token, "nonce": fresh(), "unit": "7", "question": "confidence", "value": "1"}
    refused(person.client.post("/item/1/answer", data=data, headers=headers), 403)
    assert not stored(person)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": f"http://{HOST}"},
        {"Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "null"},
        {"Origin": "https://rate.lab.example"},
    ],
)
def test_posts_of_own_pages_are_taken(served, headers):
    person = Person(
        served.study, served.store, client=browser(served.study, served.store, proxied=["rate.lab.example"])
    )
    data = {"csrf": person.csrf(), "nonce": fresh(), "unit": "7", "question": "confidence", "value": "1"}
    assert person.client.post("/item/1/answer", data=data, headers=headers).status_code == 200


def test_two_raters_in_one_browser_do_not_write_into_each_other(served):
    client = browser(served.study, served.store)
    ada = Person(served.study, served.store, "Ada", client)
    hers = ada.csrf()
    bob = Person(served.study, served.store, "Bob", client)
    for path, fields in [
        ("/item/1/answer", {"unit": 7, "question": "confidence", "value": 1}),
        ("/item/1/text", {"question": NOTE, "value": "mine"}),
        ("/item/1/skip", {"reason": "unclear"}),
        ("/item/1/save", {"7.confidence": 1}),
        ("/undo", {}),
    ]:
        assert "Nothing was stored" in refused(bob.post(path, token=hers, **fields), 409)
        refused(bob.post(path, token="x", **fields), 409)
        refused(bob.post(path, token="ä", **fields), 409)
    assert not stored(ada, "Ada") and not stored(bob, "Bob")
    assert bob.answer(1, 7, "confidence", 1).status_code == 200
    assert stored(bob, "Bob") == [("answer", 7, "confidence", "1")] and not stored(ada, "Ada")
    ada.enter()
    assert ada.answer(1, 7, "confidence", 3).status_code == 200
    assert "rated by Ada" in ada.page().one("p", class_="about").text


# Headers, files.


def test_every_answer_has_the_headers(person):
    plain = ["/", "/item/1", "/item/99", "/done", "/help", "/nothing", "/undo", "/item/1/answer"]
    for path in [*plain, "/r/wrong", f"/r/{person.secret}", "/static/nothing"]:
        for method in ("GET", "POST"):
            headers = person.client.request(method, path).headers
            policy = dict(own.split(" ", 1) for own in headers["content-security-policy"].split("; "))
            assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["base-uri"] == "'none'" and "unsafe" not in str(policy)
            assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store" and "server" not in headers
            assert "content-encoding" not in headers


def test_pages_hold_no_script_and_no_style(person):
    for path in ("/item/1", "/done", "/help", "/nothing"):
        for own in tree(person.client.get(path).text).walk():
            assert own.tag != "style" and not any(name.startswith(("on", "style")) for name in own.attributes)
            assert own.tag != "script" or (own.attributes["src"].startswith("/static/") and not own.children)


def test_files_have_names_of_their_content(person):
    for own in person.page().all("script") + person.page().all("link", rel="stylesheet"):
        url = own.attributes.get("src") or own.attributes["href"]
        packed = person.client.get(url)
        plain = person.client.get(url, headers={"Accept-Encoding": "identity"})
        assert packed.content == plain.content and packed.headers["content-encoding"] == "gzip"
        assert "immutable" in plain.headers["cache-control"] and plain.headers["vary"] == "Accept-Encoding"
        assert plain.headers["content-type"].startswith(("text/javascript", "text/css"))
        stem, digits, suffix = url.removeprefix("/static/").split(".")
        assert person.client.get(f"/static/{stem}.{'0' * len(digits)}.{suffix}").status_code == 404


@pytest.mark.parametrize("name", ["page.js", "..%2fapp.py", "../app.py", "%2fetc%2fpasswd", "%2e%2e", ""])
def test_no_path_reaches_the_file_system(person, name):
    opened = []
    _watched.append(opened)
    try:
        assert person.client.get(f"/static/{name}").status_code == 404
    finally:
        _watched.remove(opened)
    assert not opened


_watched: list[list[str]] = []


def _hook(event, arguments):  # hooks cannot be removed: one for all tests, that is silent outside of them
    if event in ("open", "sqlite3.connect") and _watched:
        for own in _watched:
            own.append(str(arguments[0]))


sys.addaudithook(_hook)


@pytest.mark.parametrize("there", [True, False])
def test_the_key_is_never_opened(tmp_path, there):
    folder = on_disk(tmp_path, make_study(4, repeats=0.3, windows=1)).folder / FOLDER
    if there:
        (folder / KEY).write_text("{}")
    load_assets.cache_clear()
    opened = []
    _watched.append(opened)
    try:
        study = read_study(folder)
        person = Person(study, Store(folder / ANSWERS, study.id))
        for path in ("/", "/item/1", "/item/5", "/done", "/help", "/static/key.json", "/key.json", "/rating/key.json"):
            person.client.get(path)
        person.answer(1, 7, "confidence", 1)
        person.post("/item/2/skip", reason="other")
        person.post("/undo")
    finally:
        _watched.remove(opened)
    for name in ("htmx", STUDY, ANSWERS):  # the hook does see
        assert [own for own in opened if name in own]
    assert not [own for own in opened if KEY in own]


def test_a_failure_is_a_sentence(served, monkeypatch):
    person = Person(served.study, served.store)
    token = person.csrf()
    monkeypatch.setattr(served.store, "append", lambda *events: 1 / 0)
    client = browser(served.study, served.store, raises=False)
    client.cookies = person.client.cookies
    data = {"csrf": token, "nonce": fresh(), "unit": "7", "question": "confidence", "value": "1"}
    answer = client.post("/item/1/answer", data=data, headers={"HX-Request": "true"})
    assert "ZeroDivision" not in refused(answer, 500)
    assert answer.headers["cache-control"] == "no-store"
