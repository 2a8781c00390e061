"""Levels from echoed log-probabilities: aligned whatever the server's tokens are, and no convention taken on trust."""

import json
import math

import numpy as np
import pytest

from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.server.calls import CallError
from jsaeval.autointerp.server.echo import Echo, level_distribution, placeholders, shift_of, votes
from jsaeval.autointerp.server.logprobs import (
    LISTED,
    Echoing,
    LogprobSimulator,
    logprobs_call,
    probe_call,
    simulation_prompt,
)
from jsaeval.errors import InputError
from tests.autointerp.examples import evidence, example
from tests.autointerp.server.fake_server import Reply, echoed, error


TEXT = "the cat sat on\n\na\tmattress é犬\\ and ran"


def distribution(token):
    """Over the levels: depends on the token, so that a shift by one would show."""
    raw = np.random.default_rng(sum(map(ord, token))).random(11)
    return raw / raw.sum()


def up_to_nine(token):
    raw = distribution(token)[:10]
    return raw / raw.sum()


def pair(tokenizer, latent=0, text="letters a", n=2, words=TEXT):
    own = [example(tokenizer.encode([f"{words} {i}"])[0]) for i in range(2 * n)]
    return Explanation(latent, text, "test"), evidence(latent, (), own[:n], own[n:])


def shown(tokenizer, own):
    from jsaeval.autointerp.server.shown import token_texts

    return token_texts(tokenizer, own.tokens)


@pytest.mark.parametrize("shift", [0, 1])
def test_expected_levels_under_both_conventions(fake, connect, tokenizer, shift):
    fake.shift, fake.levels = shift, distribution
    simulator = LogprobSimulator(connect(fake), tokenizer)
    known = pair(tokenizer)
    assert simulator.estimate([known]).calls == 5 and not fake.requests
    (found,) = simulator.simulate([known])
    assert simulator.probe() == Echoing(LISTED[0], shift, 10)
    assert found.error is None and abs(found.mass - 0.5) < 1e-6 and found.highest == 10
    for split in ("calibrate", "score"):
        for own, values, levels in zip(known[1].examples[split], found.values[split], found.levels[split], strict=True):
            right = np.array([distribution(token) for token in shown(tokenizer, own)])
            np.testing.assert_allclose(levels, right, atol=1e-6)
            np.testing.assert_allclose(values, right @ np.arange(11), atol=1e-6)
    assert len(fake.requests) == 5
    assert all(body["echo"] and body["max_tokens"] == 1 for _, body in fake.requests)


def test_servers_that_split_ten_get_a_scale_up_to_nine(fake, connect, tokenizer):
    fake.ten, fake.levels = False, up_to_nine
    simulator = LogprobSimulator(connect(fake), tokenizer)
    (found,) = simulator.simulate([known := pair(tokenizer)])
    assert simulator.probe().highest == 9
    prompt = fake.requests[-1][1]["prompt"]
    assert "\t10" not in prompt and "to 9" in prompt
    assert found.highest == 9
    for own, values, levels in zip(known[1].of("score"), found.values["score"], found.levels["score"], strict=True):
        right = np.array([up_to_nine(token) for token in shown(tokenizer, own)])
        assert levels.shape == (len(right), 11) and (levels[:, 10] == 0).all()
        np.testing.assert_allclose(levels[:, :10], right, atol=1e-6)
        np.testing.assert_allclose(values, right @ np.arange(10), atol=1e-6)


def test_the_distribution_by_hand():
    tops = [{"0": math.log(0.2), "10": math.log(0.3), "?": math.log(0.5), " 3": -1.0}, {"4": -2.0}]
    levels, mass = level_distribution(tops, 10)
    np.testing.assert_allclose(levels[0, [0, 10]], [0.4, 0.6], atol=1e-12)
    np.testing.assert_allclose(mass, [0.5, math.exp(-2)], atol=1e-12)
    assert levels[1, 4] == 1 and levels.sum() == 2
    levels, _ = level_distribution([{"9": math.log(0.2), "10": math.log(0.3)}], 9)
    assert levels[0, 9] == 1 and levels.sum() == 1
    with pytest.raises(CallError, match="no levels: none is among the 2 likeliest tokens at 1 places"):
        level_distribution([{"?": -0.1, "x": -2.0}, {"1": -1.0}], 10)


