import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jsaeval.errors import InputError
from jsaeval.sae.load import load_sae
from tests.sae.formats.check import agrees, inputs, random, relu, topk, wide
from tests.sae.formats.torch_file import bfloat16


D, M, D_OUT, THETA, K = 6, 20, 9, 0.4, 4
HYPER = {
    "act_fn": "jumprelu",
    "top_k": 50,
    "jump_relu_threshold": THETA,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 5.0, "out": 5.0},
    "apply_decoder_bias_to_pre_encoder": False,
    "use_glu_encoder": False,
    "hook_point_in": "blocks.5.hook_resid_post",
    "hook_point_out": "blocks.5.hook_resid_post",
}


def state(d_out=D):
    names = {"encoder.weight": (M, D), "encoder.bias": (M,), "decoder.weight": (d_out, M), "decoder.bias": (d_out,)}
    return {name: bfloat16(random(*shape, scale=0.5)) for name, shape in names.items()}


def original(tensors, hyper, x):
    """Upstream's `from_pretrained`: scales out of the weights, then unit decoder columns, then the activation."""
    w, norms = wide(tensors), hyper["dataset_average_activation_norm"]
    s_in = np.sqrt(D) / norms["in"]
    s_out = np.sqrt(len(w["decoder.bias"])) / norms["out"]
    b_e, w_d, b_d = w["encoder.bias"] / s_in, w["decoder.weight"] * s_in / s_out, w["decoder.bias"] / s_out
    length = np.linalg.norm(w_d, axis=0)
    w_e, b_e, w_d = w["encoder.weight"] * length[:, None], b_e * length, w_d / length
    shift = b_d if hyper["apply_decoder_bias_to_pre_encoder"] else 0
    p = (x - shift) @ w_e.T + b_e
    z = {"jumprelu": relu(p * (p > THETA)), "relu": relu(p), "topk": topk(p, K)}[hyper["act_fn"]]
    return z, z @ w_d.T + b_d


def folder(root, tensors, hyper):
    path = root / "Llama3_1-8B-Base-L5R-8x"
    (path / "checkpoints").mkdir(parents=True)
    (path / "hyperparams.json").write_text(json.dumps(hyper))
    save_file(tensors, path / "checkpoints" / "final.safetensors")
    return path


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"act_fn": "relu"},
        {"act_fn": "topk", "top_k": K},
        {"dataset_average_activation_norm": {"in": 5.0, "out": 2.0}},
        {"apply_decoder_bias_to_pre_encoder": True},
    ],
)
def test_settings(change, tmp_path):
    hyper, tensors, x = HYPER | change, state(), inputs(D)
    sae = agrees(folder(tmp_path, tensors, hyper), x, *original(tensors, hyper, x))
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-5)
    assert (sae.card.hook, sae.card.hook_out) == ("blocks.5.hook_resid_post", None)
    assert sae.card.name == "Llama3_1-8B-Base-L5R-8x"
    assert json.loads(sae.card.declared) == {"l0": hyper["top_k"], "mean_norm": 5.0}


def test_transcoders_scale_input_and_output_apart(tmp_path):
    hyper = HYPER | {"dataset_average_activation_norm": {"in": 5.0, "out": 2.0}}
    hyper |= {"hook_point_in": "blocks.5.mlp.hook_in", "hook_point_out": "blocks.5.hook_mlp_out"}
    tensors, x = state(D_OUT), inputs(D)
    path = folder(tmp_path, tensors, hyper) / "checkpoints" / "final.safetensors"
    sae = agrees(path, x, *original(tensors, hyper, x))
    assert (sae.card.hook, sae.card.hook_out) == ("blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "sigmoid"}, "act_fn 'sigmoid' is not supported; known: jumprelu"),
        ({"use_glu_encoder": True}, "use_glu_encoder"),
        ({"norm_activation": "batch-wise"}, "norm_activation = 'batch-wise' is not supported"),
        ({"dataset_average_activation_norm": None}, "'dataset_average_activation_norm' is missing"),
        ({"dataset_average_activation_norm": {"in": 3.0}}, "'out' is missing"),
        ({"jump_relu_threshold": None}, "'jump_relu_threshold' is missing"),
    ],
)
def test_what_is_refused(change, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_sae(folder(tmp_path, state(), HYPER | change))
