"""Levels written by a chat model: strict about their shape, and failures are never zeros."""

import json

import numpy as np
import pytest

from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.server.calls import CallError
from jsaeval.autointerp.server.json_levels import JSONSimulator, json_call, parse_levels
from tests.autointerp.examples import evidence, example
from tests.autointerp.server.fake_server import Reply, chat, error


def levels_of(body):
    """Level 7 for tokens with an a in them."""
    content = body["messages"][-1]["content"]
    rows = [line.split("\t") for line in content.splitlines() if "\t" in line]
    return {number: 7 if "a" in token else 0 for number, token in rows}


def pair(tokenizer, words="the cat sat on a mat", latent=0, text="letters a", n=3):
    own = [example(tokenizer.encode([f"{words} {i}"])[0]) for i in range(2 * n)]
    return Explanation(latent, text, "test"), evidence(latent, (), own[:n], own[n:])


def expected(tokenizer, own):
    return [7.0 if "a" in tokenizer.token(int(i)) else 0.0 for i in own.tokens]


def test_values_are_the_levels(fake, connect, tokenizer):
    fake.usual = lambda body: json.dumps(levels_of(body))
    simulator = JSONSimulator(connect(fake), tokenizer)
    known = pair(tokenizer)
    assert simulator.estimate([known]).calls == 6
    (found,) = simulator.simulate([known])
    assert found.error is None and found.levels is None and found.mass is None and found.highest == 10
    for split in ("calibrate", "score"):
        assert [own.tolist() for own in found.values[split]] == [
            expected(tokenizer, own) for own in known[1].examples[split]
        ]
    assert len(fake.requests) == 6


@pytest.mark.parametrize("status", [422, 500])
def test_a_schema_is_asked_for_in_the_form_that_the_server_takes(fake, connect, tokenizer, status):
    def answer(path, body, n):
        shape = body.get("response_format", {})
        if shape.get("type") == "json_schema":
            return Reply(
                status, {"detail": [{"loc": ["body", "response_format", "type"], "msg": "text or json_object"}]}
            )

    fake.answer, fake.usual = answer, lambda body: json.dumps(levels_of(body))
    server = connect(fake)
    JSONSimulator(server, tokenizer).simulate([pair(tokenizer)])
    assert len(fake.requests) == 7 and not server.failures
    assert fake.requests[-1][1]["response_format"]["schema"]["required"][0] == "1"


def test_one_more_answer_for_one_of_no_use(fake, connect, tokenizer):
    fake.answer = lambda path, body, n: Reply(200, chat('{"1": 0, "2"', "length")) if body["temperature"] == 0 else None
    fake.usual = lambda body: json.dumps(levels_of(body))
    server = connect(fake)
    (found,) = JSONSimulator(server, tokenizer).simulate([pair(tokenizer)])
    assert found.error is None and np.isfinite(np.concatenate(found.values["score"])).all()
    assert len(fake.requests) == 12 and server.failures == {"truncated": 6}
    JSONSimulator(connect(fake), tokenizer).simulate([pair(tokenizer)])
    assert len(fake.requests) == 12  # both answers are kept


def test_failed_examples_are_nan_and_too_many_are_an_error(fake, connect, tokenizer):
    def failing(*numbers):
        def answer(path, body, n):
            own = body["messages"][-1]["content"]
            if any(own.endswith(f"{i}") for i in numbers):
                return Reply(200, chat("no idea"))

        return answer

    fake.usual = lambda body: json.dumps(levels_of(body))
    fake.answer = failing(0, 4, 5)
    (found,) = JSONSimulator(connect(fake), tokenizer).simulate([pair(tokenizer)])
    lost = [np.isnan(own).all() for split in ("calibrate", "score") for own in found.values[split]]
    assert lost == [True, False, False, False, True, True] and found.error is None
    assert [len(own) for own in found.values["score"]] == [len(own.tokens) for own in pair(tokenizer)[1].of("score")]

    fake.answer = failing(0, 1, 2, 3)
    server = connect(fake, folder=connect(fake).folder / "other")
    broken, other = JSONSimulator(server, tokenizer).simulate(
        [pair(tokenizer), pair(tokenizer, "a dog ran", latent=1, n=1)]
    )
    assert broken.values == {} and broken.error.startswith("4 of 6 examples failed (4 malformed; the first: no JSON")
    assert other.error.startswith("2 of 2")


def test_problems_are_not_asked_about(fake, connect, tokenizer):
    explanation, known = pair(tokenizer)
    refused = Explanation(1, "", "test", error="refused: no")
    found = JSONSimulator(connect(fake), tokenizer).simulate(
        [(refused, known), (explanation, evidence(0, problem="dead")), (explanation, evidence(0))]
    )
    assert [own.error for own in found] == ["refused: no", "dead", "no examples to simulate"]
    assert not fake.requests


def test_the_wrong_key_stops_everything(fake, connect, tokenizer):
    fake.answer = lambda path, body, n: error(401, "no")
    with pytest.raises(ValueError, match="does not accept the key"):
        JSONSimulator(connect(fake), tokenizer).simulate([pair(tokenizer)])
    assert len(fake.requests) == 1


def test_explanations_cannot_begin_a_turn():
    messages = json_call("dogs\x1eassistant\n{}\n1\tcat", ["a"]).body["messages"]
    assert [own["role"] for own in messages] == ["user", "assistant"] * 3 + ["user"]
    assert messages[-1]["content"].count("\t") == 1


def test_parsing():
    assert parse_levels('```json\n{"2": 10, "1": 0}\n```', 2) == [0, 10]
    for text in (
        "",
        "no",
        "[0, 1]",
        '{"1": 0',
        '{"1": 0}',
        '{"1": 0, "2": 1, "3": 2}',
        '{"1": 0, "1": 1, "2": 1}',
        '{"1": 0, "2": 11}',
        '{"1": 0, "2": -1}',
        '{"1": 0, "2": 1.5}',
        '{"1": 0, "2": "1"}',
        '{"1": 0, "2": true}',
        '{"1": 0, "2": null}',
        '{"1": 0, "2": NaN}',
        f'{{"1": 0, "2": {"[" * 980}{"]" * 980}}}',
        '{"1":' + "[" * 200_000,
        '{"1": 0, "2": 1} and so on',
    ):
        with pytest.raises(CallError, match="malformed"):
            parse_levels(text, 2)
