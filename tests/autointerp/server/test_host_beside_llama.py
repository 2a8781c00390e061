"""The host simulator beside llama.cpp: the same prompt ids, the same weights, two implementations."""

import json
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.autointerp.host import log_probabilities
from jsaeval.autointerp.host_prompt import HostPrompt
from jsaeval.lm.load import load_lm, load_tokenizer


pytestmark = pytest.mark.llm_server

PYTHON = Path(__file__).parents[3] / ".venv-llmserver" / "bin" / "python"
# Log-probabilities of the five likeliest tokens after some positions, from llama.cpp itself: its server takes no ids.
WORKER = """
import json, sys
import numpy as np
from llama_cpp import Llama

asked = json.load(sys.stdin)
llm = Llama(asked["model"], n_ctx=1024, logits_all=True, verbose=False)
llm.eval(asked["ids"])
logits = np.array(llm.scores[asked["at"]], np.float64)
log_p = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
top = np.argsort(-log_p, axis=1)[:, :5]
print(json.dumps({"top": top.tolist(), "log_p": np.take_along_axis(log_p, top, axis=1).tolist()}))
"""


def test_next_tokens_are_those_of_llama():
    """llama.cpp quantises activations to 8 bits: up to 0.25 nats were measured."""
    assert PYTHON.exists(), "no environment of llama.cpp; run `make test-llm-server`"
    lm = load_lm("smollm2-135m")
    tokenizer = load_tokenizer(lm)
    (tokens,) = tokenizer.encode([" Yesterday the red ball hit a car, and the green house was painted in 1987."])
    ids, at = HostPrompt.of(tokenizer)("colours", np.array(tokens))
    asked = {"model": lm.card.source, "ids": ids.tolist(), "at": at.tolist()}
    done = subprocess.run([PYTHON, "-c", WORKER], input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    top, expected = np.array(theirs["top"]), np.array(theirs["log_p"])
    final = lm.final(lm.run(lm.embed(jnp.asarray(ids)[None]), 0, lm.n_blocks)[0])[:, at]
    every = jnp.arange(lm.vocab, dtype=jnp.int32)
    ours = np.asarray(log_probabilities(lm.unembedding, final, every, lm.vocab))[0]
    apart = np.abs(np.take_along_axis(ours, top, axis=1) - expected)
    print(f"{apart.size} log-probabilities, apart by {np.median(apart):.3f} nats, at most {apart.max():.3f}")
    assert np.median(apart) < 0.1 and apart.max() < 0.4
    lead = expected[:, 0] - expected[:, 1] > 0.8  # nats: twice what each may be apart
    assert lead.any() and (ours.argmax(axis=1) == top[:, 0])[lead].all()
