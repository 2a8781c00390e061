"""Over llama.cpp's Python server with SmolLM2-135M. So small a model explains badly: this shows that the path holds."""

import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.server.client import Server
from jsaeval.autointerp.server.echo import UNKNOWN
from jsaeval.autointerp.server.json_levels import JSONSimulator
from jsaeval.autointerp.server.llm import LLMExplainer
from jsaeval.autointerp.server.logprobs import LogprobSimulator, logprobs_call, simulation_prompt
from jsaeval.autointerp.server.shown import token_texts
from jsaeval.lm.load import load_lm, load_tokenizer
from tests.autointerp.examples import evidence, example


pytestmark = pytest.mark.llm_server

PYTHON = Path(__file__).parents[3] / ".venv-llmserver" / "bin" / "python"
TEXT = "The cook put a pan on the stove"
WORDS = "things to cook with"


@pytest.fixture(scope="module")
def lm():
    return load_lm("smollm2-135m")


@pytest.fixture(scope="module")
def smollm(lm):
    return load_tokenizer(lm)


@pytest.fixture(scope="module")
def url(lm, tmp_path_factory):
    """Of the server, while it runs."""
    assert PYTHON.exists(), "no environment of llama.cpp; run `make test-llm-server`"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "llama_cpp.server", "--model", lm.card.source, "--port", str(port)]
    command += ["--n_ctx", "2048", "--logits_all", "true", "--n_threads", "2"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | {"NO_PROXY": "*"})
    address = f"http://127.0.0.1:{port}/v1"
    try:
        deadline, direct = time.monotonic() + 300, urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            try:
                direct.open(f"{address}/models", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """A folder for all tests: the server sorts its whole vocabulary at each echoed token, a minute for a prompt."""
    return tmp_path_factory.mktemp("answers")


@pytest.fixture
def server(url, answers):
    return Server(url, concurrency=1, timeout=1200.0, folder=answers)


@pytest.fixture
def known(smollm):
    ids = smollm.encode([TEXT])[0]
    activations = [2.0 if smollm.token(i) in (" pan", " stove") else 0.0 for i in ids]
    own = example(ids, activations)
    return evidence(3, [own], [own], [own])


def test_explain(server, smollm, known):
    explainer = LLMExplainer(server, smollm)
    planned = explainer.estimate([known])
    (explained,) = explainer.explain([known])
    spent = server.budget.spent_tokens
    print(f"explanation: {explained.text!r} {explained.error}")
    print(
        f"{planned.prompt_tokens} tokens to read and at most {planned.completion_tokens} to write, {spent} were spent"
    )
    assert explained.text and explained.error is None, explained
    assert planned.prompt_tokens <= spent <= planned.prompt_tokens + planned.completion_tokens + 100
    planned = explainer.estimate([known])
    assert (planned.calls, planned.kept) == (0, 1)


def test_json(server, smollm, known):
    (found,) = JSONSimulator(server, smollm).simulate([(Explanation(3, WORDS, "test"), known)])
    print(f"JSON: {found.values} {found.error}; {server.summary()}")
    assert found.error is None, found
    assert len(found.values["score"][0]) == len(known.of("score")[0].tokens)


def test_logprobs(server, smollm, known):
    simulator = LogprobSimulator(server, smollm)
    explanation = Explanation(3, WORDS, "test")
    (found,) = simulator.simulate([(explanation, known)])
    how = simulator.probe()
    print(f"{how}, mass {found.mass:.3f}, values {np.round(found.values['score'][0], 2).tolist()}")
    assert found.error is None and 0 < found.mass <= 1
    assert how.highest == 9  # SmolLM2 splits numbers into digits
    np.testing.assert_allclose(found.levels["score"][0].sum(axis=1), 1, atol=1e-6)
    assert len(found.values["score"][0]) == len(known.of("score")[0].tokens)
    asked = server.answered
    simulator.simulate([(explanation, known)])
    assert server.answered == asked == 2  # the probe, and one example that stands in both splits


def test_logprobs_are_those_of_the_same_model_in_jax(server, smollm, lm, known):
    tokens = token_texts(smollm, known.of("score")[0].tokens)
    how = LogprobSimulator(server, smollm).probe()
    (answer,) = server.answers([logprobs_call(WORDS, tokens, how)])
    prompt = simulation_prompt(WORDS, tokens, how.highest)
    ids = smollm.encode([prompt])[0]
    places = [i for i, index in enumerate(ids) if smollm.token(index).startswith(UNKNOWN)][-len(tokens) :]
    residual = lm.run(lm.embed(jnp.asarray([ids], jnp.int32)), 0, lm.n_blocks)[0]
    logits = lm.final(residual)[0] @ lm.unembedding.T
    ours = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    names = {smollm.token(i): i for i in range(lm.vocab)}
    apart = []
    for place, top in zip(places, answer.content["tops"], strict=True):
        mine = ours[place - 1]
        if np.exp(np.sort(mine)[-2:]) @ [-1, 1] > 0.8:
            assert max(top, key=top.get) == smollm.token(int(mine.argmax()))
        apart += [abs(mine[names[name]] - value) for name, value in sorted(top.items(), key=lambda own: -own[1])[:5]]
    print(f"{len(apart)} log-probabilities, apart by {np.median(apart):.3f} nats, at most {max(apart):.3f}")
    assert np.median(apart) < 0.1 and max(apart) < 0.4
