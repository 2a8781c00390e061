import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jsaeval.errors import InputError
from jsaeval.sae.load import load_sae
from tests.sae.formats.check import agrees, inputs, random, relu, wide
from tests.sae.formats.torch_file import bfloat16


D_IN, D_SAE, D_OUT = 6, 20, 9


def params(d_out=D_IN, affine=False):
    tensors = {
        "w_enc": random(D_IN, D_SAE),
        "w_dec": random(D_SAE, d_out),
        "b_enc": random(D_SAE),
        "b_dec": random(d_out),
        "threshold": np.abs(random(D_SAE, scale=0.1)),
    }
    return tensors | ({"affine_skip_connection": random(D_IN, d_out)} if affine else {})


def original(tensors, x):
    w = wide(tensors)
    pre = x @ w["w_enc"] + w["b_enc"]
    z = np.where(pre > w["threshold"], relu(pre), 0)
    skip = x @ w["affine_skip_connection"] if "affine_skip_connection" in w else 0
    return z, z @ w["w_dec"] + w["b_dec"] + skip


def folder(root, inside, tensors, config=None):
    path = root / inside
    path.mkdir(parents=True)
    save_file(tensors, path / "params.safetensors")
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


CONFIG = {
    "architecture": "jump_relu",
    "model_name": "gemma-v3-1b-pt",
    "hf_hook_point_in": "model.layers.9.output",
    "hf_hook_point_out": "model.layers.9.output",
    "affine_connection": False,
}
MLP = {
    "hf_hook_point_in": "model.layers.9.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.9.post_feedforward_layernorm.output",
}
BOTH_MLP = ("blocks.9.mlp.hook_in", "blocks.9.hook_mlp_out")


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("site", "points", "hooks"),
    [
        ("resid_post_all", {}, ("blocks.9.hook_resid_post", None)),
        (
            "attn_out",
            dict.fromkeys(("hf_hook_point_in", "hf_hook_point_out"), "model.layers.9.self_attn.o_proj.input"),
            ("blocks.9.attn.hook_z", None),
        ),
        ("mlp_out", MLP | {"hf_hook_point_in": MLP["hf_hook_point_out"]}, ("blocks.9.hook_mlp_out", None)),
        ("transcoder_all", MLP, BOTH_MLP),
    ],
)
def test_sites_with_and_without_a_config(site, points, hooks, with_config, tmp_path):
    transcodes = site.startswith("transcoder")
    tensors, x = params(D_OUT if transcodes else D_IN), inputs(D_IN)
    config = CONFIG | points if with_config else None
    inside = f"gemma-scope-2-1b-pt/{site}/layer_9_width_16k_l0_small"
    sae = agrees(folder(tmp_path, inside, tensors, config), x, *original(tensors, x))
    assert (sae.card.hook, sae.card.hook_out) == hooks and sae.card.lm == "google/gemma-3-1b-pt"
    assert sae.card.name == f"{site}/layer_9_width_16k_l0_small"


def test_the_affine_skip_and_bfloat16(tmp_path):
    tensors, x = {name: bfloat16(t) for name, t in params(D_OUT, affine=True).items()}, inputs(D_IN)
    inside = "gemma-scope-2-270m/transcoder_all/layer_9_width_16k_l0_big_affine"
    config = CONFIG | MLP | {"affine_connection": True, "model_name": "gemma-v3-270m-pt", "l0": 60}
    sae = agrees(folder(tmp_path, inside, tensors, config), x, *original(tensors, x))
    assert (sae.card.hook, sae.card.hook_out) == BOTH_MLP and sae.card.lm == "google/gemma-3-270m"
    assert json.loads(sae.card.declared)["l0"] == 60


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (params() | {"w_dec": random(D_SAE, 3, D_IN)}, CONFIG, "a cross-layer transcoder, which reads one layer"),
        (params(), CONFIG | {"architecture": "topk"}, "architecture 'topk' is not supported; known: jump_relu"),
        (params(), CONFIG | {"affine_connection": True}, "affine_connection = True, but the weights say False"),
        (params(affine=True), CONFIG, "affine_connection = False, but the weights say True"),
        (params(affine=True) | {"affine_skip_connection": random(D_IN, 5)}, None, "W_skip has shape"),
    ],
)
def test_what_is_refused(tensors, config, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_sae(folder(tmp_path, "resid_post/layer_9_width_16k_l0_small", tensors, config))
