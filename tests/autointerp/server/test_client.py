"""A client against a server on a real socket: what stops it, what does not, and what is never asked twice."""

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from jsaeval.autointerp.server import client
from jsaeval.autointerp.server.calls import Answer, Budget, CallError
from jsaeval.autointerp.server.chat import answered_text, chat_call
from jsaeval.autointerp.server.client import Server
from jsaeval.errors import InputError
from jsaeval.run.checkpoint import Stopped
from tests.autointerp.server.conftest import SECRET
from tests.autointerp.server.fake_server import Fake, Reply, chat, error


def calls(n, most=10):
    return [chat_call([{"role": "user", "content": f"question {i}"}], most) for i in range(n)]


def nth(*replies):
    """The n-th request gets the n-th reply; later ones the usual answer."""
    return lambda path, body, n: replies[n] if n < len(replies) else None


def test_answers_in_order(fake, connect):
    fake.usual = lambda body: body["messages"][0]["content"].upper()
    server = connect(fake)
    answers = server.answers(calls(20))
    assert [answered_text(own) for own in answers] == [f"QUESTION {i}" for i in range(20)]
    assert all((own.prompt_tokens, own.completion_tokens) == (20, 5) for own in answers)
    assert server.budget.spent_calls == 20 and server.budget.spent_tokens == 20 * 25
    assert server.answered == 20 and server.pace > 0
    assert {body["model"] for _, body in fake.requests} == {"small"}
    assert {path for path, _ in fake.requests} == {"/v1/chat/completions"}


def test_equal_calls_are_made_once(fake, connect):
    server = connect(fake)
    assert len(server.answers(calls(3) + calls(3))) == 6
    assert len(fake.requests) == 3


def test_kept_answers_need_no_server(fake, connect, tmp_path):
    first = connect(fake).answers(calls(5))
    fake.answer = lambda path, body, n: error(500, "gone")
    second = connect(fake)
    assert second.answers(calls(5)) == first
    assert (second.answered, second.found, len(fake.requests)) == (0, 5, 5)
    assert second.pace is not None


def test_another_model_and_another_address_have_answers_of_their_own(fake, connect):
    connect(fake).answers(calls(1))
    connect(fake, model="large").answers(calls(1))
    assert len(fake.requests) == 2
    moved = Server(fake.url.replace("127.0.0.1", "localhost"), "small", folder=connect(fake).folder)
    assert not moved.has(calls(1)[0])
    assert connect(fake).has(calls(1)[0])


def test_a_harmed_answer_is_asked_for_again(fake, connect, tmp_path):
    connect(fake).answers(calls(1))
    (path,) = (tmp_path / "answers").rglob("*.json")
    whole = json.loads(path.read_text())
    harmed = [
        '{"content": ',
        "[" * 200_000,
        "[]",
        *(json.dumps(whole | {"content": content}) for content in ({}, [], None, whole["content"] | {"text": None})),
        *(json.dumps(whole | {name: "many"}) for name in ("prompt_tokens", "seconds")),
    ]
    for n, text in enumerate(harmed, 2):
        path.write_text(text)
        assert not connect(fake).has(calls(1)[0])
        (answer,) = connect(fake).answers(calls(1))
        assert answered_text(answer) == "dogs" and len(fake.requests) == n
    assert connect(fake).has(calls(1)[0])


def test_concurrency_is_bounded(fake, connect):
    now, most, lock, three = [0], [0], threading.Lock(), threading.Barrier(3)

    def answer(path, body, n):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        if n:  # the first call is alone
            three.wait(30)
        with lock:
            now[0] -= 1

    fake.answer = answer
    connect(fake, concurrency=3).answers(calls(1 + 9))
    assert most[0] == 3


@pytest.mark.parametrize(
    "reply, message",
    [
        (error(401, f"Incorrect API key provided: {SECRET}"), "does not accept the key"),
        (error(403, "no"), "does not accept the key"),
        (error(404, "The model `small` does not exist", "model_not_found"), "did you mean 'smaller'"),
        (error(400, "no such model", "model_not_found"), "did you mean 'smaller'"),
        (error(429, "You exceeded your quota", "insufficient_quota"), "nothing is left to spend"),
    ],
)
def test_what_stops_everything_takes_one_call(fake, connect, reply, message):
    fake.models, fake.answer = ("smaller", "other"), lambda path, body, n: reply
    with pytest.raises(InputError, match=message) as raised:
        connect(fake).answers(calls(20))
    assert len(fake.requests) == 1
    assert SECRET not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("status", [400, 401])
