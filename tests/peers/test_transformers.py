"""Parity with `transformers` (torch, float32). Runs with `make test-peers`, which makes the peers' environment."""

import json
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.hooks import SITES
from jsaeval.lm.hf_rope import read_rope
from jsaeval.lm.load import load_lm
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


def test_smollm2(tmp_path):
    """Logits of the real LM on 512 tokens: max abs 5e-3, the same argmax where the top two differ by more than 0.01."""
    lm, path = load_lm("smollm2-135m"), ROOT / "tests" / "data" / "golden_tokens.npy"
    reference("gguf", lm.card.source, path, tmp_path / "logits.npy")
    expected = np.load(tmp_path / "logits.npy")
    ours = np.asarray(jax.jit(logits)(lm, jnp.asarray(np.load(path))))
    worst = np.abs(ours - expected).max()
    top = np.sort(expected, axis=-1)
    clear = top[..., -1] - top[..., -2] > 0.01
    same = (ours.argmax(-1) == expected.argmax(-1))[clear]
    print(
        f"max abs difference {worst:.2e}; argmax equal at {same.sum()} of {clear.sum()} clear positions of {clear.size}"
    )
    assert worst < 5e-3 and same.all()