def test_readings_are_told_apart_by_what_is_expected():
    def of(body_shift):
        response = echoed({"prompt": probe_call(20).body["prompt"]}, lambda token: np.eye(11)[0], body_shift)
        logprobs = response["choices"][0]["logprobs"]
        return votes(Echo(logprobs["tokens"], logprobs["top_logprobs"]))

    assert [shift_of(of(shift)) for shift in (0, 1)] == [0, 1]
    assert shift_of((10, 9)) is None and shift_of((0, 0)) is None and shift_of((2, 0)) is None


@pytest.mark.parametrize(
    "tokens",
    [
        ["a", "\t", "?", "\n", "b", "\t", "?"],
        ["a", "\t", "?\n", "b\t", "?", "end"],
        ["<s>", "a\t", "?", "\n", "", "b", " \t", "?"],
        ["a", "\t", "?\n", "b", "\t", "?", "\t", "\t\tx"],
    ],
)
def test_lines_are_found_by_their_tabs(tokens):
    top = [{f"{i}": -1.0} for i in range(len(tokens))]
    marks = [i for i, token in enumerate(tokens) if token.startswith("?")]
    assert placeholders(Echo(tokens, top), 2, 2, 0) == [top[i] for i in marks]
    assert placeholders(Echo(tokens, top), 2, 1, 1) == [top[marks[-1] - 1]]


@pytest.mark.parametrize(
    "tokens",
    [
        ["a", "\t", "?", "\n", "b"],
        ["a", "\t?", "\n", "b", "\t", "?"],
        ["a", "\t", "?", "b", "\t", "u", "nknown"],
        ["\t\t", "?", "\t", "?"],
        ["a", "\t", "?", "\n", "b", "\t"],
        [],
    ],
)
def test_lost_alignment(tokens):
    with pytest.raises(CallError, match="alignment lost"):
        placeholders(Echo(tokens, [{"0": -1.0}] * len(tokens)), 2, 2, 0)


def test_lost_alignment_is_no_zero(fake, connect, tokenizer):
    fake.levels = distribution

    def answer(path, body, n):
        if body["prompt"].rstrip().endswith("</text>") and f"{lost}\t?\n</text>" in body["prompt"]:
            response = fake.right(path, body)
            logprobs = response["choices"][0]["logprobs"]
            at = logprobs["tokens"].index("\t")
            for values in (logprobs["tokens"], logprobs["top_logprobs"]):
                del values[at]
            return Reply(200, response)

    lost, fake.answer = "3", answer
    server = connect(fake)
    (found,) = LogprobSimulator(server, tokenizer).simulate([pair(tokenizer)])
    assert found.error is None and server.failures == {"alignment lost": 1}
    assert np.isnan(found.values["score"][1]).all() and np.isnan(found.levels["score"][1]).all()
    assert np.isfinite(found.values["score"][0]).all() and abs(found.mass - 0.5) < 1e-6
    lost = ""
    (found,) = LogprobSimulator(server, tokenizer).simulate([pair(tokenizer, words="another text")])
    assert found.values == {} and found.error.startswith("4 of 4 examples failed (4 alignment lost; the first: ")


def test_a_server_that_changes_its_convention(fake, connect, tokenizer):
    simulator = LogprobSimulator(connect(fake), tokenizer)
    simulator.probe()
    fake.shift = 1
    (found,) = simulator.simulate([pair(tokenizer)])
    assert "in another way than at first" in found.error