def test_what_a_server_says_is_shown_in_a_line_without_control_characters(fake, connect, status):
    fake.answer = lambda path, body, n: error(status, "no\n\x1b[2J\ud800" + "x" * 10_000)
    try:
        (said,) = connect(fake).answers(calls(1))
    except InputError as error_:
        said = error_
    assert "no \\x1b[2J\\ud800xxx" in str(said) and str(said).isprintable() and len(str(said)) < 400


def test_names_of_models_are_shown_in_a_line(fake, connect):
    fake.models = ("a\x1b[2J", "b\ud800\n")
    with pytest.raises(InputError, match="--model: say which one") as raised:
        _ = connect(fake, model=None).name
    assert str(raised.value).isprintable()


def test_no_half_of_the_key_is_left_where_a_text_is_cut(fake, connect):
    half = SECRET[: len(SECRET) // 2]
    fake.answer = lambda path, body, n: error(400, "x" * (200 - len(half) - 1) + SECRET)
    (said,) = connect(fake).answers(calls(1))
    assert said.kind == "rejected" and half not in str(said)


def test_a_wrong_address(fake, connect):
    fake.answer = lambda path, body, n: Reply(404, b"<html>Not Found</html>")
    fake.models = ()
    with pytest.raises(InputError, match="is the address right"):
        connect(fake).answers(calls(1))


def test_unreachable():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(InputError, match=f"--base-url {url}: cannot be reached"):
            Server(url, "small", backoff=0.001).answers(calls(3))
        with pytest.raises(InputError, match="cannot be reached"):
            _ = Server(url).name


@pytest.mark.parametrize(
    "url, message",
    [
        ("localhost:8000", "an address such as"),
        ("ftp://host/v1", "an address such as"),
        (f"http://user:{SECRET}@host/v1", "OPENAI_API_KEY"),
        (f"http://host/v1?key={SECRET}", "OPENAI_API_KEY"),
    ],
)
def test_addresses_that_are_none(url, message):
    with pytest.raises(InputError, match=message) as raised:
        Server(url, "small")
    assert SECRET not in str(raised.value)


def test_keys_that_are_none(monkeypatch, fake, connect):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u2013secret")
    with pytest.raises(InputError, match="holds characters that no key has") as raised:
        connect(fake).answers(calls(1))
    assert "secret" not in str(raised.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="needs a key"):
        Server(model="small")
    assert isinstance(connect(fake).answers(calls(1))[0], Answer)  # a local server needs none
    assert fake.keys == ["Bearer no-key"]


def test_the_only_model_needs_no_name(fake, connect):
    fake.models = ("only",)
    assert connect(fake, model=None).name == "only"
    for names, said in ((("small", "large"), "say which one"), ((), "does not say which models it has; name one")):
        fake.models = names
        with pytest.raises(InputError, match=f"--model: .*{said}"):
            _ = connect(fake, model=None).name


@pytest.mark.parametrize(
    "reply",
    [
        error(500, "oh"),
        error(503, "busy"),
        error(429, "slow down"),
        Reply(200, b"<html>"),
        Reply(200, b'{"choices": ['),
        Reply(200, b"[" * 200_000),
    ],
    ids=["500", "503", "429", "garbage", "cut", "nested"],
)
def test_tried_again(fake, connect, reply):
    fake.answer = nth(reply, reply)
    server = connect(fake)
    assert answered_text(server.answers(calls(1))[0]) == "dogs"
    assert len(fake.requests) == 3 and server.budget.spent_calls == 3
    assert not server.failures


def test_failures_are_counted_and_others_finish(fake, connect):
    replies = {
        "question 1": error(500, "oh"),
        "question 2": error(400, "too long"),
        "question 3": Reply(200, {"surprise": 1}),
        "question 4": error(429, "slow down", retry_after="1000"),
    }
    fake.answer = lambda path, body, n: replies.get(body["messages"][0]["content"])
    server = connect(fake, attempts=3)
    answers = server.answers(calls(8))
    kinds = [own.kind if isinstance(own, CallError) else "" for own in answers]
    assert kinds == ["", "server error", "rejected", "malformed", "rate limit", "", "", ""]
    assert server.failures == Counter({kind: 1 for kind in kinds if kind})
    assert server.summary().startswith("4 calls answered, 0 answers kept from before; 4 failed: 1 ")
    assert answers[1].detail == "HTTP 500: oh, 3 attempts"
    again = connect(fake, attempts=1)
    again.answers(calls(8))
    assert again.found == 4


def test_retry_after_is_honoured(fake, connect):
    fake.answer = nth(error(429, "slow down", retry_after="0.3"))
    began = time.monotonic()
    connect(fake).answers(calls(1))
    assert time.monotonic() - began >= 0.3


def test_timeouts(fake, connect):
    hold = threading.Event()
    fake.answer = nth(Reply(hold=hold))
    server = connect(fake, timeout=0.2, attempts=2)
    assert isinstance(server.answers(calls(1))[0], Answer)
    assert server.budget.spent_tokens == calls(1)[0].bound + 25  # it may have been worked on
    fake.answer = lambda path, body, n: Reply(hold=hold)
    (failed,) = server.answers(calls(2)[1:])
    hold.set()
    assert isinstance(failed, CallError) and (failed.kind, failed.detail) == (
        "timeout",
        "no answer within 0.2 s, 2 attempts",
    )


def test_no_more_calls_after_many_failures_in_a_row(fake, connect):
    fake.answer = lambda path, body, n: error(500, "down") if n else None
    with pytest.raises(InputError, match="25 calls in a row came to nothing"):
        connect(fake, attempts=1, concurrency=2).answers(calls(200))
    assert len(fake.requests) < 60


def test_the_budget_of_calls_is_never_exceeded(fake, connect):
    fake.answer = nth(error(500, "oh"))
    server = connect(fake, budget=Budget(calls=4))
    answers = server.answers(calls(10))
    assert len(fake.requests) == 4
    assert sum(isinstance(own, Answer) for own in answers) == 3 and server.failures["budget"] == 7
    assert len(connect(fake, budget=Budget(calls=7)).answers(calls(10))) == 10
    assert len(fake.requests) == 4 + 7


def test_the_budget_of_tokens_is_never_exceeded(fake, connect):
    bound = calls(1)[0].bound
    server = connect(fake, budget=Budget(tokens=5 * 25 + bound - 1))
    server.answers(calls(10))
    assert len(fake.requests) <= 5 and server.budget.spent_tokens <= 5 * 25 + bound - 1
    assert server.failures["budget"] == 10 - len(fake.requests) > 0


def test_parameters_are_adapted(fake, connect):
    def answer(path, body, n):
        if "max_tokens" in body:
            return error(400, "Unsupported parameter: 'max_tokens'; use 'max_completion_tokens'")
        if "temperature" in body:
            return error(400, "'temperature' does not support 0 with this model")

    fake.answer = answer
    server = connect(fake)
    assert all(isinstance(own, Answer) for own in server.answers(calls(10)))
    assert len(fake.requests) == 12 and not server.failures
    assert fake.requests[-1][1]["max_completion_tokens"] == 10


@pytest.mark.parametrize("key", ["o", "none", "lm-studio"])
def test_a_word_in_place_of_a_key_stays_in_answers(fake, connect, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    fake.usual = lambda body: "none of the dogs of lm-studio"
    fake.answer = lambda path, body, n: error(400, "no temperature other than 1") if "temperature" in body else None
    server = connect(fake)
    assert [answered_text(own) for own in server.answers(calls(3))] == ["none of the dogs of lm-studio"] * 3
    assert not server.failures and set(fake.keys) == {f"Bearer {key}"}


def test_the_key_is_nowhere_but_in_the_header(fake, connect, tmp_path, caplog, capfd):
    fake.usual = lambda body: f"your key is {SECRET}"
    fake.answer = nth(error(500, f"key {SECRET}"))
    caplog.set_level(logging.DEBUG)
    server = connect(fake)
    answers = server.answers(calls(2))
    fake.answer = lambda path, body, n: error(400, f"key {SECRET}")
    answers += server.answers(calls(3)[2:])
    assert set(fake.keys) == {f"Bearer {SECRET}"}
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "your key is" in written
    for text in (written, caplog.text, repr(server), server.summary(), repr(answers), *map(str, capfd.readouterr())):
        assert SECRET not in text


def test_progress_counts_the_calls_that_are_made(fake, connect):
    steps = []
    connect(fake).answers(calls(2))
    server = connect(fake, progress=lambda *step: steps.append(step))
    for n in (2, 5, 9):
        server.answers(calls(n))
    assert steps == [("calls", 1, 0)] * 7


def test_stopped_between_calls_and_nothing_is_lost(fake, connect):
    wanted, three = threading.Event(), threading.Barrier(3)

    def answer(path, body, n):
        if 1 <= n <= 3:  # three are under way when it is to stop
            three.wait(30)
            wanted.set()

    def stop():
        if wanted.is_set():
            raise Stopped

    fake.answer = answer
    server = connect(fake, concurrency=3, stop=stop)
    with pytest.raises(Stopped):
        server.answers(calls(100))
    asked = len(fake.requests)
    assert 4 <= asked < 50 and server.answered == asked
    assert sum(connect(fake).has(call) for call in calls(100)) == asked
    again = connect(fake)
    assert len(again.answers(calls(100))) == 100
    assert (again.found, len(fake.requests)) == (asked, 100)


@pytest.mark.parametrize("alone", [True, False])
def test_stopped_while_it_waits(fake, connect, monkeypatch, alone):
    monkeypatch.setattr(client, "_LOOK", 0.05)
    wanted = threading.Event()

    def answer(path, body, n):
        if n or alone:
            wanted.set()
            return error(429, "slow down", retry_after="100")

    def stop():
        if wanted.is_set():
            raise Stopped

    fake.answer = answer
    began = time.monotonic()
    with pytest.raises(Stopped):
        connect(fake, stop=stop).answers(calls(4))
    assert time.monotonic() - began < 20


CHILD = """
import sys
from pathlib import Path
from jsaeval.autointerp.server.chat import chat_call
from jsaeval.autointerp.server.client import Server
calls = [chat_call([{"role": "user", "content": f"question {i}"}], 10) for i in range(20)]
Server(sys.argv[1], "small", concurrency=2, folder=Path(sys.argv[2])).answers(calls)
"""


def test_a_killed_run_repeats_no_answered_call(fake: Fake, connect, tmp_path):
    hold, reached = threading.Event(), threading.Event()

    def answer(path, body, n):
        if n >= 7:
            reached.set()
            return Reply(hold=hold)

    fake.answer = answer
    child = subprocess.Popen([sys.executable, "-c", CHILD, fake.url, str(tmp_path / "answers")])
    assert reached.wait(60)
    deadline = time.monotonic() + 10
    while len(list((tmp_path / "answers").rglob("*.json"))) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    hold.set()
    before = [json.dumps(body) for _, body in fake.requests]
    fake.answer = lambda path, body, n: None
    assert all(isinstance(own, Answer) for own in connect(fake).answers(calls(20)))
    after = [json.dumps(body) for _, body in fake.requests[len(before) :]]
    answered = set(before[:7])
    assert not answered & set(after)
    assert len(after) == 13
    assert not list((tmp_path / "answers").rglob(".*"))


def test_refusals_and_cut_answers():
    def reading(**how):
        call = calls(1)[0]
        return answered_text(Answer(call.keep(chat(**how)), 1, 1, 0.0))

    assert reading(text=" dogs ") == "dogs"
    assert reading(text="<think>cats?</think>\ndogs") == "dogs"
    for how, kind in (
        ({"text": None, "refusal": "I will not"}, "refused"),
        ({"text": "I'm sorry, but I can't help"}, "refused"),
        ({"text": "", "finish": "content_filter"}, "refused"),
        ({"text": "dogs and", "finish": "length"}, "truncated"),
        ({"text": " "}, "malformed"),
        ({"text": "dogs", "refusal": ["no"]}, "malformed"),
        ({"text": None, "refusal": "no \ud800\x1b[2J" * 1000}, "refused"),
        ({"text": "dogs \ud800\x1b[2J" * 1000, "finish": "length"}, "truncated"),
    ):
        with pytest.raises(CallError) as raised:
            reading(**how)
        assert raised.value.kind == kind
        assert str(raised.value).isprintable() and len(str(raised.value)) < 150


@pytest.mark.parametrize(
    "text",
    [
        "I’m sorry, but I can’t assist with that request.",
        "Sorry, I can't help with that.",
        "Sorry, but I need more examples.",
        "I apologize, but I cannot.",
        "I cannot\nprovide an explanation.",
        "I can't do that.",
        "I'm not able to fully explain it.",
        "As an AI language model, I cannot generate that.",
        "Unfortunately, I am unable to identify a pattern.",
        "I won't help.",
    ],
)
def test_declining(text):
    with pytest.raises(CallError, match="refused"):
        answered_text(Answer(calls(1)[0].keep(chat(text)), 1, 1, 0.0))


@pytest.mark.parametrize(
    "text",
    [
        "sorry, apologies and other words of regret",
        "I'm sorry: apologies",
        "sorry, but I: apologies that go on",
        "I can't / cannot: denials of ability",
        "I can't help but feel: idioms",
        "I won't, I will not: refusals",
        "as an AI: how chatbots speak of themselves",
    ],
)
def test_explanations_of_apologies_and_refusals_are_none(text):
    assert answered_text(Answer(calls(1)[0].keep(chat(text)), 1, 1, 0.0)) == text
