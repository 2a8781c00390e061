"""What is said before the first call: true when nothing is there yet, and when answers are kept."""

import json
import zlib

import pytest

from jsaeval.autointerp.evaluate import Work
from jsaeval.autointerp.from_file import FileExplainer
from jsaeval.autointerp.kept import KeptExplainer
from jsaeval.autointerp.server.json_levels import JSONSimulator
from jsaeval.autointerp.server.llm import LLMExplainer
from jsaeval.autointerp.server.logprobs import LogprobSimulator
from jsaeval.autointerp.server.planned import foreseen, planned
from tests.autointerp.examples import evidence, example
from tests.autointerp.server.fake_server import Reply, chat, error
from tests.autointerp.server.test_server_json import levels_of, pair
from tests.tiny import tiny_sae


@pytest.fixture
def known(tokenizer):
    """Three latents; of each one example to explain it by, and two to simulate."""

    def own(latent):
        first, *others = (example(tokenizer.encode([f"{word} {latent}"])[0]) for word in ("a cat", "dogs", "the cow"))
        first.activations[0] = 1.0
        return evidence(latent, [first], others[:1], others[1:])

    return [own(latent) for latent in (3, 5, 8)]


def answered(body):
    content = body["messages"][-1]["content"]
    return (
        json.dumps(levels_of(body)) if "response_format" in body else f"animals of kind {zlib.crc32(content.encode())}"
    )


def work_of(explainer, known, look_alike=None):
    return Work(0, look_alike, tiny_sae(), explainer, known)


def calls_of(work, simulator):
    found = planned([work], simulator, seed=0)
    return found.calls, found.kept


def test_explanations_are_taken_from_answers_that_are_kept(fake, connect, tokenizer, known):
    refused = Reply(200, chat(None, refusal="no"))
    fake.answer, fake.usual = lambda path, body, n: refused if n == 1 else None, answered
    server = connect(fake, concurrency=1)
    explainer, simulator = LLMExplainer(server, tokenizer), JSONSimulator(server, tokenizer)
    assert [own.explainer for own in foreseen(explainer, known)] == ["none"] * 3
    assert calls_of(work_of(explainer, known), simulator) == (3 + 3 * 3 * 2, 0)
    assert calls_of(work_of(explainer, known, "neurons"), simulator) == (3 + 3 * 2, 0)
    first = explainer.explain(known[:1])
    assert foreseen(explainer, known)[:1] == first
    assert [own.explainer for own in foreseen(explainer, known)[1:]] == ["none"] * 2
    made = first + explainer.explain(known[1:])
    later = LLMExplainer(connect(fake), tokenizer)  # of another process
    assert foreseen(later, known) == made and made[1].error == "refused: no"
    assert not later.server.failures and (later.server.found, len(fake.requests)) == (0, 3)
    # Of the one that was refused there is only the empty explanation.
    assert calls_of(work_of(later, known), JSONSimulator(later.server, tokenizer)) == (2 * 2 + 3 * 2 + 2 * 2, 3)


def test_explanations_that_cost_no_call(fake, connect, tokenizer, known, tmp_path):
    texts = tmp_path / "texts.json"
    texts.write_text('{"3": "cats", "8": "dogs"}')
    explainer, server = FileExplainer(texts), connect(fake)
    assert [own.text for own in foreseen(explainer, known)] == ["cats", "", "dogs"]
    assert calls_of(work_of(explainer, known), JSONSimulator(server, tokenizer)) == (2 * 2 + 3 * 2 + 2 * 2, 0)
    kept = KeptExplainer(explainer, tmp_path / "kept", ("test",))
    assert [own.explainer for own in foreseen(kept, known)] == ["none"] * 3
    made = kept.explain(known[:2])
    assert foreseen(kept, known)[:2] == made and foreseen(kept, known)[2].explainer == "none"


@pytest.mark.parametrize("retried", [True, False])
def test_answers_of_no_use_are_asked_for_again(fake, connect, tokenizer, retried):
    """One of six is of no use; the call that repeats it was made, or not any more."""

    def answer(path, body, n):
        if body["messages"][-1]["content"].endswith("2"):
            return Reply(200, chat("no idea")) if body["temperature"] == 0 else None if retried else error(400, "no")

    fake.answer, fake.usual = answer, answered
    own = pair(tokenizer)
    JSONSimulator(connect(fake), tokenizer).simulate([own])
    found = JSONSimulator(connect(fake), tokenizer).estimate([own])
    assert (found.calls, found.kept) == ((0, 7) if retried else (1, 6))


def test_logprobs_of_a_server_that_lists_few(fake, connect, tokenizer):
    fake.answer = lambda path, body, n: error(400, "at most 5") if body["logprobs"] > 5 else None
    own, server = pair(tokenizer), connect(fake)
    assert LogprobSimulator(server, tokenizer).estimate([own]).calls == 7
    LogprobSimulator(server, tokenizer).simulate([own])
    found = LogprobSimulator(connect(fake), tokenizer).estimate([own])
    assert (found.calls, found.kept, found.timed) == (0, 7, True)
