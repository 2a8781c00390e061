"""The server as a process: how it starts and ends, and that nothing that it confirmed is lost."""

import http.client
import os
import random
import re
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
import tyro

from jsaeval.cli.rate_serve import RateServe, rate_serve
from jsaeval.errors import InputError
from jsaeval.rating.queue import queue_of
from jsaeval.rating.serve import is_loopback, serve
from jsaeval.rating.study import FOLDER, KEY, study_folder
from tests.rating.serving import Line, Process
from tests.rating.studies import make_study, on_disk


def small():
    return make_study(12, repeats=0.1, windows=1, length=3)


def test_it_serves_until_a_signal(tmp_path):
    served = on_disk(tmp_path, small())
    (tmp_path / FOLDER / KEY).touch(mode=0)
    with Process(tmp_path, ("Ada", "Bob B.")) as first:
        assert list(first.links) == ["Ada", "Bob B."] and "Ctrl+C" in first.last_line
        ada = Line(first.links["Ada"])
        assert ada.post("/item/1/answer", unit=7, question="confidence", value=2)[0] == 200
        assert first.stop(signal.SIGINT) == (0, "")
    # Links and pages stay good, here for the folder of the study itself and at the same port.
    with Process(tmp_path / FOLDER, port=first.port) as second:
        again = Line(first.links["Ada"])
        assert b"checked" in again.get("/item/1")[2]
        ada.close()
        assert ada.post("/item/1/answer", unit=7, question="specificity", value=2)[0] == 200
        with pytest.raises(
            InputError, match=rf"cannot listen at 127.0.0.1:{first.port} \(.*in use.*\); another --port"
        ):
            serve(tmp_path, ["me"], port=first.port)
        _ask_nonsense(second.port)
        assert again.get("/item/1")[0] == 200
        ada.close()
        again.close()
        assert second.stop(signal.SIGTERM) == (0, "")
    assert [own.value for own in served.store.events("Ada")] == ["2", "2"]
    assert served.store.raters() == ["Ada", "Bob B.", "me"]


def test_revoked_links_are_good_no_longer(tmp_path):
    served = on_disk(tmp_path, small())
    old, other = served.store.new_link("Ada"), served.store.new_link("Bob")
    with pytest.raises(InputError, match="--revoke Adda: there is no such rater; known are Ada, Bob"):
        serve(tmp_path, ["Ada"], port=0, revoked=["Bob", "Adda"])
    assert served.store.rater_of(old) == "Ada" and served.store.rater_of(other) == "Bob"  # all or none
    with Process(tmp_path, ("Ada",), revoke=("Ada",)) as server:
        ada = Line(server.links["Ada"])  # the new one
        assert ada.get(f"/r/{other}")[0] == 303 and ada.get(f"/r/{old}")[0] == 404
        served.store.revoke(["Ada"])  # by another process, while this one serves
        assert ada.get("/item/1")[0] == 401
        ada.close()
    assert served.store.raters() == ["Bob"]