@pytest.mark.parametrize(
    "change, message",
    [
        ({"echoes": False}, "does not return the logprobs of an echoed prompt"),
        (
            {"answer": lambda path, body, n: error(400, "echo is not supported")},
            "does not return .* echo is not supported",
        ),
        (
            {"answer": lambda path, body, n: Reply(200, {"choices": [{"text": "x", "logprobs": None}]})},
            "does not return .* no logprobs",
        ),
        (
            {
                "answer": lambda path, body, n: Reply(
                    200, {"choices": [{"logprobs": {"tokens": ["a"], "top_logprobs": None}}]}
                )
            },
            "does not return .* no top_logprobs",
        ),
    ],
    ids=["silent", "rejects", "none", "no top"],
)
def test_servers_that_cannot_are_named(fake, connect, tokenizer, change, message):
    for name, value in change.items():
        setattr(fake, name, value)
    with pytest.raises(InputError, match=message):
        LogprobSimulator(connect(fake), tokenizer).simulate([pair(tokenizer)])
    assert len(fake.requests) <= 2


def test_servers_whose_tokens_join_tabs(fake, connect, tokenizer):
    def answer(path, body, n):
        response = fake.right(path, body)
        logprobs = response["choices"][0]["logprobs"]
        logprobs["tokens"] = [own.replace("?", "unknown") for own in logprobs["tokens"]]
        return Reply(200, response)

    fake.answer = answer
    with pytest.raises(InputError, match="does not keep levels apart"):
        LogprobSimulator(connect(fake), tokenizer).simulate([pair(tokenizer)])


def test_servers_that_list_five(fake, connect, tokenizer):
    fake.answer = lambda path, body, n: error(400, "logprobs is at most 5") if body["logprobs"] > 5 else None
    for _ in range(2):
        (found,) = LogprobSimulator(connect(fake), tokenizer).simulate([pair(tokenizer)])
        assert found.error is None
    assert [body["logprobs"] for _, body in fake.requests] == [20] + [5] * 5


def test_a_run_repeats_no_call(fake, connect, tokenizer):
    fake.levels = distribution
    pairs = [pair(tokenizer), pair(tokenizer, latent=1, text="")]
    first = LogprobSimulator(connect(fake), tokenizer).simulate(pairs)
    assert len(fake.requests) == 9
    second = LogprobSimulator(connect(fake), tokenizer).simulate(pairs)
    assert len(fake.requests) == 9
    for before, after in zip(first, second, strict=True):
        np.testing.assert_array_equal(before.values["score"][0], after.values["score"][0])


def harmed(content):
    """What else could stand in a kept file."""
    yield {}
    for name in content:
        yield {own: value for own, value in content.items() if own != name}
    if "votes" in content:
        yield from (content | {"votes": votes} for votes in ([1], [1, "2"], None))
        yield from (content | {"highest": 11}, content | {"problem": 3})
    else:
        tops = content["tops"]
        yield from (content | {"tops": own} for own in (tops[1:], [*tops[1:], 1], [*tops[1:], {"0": 3.0}], None))
        yield from (content | {"tops": [*tops[1:], {"0": own}]} for own in ("x", None, math.nan))


def test_what_is_kept_is_told_from_what_was_harmed():
    response = echoed({"prompt": probe_call(20).body["prompt"]}, distribution)
    asked = logprobs_call("dogs", ["a", " b"], Echoing(20, 0, 10))
    own = echoed({"prompt": asked.body["prompt"]}, distribution)
    for call, content in ((probe_call(20), probe_call(20).keep(response)), (asked, asked.keep(own))):
        assert call.holds(content) and call.holds(json.loads(json.dumps(content)))
        assert not any(call.holds(other) for other in harmed(content))
    assert asked.holds({"tops": [], "lost": "a tab"}) and not asked.holds({"tops": [], "lost": None})


def test_the_prompt_holds_one_tab_a_line():
    prompt = simulation_prompt("dogs\tand\n\ncats", ["a", " b"], 10)
    assert prompt.endswith("reacts to: dogs and cats\n<text>\na\t?\n b\t?\n</text>\n")
    assert "\t10\n" in prompt and "\t10\n" not in simulation_prompt("", ["a"], 9)
    assert all(line.count("\t") <= 1 for line in prompt.splitlines())
