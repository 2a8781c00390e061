"""Parity with `transformers` (torch, float32). Runs with `make test-peers`, which makes the peers' environment."""

import json
import re
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.hooks import SITES
from jsaeval.lm.hf_rope import read_rope
from jsaeval.lm.load import load_lm, load_tokenizer
from jsaeval.lm.rotary import inverse_frequencies


pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
SCRIPT = Path(__file__).parent / "transformers_reference.py"
FAMILIES = (
    "llama",
    "llama_mha_tied",
    "llama_mqa",
    "llama3_rope",
    "mistral_window",
    "qwen2",
    "qwen2_window",
    "llama_biases",
    "gpt2",
    "pythia",
    "gpt_neox_sequential",
    "qwen3",
    "linear_rope",
    "yarn_rope",
    "gemma",
    "gemma_mqa",
    "gemma2",
    "gemma2_mha",
    "gemma3",
    "gemma3_mqa",
)


def reference(*arguments) -> None:
    assert PYTHON.exists(), "no environment of the peers; run `make test-peers`"
    subprocess.run([PYTHON, SCRIPT, *map(str, arguments)], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("families")
    reference("families", out)
    return out


def logits(lm, tokens):
    residual, _ = lm.run(lm.embed(tokens), 0, lm.n_blocks)
    z, cap = jnp.einsum("btd,vd->btv", lm.final(residual), lm.unembedding), lm.logit_cap
    return z if cap is None else cap * jnp.tanh(z / cap)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family(family, folder):
    """Logits and the activation at every hook of a tiny random model: max abs 1e-4 in float32."""
    expected, lm = np.load(folder / family / "reference.npz"), load_lm(folder / family)
    tokens, seen = jnp.asarray(expected["tokens"], jnp.int32), {}

    def tap(site, block, activation, state):
        seen[f"blocks.{block}.{site}"] = activation
        return activation, state

    residual = lm.embed(tokens)
    for i in range(lm.n_blocks):
        with jax.disable_jit():
            residual, _ = lm.run(residual, i, i + 1, tap)
    worst = {name: float(np.abs(np.asarray(x) - expected[name].reshape(x.shape)).max()) for name, x in seen.items()}
    worst["logits"] = float(np.abs(np.asarray(logits(lm, tokens)) - expected["logits"]).max())
    print(family, f"worst of {len(worst)} arrays: {max(worst.values()):.1e}")
    sites = len(SITES) - lm.config.parallel  # a parallel block has no residual stream in its middle
    assert len(worst) == 3 * sites + 1
    assert max(worst.values()) < 1e-4, worst


def test_rotary_frequencies(tmp_path):
    """Every type and option against `ROPE_INIT_FUNCTIONS`, which computes in float32."""
    context = {"original_max_position_embeddings": 160, "rope_theta": 10_000.0}
    asked = [
        {"rope_type": "linear", "factor": 3.0, "rope_theta": 500_000.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0} | context,
        *(
            {"rope_type": "yarn", "factor": 4.0} | context | more
            for more in (
                {},
                {"beta_fast": 16.0, "beta_slow": 2.0},
                {"truncate": False},
                {"attention_factor": 0.7},
                {"mscale": 0.5, "mscale_all_dim": 1.5},
                {"factor": None},
            )
        ),
    ]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    reference("ropes", tmp_path / "asked.json", tmp_path / "ropes.npz")
    expected = np.load(tmp_path / "ropes.npz")
    for i, parameters in enumerate(asked):
        rope = read_rope({"rope_parameters": parameters, "max_position_embeddings": 640}, "")
        frequency = inverse_frequencies(32, rope.theta, rope.scaling)
        np.testing.assert_allclose(frequency, expected[f"{i}"], rtol=2e-6, err_msg=str(parameters))
        factor = getattr(rope.scaling, "attention_factor", 1.0)
        np.testing.assert_allclose(factor, expected[f"{i} factor"], rtol=1e-12, err_msg=str(parameters))


def compare_logits(lm, tokens, tmp_path):
    """Max abs 5e-3, and the same argmax where the top two differ by more than 0.01."""
    np.save(tmp_path / "tokens.npy", tokens)
    reference("gguf", lm.card.source, tmp_path / "tokens.npy", tmp_path / "logits.npy")
    expected = np.load(tmp_path / "logits.npy")
    ours = np.asarray(jax.jit(logits)(lm, jnp.asarray(tokens)))
    worst = np.abs(ours - expected).max()
    second, first = np.moveaxis(np.partition(expected, -2, axis=-1)[..., -2:], -1, 0)
    clear = first - second > 0.01
    same = (ours.argmax(-1) == expected.argmax(-1))[clear]
    print(
        f"max abs difference {worst:.2e}; argmax equal at {same.sum()} of {clear.sum()} clear positions of {clear.size}"
    )
    assert worst < 5e-3 and same.all()


def test_smollm2(tmp_path):
    """The real LM on 512 tokens."""
    compare_logits(load_lm("smollm2-135m"), np.load(ROOT / "tests" / "data" / "golden_tokens.npy"), tmp_path)


def test_gemma3_270m(tmp_path):
    """The real LM on a text longer than its window of 512 tokens."""
    lm = load_lm("gemma-3-270m")
    (ids,) = load_tokenizer(lm).encode([(ROOT / "README.md").read_text()])
    compare_logits(lm, np.asarray([[lm.card.bos, *ids[:599]]], np.int32), tmp_path)


def test_the_tokenizer_of_gemma3(tmp_path):
    """Prose, code, numbers, spaces, tabs, other scripts, emoji, control characters, and random characters."""
    rng = np.random.default_rng(0)
    characters = [*"aeiou st\n\t  .,01<>é日本語🙂☃ß\u0301", *map(chr, rng.integers(0x20, 0xD7FF, 200))]
    texts = [
        *((ROOT / name).read_text() for name in ("README.md", "CHANGELOG.md", "Makefile", "jsaeval/lm/decoder.py")),
        "",
        " leading and trailing  ",
        "a  b   c\n\n\nd\t\te\r\n",
        "1234567 3.14159 1,000,000 ²",
        "naïve café Ελληνικά русский العربية हिन्दी 日本語 한국어",
        "🙂👩‍🚀🏳️‍🌈 e\u0301",
        "<table><b>x</b></table> <div>",
        "\x00\x07\ufeff\u200b",
        *("".join(rng.choice(characters, 80)) for _ in range(200)),
    ]
    # Of longer runs of spaces SentencePiece and llama.cpp take the longest token first, transformers merges pairs.
    texts = [re.sub(" {32,}", " " * 31, text) for text in texts]
    lm = load_lm("gemma-3-270m")
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    reference("tokenize", lm.card.source, tmp_path / "texts.json", tmp_path / "ids.json")
    expected, tokenizer = json.loads((tmp_path / "ids.json").read_text()), load_tokenizer(lm)
    assert (tokenizer.bos, tokenizer.eos) == (expected["bos"], expected["eos"]) == (2, 1)
    ours = tokenizer.encode(texts)
    print(f"{sum(map(len, ours))} tokens of {len(texts)} texts")
    different = [text[:99] for text, own, theirs in zip(texts, ours, expected["ids"], strict=True) if own != theirs]
    assert not different
    assert [tokenizer.decode(own) for own in ours] == texts
    assert [tokenizer.token(i) for i in tokenizer.encode([" " * 46])[0]] == [" " * 31, " " * 15]
