import json

import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.sae.load import load_sae
from tests.sae.formats.check import agrees, inputs, random, relu, wide


D_IN, D_SAE = 6, 20


def params(d_out=D_IN):
    return {
        "W_enc": random(D_IN, D_SAE),
        "W_dec": random(D_SAE, d_out),
        "b_enc": random(D_SAE),
        "b_dec": random(d_out, scale=1.0),
        "threshold": np.abs(random(D_SAE, scale=0.1)),
    }


def original(tensors, x):
    """As the authors' notebook computes it; the decoder's bias is not subtracted."""
    w = wide(tensors)
    pre = x @ w["W_enc"] + w["b_enc"]
    z = (pre > w["threshold"]) * relu(pre)
    return z, z @ w["W_dec"] + w["b_dec"]


def folder(root, repository, inside, tensors, save=np.savez_compressed):
    path = root / repository / inside
    path.mkdir(parents=True)
    save(path / "params.npz", **tensors)
    return path


@pytest.mark.parametrize(
    ("repository", "hook", "hook_out", "lm"),
    [
        ("gemma-scope-2b-pt-res", "blocks.20.hook_resid_post", None, "gemma-2-2b"),
        ("models--google--gemma-scope-9b-it-res/snapshots/1a2b", "blocks.20.hook_resid_post", None, "gemma-2-9b-it"),
        ("gemma-scope-27b-pt-att", "blocks.20.attn.hook_z", None, "gemma-2-27b"),
        ("gemma-scope-2b-pt-mlp", "blocks.20.hook_mlp_out", None, "gemma-2-2b"),
        ("elsewhere", None, None, None),
    ],
)
def test_saes(repository, hook, hook_out, lm, tmp_path):
    tensors, x = params(), inputs(D_IN)
    path = folder(tmp_path, repository, "layer_20/width_16k/average_l0_71", tensors)
    sae = agrees(path, x, *original(tensors, x))
    assert (sae.card.hook, sae.card.hook_out, sae.card.lm, sae.b_pre) == (hook, hook_out, lm, None)
    assert sae.card.name == "layer_20/width_16k/average_l0_71" and sae.card.format == "gemma-scope"
    assert json.loads(sae.card.declared) == {"l0": 71} and "npz of W_enc" in sae.card.why


def test_transcoders_read_before_the_gain_and_may_have_another_width(tmp_path):
    tensors, x = params(d_out=9), inputs(D_IN)
    path = folder(tmp_path, "gemma-scope-2b-pt-transcoders", "layer_5/width_16k/average_l0_7", tensors)
    sae = agrees(path / "params.npz", x, *original(tensors, x))
    assert (sae.card.hook, sae.card.hook_out) == ("blocks.5.ln2.hook_normalized", "blocks.5.hook_mlp_out")


def test_embedding_saes_read_the_scaled_embedding(tmp_path):
    """The original reads e; the residual stream holds e · sqrt(d)."""
    tensors, x = params(), inputs(D_IN)
    path = folder(tmp_path, "gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6", tensors)
    z, y = original(tensors, x)
    sae = agrees(path, x * np.sqrt(D_IN), z, y * np.sqrt(D_IN))
    assert sae.card.hook == "blocks.0.hook_resid_pre"


def test_lower_case_names_and_plain_npz(tmp_path):
    tensors, x = params(), inputs(D_IN)
    path = folder(tmp_path, "a", "b", {name.lower(): t for name, t in tensors.items()}, np.savez)
    agrees(path, x, *original(tensors, x))


def test_what_is_refused(tmp_path):
    for i, (change, message) in enumerate(
        [
            ({"W_dec": random(D_SAE - 1, D_IN)}, r"W_dec has shape \(19, 6\)"),
            ({"W_enc": random(D_SAE, D_IN)}, "W_dec has shape"),
            ({"threshold": np.full(D_SAE, np.nan, np.float32)}, "NaN or Inf in threshold"),
            ({"extra": random(3)}, "not recognised"),
        ]
    ):
        with pytest.raises(InputError, match=message):
            load_sae(folder(tmp_path, str(i), "a", params() | change) / "params.npz")
