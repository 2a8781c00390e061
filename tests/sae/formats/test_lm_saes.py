import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jsaeval.errors import InputError
from jsaeval.sae.load import load_sae
from tests.sae.formats.check import agrees, close, inputs, random, relu, topk, wide
from tests.sae.formats.torch_file import write_torch


D, M, D_OUT, K = 6, 20, 9, 4
HOOK = "blocks.5.hook_resid_post"
CONFIG = {
    "sae_type": "sae",
    "act_fn": "jumprelu",
    "norm_activation": "dataset-wise",
    "hook_point_in": HOOK,
    "hook_point_out": HOOK,
}
AVERAGE = "dataset_average_activation_norm."


def state(d_out=D, means=((HOOK, 5.0),)):
    tensors = {"W_E": random(D, M), "b_E": random(M), "W_D": random(M, d_out, scale=0.6), "b_D": random(d_out)}
    tensors["activation_function.log_jumprelu_threshold"] = random(M) - 1
    return tensors | {AVERAGE + hook: np.array(mean, np.float32) for hook, mean in means}


def original(tensors, config, x, mean_in=None, mean_out=None):
    """Encode and decode of version 2, between the normalisation that its callers do and undo."""
    w = wide(tensors)
    size = np.linalg.norm(x, axis=1, keepdims=True) if config["norm_activation"] == "token-wise" else None
    s_in, s_out = 1.0, 1.0
    if size is not None:
        s_in = s_out = np.sqrt(D) / size
    elif mean_in:
        s_in, s_out = np.sqrt(D) / mean_in, np.sqrt(len(w["b_D"])) / (mean_out or mean_in)
    p = (x * s_in) @ w["W_E"] + w["b_E"]
    length = np.linalg.norm(w["W_D"], axis=1) if config.get("sparsity_include_decoder_norm", True) else 1.0
    q = p * length
    if config["act_fn"] == "jumprelu":
        q = q * (q > np.exp(w["activation_function.log_jumprelu_threshold"]))
    z = (topk(q, K) if config["act_fn"] == "topk" else relu(q)) / length
    return z, (z @ w["W_D"] + w["b_D"]) / s_out


def folder(root, tensors, config):
    root.mkdir(exist_ok=True)
    (root / "config.json").write_text(json.dumps(config))
    save_file(tensors, root / "sae_weights.safetensors")
    return root


@pytest.mark.parametrize("rescaled", [{}, {"sparsity_include_decoder_norm": False}])
@pytest.mark.parametrize(
    ("change", "mean"),
    [({}, 5.0), ({"norm_activation": "inference"}, None), ({"norm_activation": "token-wise"}, None)],
)
def test_version_2(change, mean, rescaled, tmp_path):
    config, tensors, x = CONFIG | change | rescaled, state(), inputs(D)
    sae = agrees(folder(tmp_path, tensors, config), x, *original(tensors, config, x, mean))
    assert (sae.card.hook, sae.card.hook_out, sae.b_pre) == (HOOK, None, None)
    assert json.loads(sae.card.declared) == ({} if mean is None else {"mean_norm": mean})


@pytest.mark.parametrize("act", ["relu", "topk"])
def test_other_activations(act, tmp_path):
    """With rescaling, latents of TopK come out in units of their decoder rows; the output is the same."""
    config, x = CONFIG | {"act_fn": act, "top_k": K if act == "topk" else None}, inputs(D)
    tensors = {name: t for name, t in state().items() if "threshold" not in name}
    z, y = original(tensors, config, x, 5.0)
    if act == "topk":
        z = z * np.linalg.norm(wide(tensors)["W_D"] / (np.sqrt(D) / 5.0), axis=1)
    agrees(folder(tmp_path, tensors, config), x, z, y)


def test_transcoders_and_torch_files(tmp_path):
    config, out = CONFIG | {"hook_point_out": "blocks.5.hook_mlp_out"}, "blocks.5.hook_mlp_out"
    tensors, x = state(D_OUT, ((HOOK, 5.0), (out, 2.0))), inputs(D)
    folder(tmp_path / "a", tensors, config)
    (tmp_path / "a" / "sae_weights.safetensors").unlink()
    path = write_torch(tmp_path / "a" / "sae_weights.pt", {"sae": tensors})
    sae = agrees(path, x, *original(tensors, config, x, 5.0, 2.0))
    assert sae.card.hook_out == out


def r1():
    old = state(means=())
    return {
        "encoder.weight": np.ascontiguousarray(old["W_E"].T),
        "encoder.bias": old["b_E"],
        "decoder.weight": np.ascontiguousarray(old["W_D"].T),
        "decoder.bias": old["b_D"],
        "log_jumprelu_threshold": old["activation_function.log_jumprelu_threshold"],
    }


def test_llama_scope_r1_without_its_average_is_scaled_by_the_lms(tmp_path):
    config, x = CONFIG | {"sparsity_include_decoder_norm": False}, inputs(D)
    sae = load_sae(folder(tmp_path, r1(), config))
    assert sae.input_norm == "expected_average"
    folded, (z, y) = sae.with_scale(5.0), original(state(), config, x, 5.0)
    found = folded.encode(jnp.asarray(x, jnp.float32))
    close(found, z)
    close(folded.decode(found), y)


def test_a_decoder_row_of_zeros_never_fires(tmp_path):
    tensors, x = state(), inputs(D)
    tensors["W_D"][3] = 0
    sae = load_sae(folder(tmp_path, tensors, CONFIG))
    assert not np.asarray(sae.encode(jnp.asarray(x, jnp.float32)))[:, 3].any()


@pytest.mark.parametrize(
    ("change", "tensors", "message"),
    [
        ({"sae_type": "other"}, {}, "sae_type 'other' is not supported; known: 'sae'"),
        ({"use_glu_encoder": True}, {}, "use_glu_encoder"),
        ({}, {"W_E_glu": random(D, M)}, "use_glu_encoder"),
        ({"act_fn": "relu"}, {}, "act_fn 'relu' with these tensors is not supported"),
        ({"norm_activation": "batch-wise"}, {}, "norm_activation = 'batch-wise' is not supported; known: dataset-wise"),
        ({"hook_point_out": "blocks.5.hook_mlp_out"}, {}, "a transcoder with norm_activation"),
        ({}, {"W_D": random(M - 1, D)}, "W_dec has shape"),
    ],
)
def test_what_is_refused(change, tensors, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_sae(folder(tmp_path, state() | tensors, CONFIG | change))
