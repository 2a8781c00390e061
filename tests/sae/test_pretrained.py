"""The public list of SAEs, from its wheel; the hub is a folder here."""

import dataclasses
import json

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.report.describe import describe
from jsaeval.sae.load import load_sae, save_sae
from jsaeval.sae.pretrained import find_pretrained
from tests.tiny import tiny_sae


CENTRED = "gpt2-small-res-jb/blocks.8.hook_resid_pre"
SCALED = "gemma-2b-res-jb/blocks.12.hook_resid_post"
SCOPE = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub whose repositories are folders; `put` lays an SAE where the list expects it."""
    asked = []

    def download(repo, allow_patterns):
        asked.append((repo, allow_patterns))
        return str(tmp_path / repo)

    def put(name, sae):
        entry = find_pretrained(name)
        save_sae(sae, tmp_path / entry.repo / entry.path, "saelens")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    put.asked = asked
    return put


def test_the_list():
    scope = find_pretrained(SCOPE)
    assert (scope.repo, scope.kind) == ("google/gemma-scope-2b-pt-res", "gemma_2")
    assert scope.path == "layer_20/width_16k/average_l0_71" and scope.l0 == 71 and not scope.centred
    assert find_pretrained(CENTRED).centred and find_pretrained(SCALED).scale == pytest.approx(0.21382, abs=1e-5)
    assert find_pretrained("mistral-7b-res-wg/blocks.8.hook_resid_pre").input_norm == "constant_norm"
    assert find_pretrained("mine/blocks.8") is None


def test_an_sae_by_name(hub):
    hub(SCALED, tiny_sae("topk", input_norm="expected_average"))
    sae, plain = load_sae(SCALED), tiny_sae("topk")
    assert sae.card.name == SCALED and sae.card.lm == "gemma-2b" and sae.input_norm == "none"
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16)), jnp.float32)
    scale = find_pretrained(SCALED).scale
    np.testing.assert_allclose(sae.encode(x), plain.encode(x * scale), atol=1e-6)
    ((repo, patterns),) = hub.asked
    assert repo == find_pretrained(SCALED).repo and f"{find_pretrained(SCALED).path}/*" in patterns
    assert SCALED in describe(SCALED)


def test_one_that_was_trained_on_centred_weights(hub):
    plain = tiny_sae("relu")
    hub(CENTRED, plain)
    sae = load_sae(CENTRED)
    assert json.loads(sae.card.declared)["l0"] == find_pretrained(CENTRED).l0
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 16)) + 3, jnp.float32)
    centred = x - x.mean(axis=1, keepdims=True)
    z = plain.encode(centred)
    np.testing.assert_allclose(sae.encode(x), z, atol=2e-5)
    np.testing.assert_allclose(x - sae.decode(z, x), centred - plain.decode(z), atol=2e-5)


def test_the_folder_knows_the_lm_better_than_the_list(hub, tmp_path):
    entry = find_pretrained("gemma-scope-9b-it-res/layer_20/width_16k/average_l0_91")
    assert entry.lm == "gemma-2-9b"
    folder = tmp_path / entry.repo / entry.path
    folder.mkdir(parents=True)
    shapes = {"W_enc": (6, 20), "W_dec": (20, 6), "b_enc": (20,), "b_dec": (6,), "threshold": (20,)}
    np.savez(folder / "params.npz", **{name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    assert load_sae(entry.name).card.lm == "gemma-2-9b-it"


@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu", "gated"])
def test_centring_is_exact_for_every_activation(kind):
    sae = dataclasses.replace(tiny_sae(kind), b_dec=jnp.zeros(16))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((40, 16)) - 2, jnp.float32)
    centred = x - x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(sae.with_centred_input().encode(x), sae.encode(centred), atol=2e-5)
    with pytest.raises(ValueError, match="can get its input centred"):
        sae.with_centred_input().with_centred_input()
    normed = dataclasses.replace(sae, input_norm="layer_norm")
    assert normed.with_centred_input() is normed
    np.testing.assert_allclose(normed.encode(centred), normed.encode(x), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt2-small-res-jb/blocks.8.hook_resid_post", "has 13 SAEs, e.g. .*did you mean 'blocks"),
        ("gpt2-small-res-bj/blocks.8.hook_resid_pre", "no release of SAELens's list; did you mean 'gpt2-small-res-jb'"),
        ("temporal-sae-gemma-2-2b/blocks.12.hook_resid_post", "a temporal SAE.* not supported"),
        ("mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_0", "a cross-layer transcoder"),
        (SCALED, "has no .* any more"),
    ],
)
def test_what_cannot_be_had(hub, name, words):
    with pytest.raises(InputError, match=words) as caught:
        load_sae(name)
    assert "\n" not in str(caught.value)


def test_without_a_network(monkeypatch):
    def fail(repo, allow_patterns):
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"cannot be fetched from the hub \(Name or service not known\)"):
        load_sae(SCALED)