def test_half_sent_forms_keep_nobody_out(tmp_path):
    on_disk(tmp_path, small())
    with Process(tmp_path, ("Ada",)) as server:
        ada, held = Line(server.links["Ada"]), []
        head = "POST /undo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n"
        head += "Content-Type: application/x-www-form-urlencoded\r\n"
        for i in range(260):
            held.append(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            held[-1].sendall(f"{head}{f'Cookie: {ada.cookie}' if i % 2 else 'X: x'}\r\n\r\nc".encode())
        ada.close()
        assert ada.post("/item/1/answer", unit=7, question="confidence", value=2)[0] == 200
        for own in held[::2]:  # nobody's: answered and closed, without the rest of it
            with own.makefile("rb") as answer:
                assert answer.read().startswith(b"HTTP/1.1 401")
        for own in held[1::2]:  # given up
            own.close()
        for own in held[::2]:
            own.close()
        assert ada.get("/item/1")[0] == 200
        ada.close()
        assert server.stop() == (0, "")


@pytest.mark.parametrize("allowed", [(), ("rate.lab.example",)])
def test_https_of_a_proxy_is_believed_where_there_is_one(tmp_path, allowed):
    on_disk(tmp_path, small())
    with Process(tmp_path, ("Ada",), allow_host=allowed) as server:
        link = urlsplit(server.links["Ada"])
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", link.path, headers={"X-Forwarded-Proto": "https"})
        cookie = connection.getresponse().headers["set-cookie"]
        connection.close()
        assert ("Secure" in cookie) == bool(allowed)


def test_flags():
    assert tyro.cli(RateServe, args=["x", "--revoke", "a", "--revoke", "b"]) == RateServe("x", revoke=("a", "b"))
    words = ["runs/x", "--rater", "Ada", "--rater", "Bob B.", "--port", "0", "--allow-host", "a.example"]
    assert tyro.cli(RateServe, args=words) == RateServe("runs/x", ("Ada", "Bob B."), port=0, allow_host=("a.example",))
    assert tyro.cli(RateServe, args=["x"]) == RateServe("x")


def _ask_nonsense(port):
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /item/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /undo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as own:
            try:
                own.sendall(raw)
                assert own.recv(100).split()[1] in (b"400", b"404", b"421", b"431")
            except ConnectionError:
                pass


def test_other_addresses_are_warned_of(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("jsaeval.cli.rate_serve.serve", lambda *arguments: asked.append(arguments))
    rate_serve(RateServe(str(tmp_path), ("Ada",)))
    assert capsys.readouterr().err == ""
    rate_serve(RateServe(str(tmp_path), host="0.0.0.0", allow_host=("rate.lab.example",)))
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "unencrypted" in error and "--host 0.0.0.0" in error
    assert [own[1] for own in asked] == [("Ada",), ("me",)] and asked[1][-2:] == (("rate.lab.example",), ())
    assert [is_loopback(own) for own in ("localhost", "127.0.0.9", "::1", "::", "10.0.0.1", "lab")] == 3 * [
        True
    ] + 3 * [False]


def test_what_cannot_be_served(tmp_path):
    with pytest.raises(InputError, match="makes a study"):
        study_folder(tmp_path)
    on_disk(tmp_path, small())
    assert study_folder(tmp_path) == study_folder(tmp_path / FOLDER) == tmp_path / FOLDER
    for rater in ("", " Ada", "a\nb", "x" * 65):
        with pytest.raises(InputError, match="rater"):
            serve(tmp_path, [rater], port=0)
    for host, port in (("127.0.0.1", 70000), ("no.such.host.invalid", 0), ("203.0.113.7", 0), ("x" * 300, 0)):
        with pytest.raises(InputError, match="--port"):
            serve(tmp_path, ["me"], host=host, port=port)


def _started(folder, names, port):
    try:
        return Process(folder, names, port=port)
    except RuntimeError:  # somebody has it
        return None


@pytest.mark.slow
def test_kill_9_loses_and_doubles_nothing(tmp_path):
    """Twenty times, at random moments, while eight raters answer, who send again what was not confirmed."""
    study = make_study(40, windows=1, length=3, rated=(2, 5, 8, 11))
    served = on_disk(tmp_path, study)
    names = tuple(f"rater {i}" for i in range(8))
    confirmed: dict[str, list[tuple[str, str, int, str]]] = {name: [] for name in names}
    failures, draw, done = [], random.Random(1), threading.Event()

    def rate(name, link):
        try:
            line, own = Line(link), random.Random(name)
            queue = queue_of(study, name)
            while not done.is_set():
                n, unit, value = own.randint(1, len(queue)), own.choice((2, 5, 8, 11)), str(own.randint(0, 3))
                fields = {"unit": unit, "question": "confidence", "value": value}
                nonce = line.persist(f"/item/{n}/answer", within=600, **fields)
                confirmed[name].append((nonce, queue[n - 1].item, unit, value))
            line.close()
        except BaseException as error:
            failures.append(error)
            raise

    # Not a port that the system gives to those who connect: one of them could get it, while nobody listens, and so be
    # connected with itself.
    ports = draw.sample(range(20000, 30000), 20)
    server = next(own for port in ports if (own := _started(tmp_path, names, port)))
    port, threads = server.port, [threading.Thread(target=rate, args=own, daemon=True) for own in server.links.items()]
    for own in threads:
        own.start()
    sent = 0
    for _ in range(20):
        end = time.monotonic() + 60
        while sum(map(len, confirmed.values())) == sent:  # there is something to lose
            assert not failures and time.monotonic() < end
            time.sleep(0.01)
        time.sleep(draw.random())
        server.kill()
        assert not failures
        sent = sum(map(len, confirmed.values()))
        server = Process(tmp_path, ("nobody",), port=port)
    time.sleep(1)
    done.set()
    for own in threads:
        own.join(60)
    code, errors = server.stop()
    assert (code, errors) == (0, "") and not failures
    for name in names:
        stored = [(own.nonce, own.item, own.interval, own.value) for own in served.store.events(name)]
        assert stored == confirmed[name]  # none lost, none twice, in order, and none that nobody sent
    print(f"\n20 kills, {sum(map(len, confirmed.values()))} confirmed answers: none lost, none twice")


@pytest.mark.slow
def test_sixteen_raters_for_a_minute(tmp_path):
    study = make_study(200, repeats=0.1)
    served = on_disk(tmp_path, study)
    names = tuple(f"rater {i}" for i in range(16))
    taken, pages, failures = [], [], []

    def rate(name, link, start):
        try:
            line, draw = Line(link), random.Random(name)
            questions = [(unit, own) for unit in (11, 7, 3) for own in study.rubric.questions if own.only_if is None]
            for i in range(120):
                time.sleep(max(0, start + i / 2 - time.monotonic()))
                n, at = divmod(i, len(questions))
                unit, question = questions[at]
                if at == 0:
                    before = time.monotonic()
                    assert line.get(f"/item/{n + 1}")[0] == 200
                    pages.append(time.monotonic() - before)
                before = time.monotonic()
                fields = {"unit": unit, "question": question.id, "value": draw.randint(0, question.highest)}
                status, _, body = line.post(f"/item/{n + 1}/answer", **fields)
                taken.append(time.monotonic() - before)
                assert status == 200, body
            line.close()
        except BaseException as error:
            failures.append((name, error))
            raise

    with Process(tmp_path, names) as server:
        start = time.monotonic() + 3
        starts = [start + i / 32 for i in range(16)]
        threads = [
            threading.Thread(target=rate, args=(*own, at)) for own, at in zip(server.links.items(), starts, strict=True)
        ]
        for own in threads:
            own.start()
        for own in threads:
            own.join(120)
        assert server.stop() == (0, "")
    assert not failures and len(taken) == len(served.store.events()) == 16 * 120
    low, high = np.percentile(taken, [50, 99]) * 1000
    page_low, page_high = np.percentile(pages, [50, 99]) * 1000
    load = os.getloadavg()[0]
    print(
        f"\n{len(taken)} answers: p50 {low:.1f} ms, p99 {high:.1f} ms; {len(pages)} pages: p50 {page_low:.1f} ms,",
        end=" ",
    )
    print(f"p99 {page_high:.1f} ms; load of the machine {load:.1f}")
    assert high < 100


@pytest.mark.slow
def test_the_first_item_comes_within_300_ms(tmp_path):
    """Everything that a browser asks for, one after the other, through new connections."""
    on_disk(tmp_path, make_study(200, windows=5))
    with Process(tmp_path) as server:
        taken, size = [], 0
        for _ in range(5):
            before, size = time.monotonic(), 0
            line = Line(server.links["me"])
            line.close()
            _, _, page = line.get("/item/1")
            size = len(page)
            for path in set(http_links(page.decode())):
                status, _, body = line.get(path)
                assert status == 200
                size += len(body)
            line.close()
            taken.append(time.monotonic() - before)
    print(f"\nfirst item: {size} B, {1000 * np.median(taken):.0f} ms (median of 5), {1000 * max(taken):.0f} ms (most)")
    assert np.median(taken) < 0.3 and size < 100_000


def http_links(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
