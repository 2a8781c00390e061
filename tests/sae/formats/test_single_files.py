"""Readers of files that come alone, or nearly so: e2e_sae, Goodfire, two linear layers, transcoder_circuits, hook_z."""

import json

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from jsaeval.errors import InputError
from jsaeval.sae.load import load_sae
from tests.sae.formats.check import agrees, inputs, random, relu, wide
from tests.sae.formats.torch_file import Global, Object, bfloat16, write_torch


D, M, D_OUT = 6, 20, 9
HOOK = "blocks-6-hook_resid_pre"


def e2e(hook=HOOK):
    shapes = {"encoder.0.weight": (M, D), "encoder.0.bias": (M,), "decoder.weight": (D, M), "decoder.bias": (D,)}
    return {f"{hook}.{name}": random(*shape) for name, shape in shapes.items()}


def test_e2e_sae_has_a_decoder_of_unit_columns(tmp_path):
    """In TransformerLens's LM the residual stream has no mean over its width; elsewhere the mean passes by."""
    state, x = e2e(), inputs(D) + 1
    mean = x.mean(axis=1, keepdims=True)
    w = {name.removeprefix(f"{HOOK}."): t for name, t in wide(state).items()}
    z = relu((x - mean) @ w["encoder.0.weight"].T + w["encoder.0.bias"])
    columns = w["decoder.weight"] / np.linalg.norm(w["decoder.weight"], axis=0)
    (tmp_path / "final_config.yaml").write_text(yaml.safe_dump({"tlens_model_name": "gpt2-small"}))
    sae = agrees(write_torch(tmp_path / "samples_400000.pt", state), x, z, z @ columns.T + w["decoder.bias"] + mean)
    assert (sae.card.hook, sae.card.lm, sae.b_pre) == ("blocks.6.hook_resid_pre", "gpt2-small", None)
    with pytest.raises(InputError, match=r"holds SAEs of 2 hooks \(blocks-6-hook_resid_pre, blocks-2-hook_resid_pre\)"):
        load_sae(write_torch(tmp_path / "two.pt", state | e2e("blocks-2-hook_resid_pre")))


LINEAR = {"weight": (M, D), "bias": (M,)}, {"weight": (D, M), "bias": (D,)}


@pytest.mark.parametrize(
    ("file", "layers", "hook", "lm", "format"),
    [
        (
            "Llama-3.1-8B-Instruct-SAE-l19.pth",
            ("encoder_linear", "decoder_linear"),
            "blocks.19.hook_resid_post",
            "meta-llama/Llama-3.1-8B-Instruct",
            "goodfire",
        ),
        (
            "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
            ("encoder", "decoder"),
            "blocks.19.hook_resid_post",
            "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
            "linear",
        ),
        ("mine.pt", ("encoder", "decoder"), None, None, "linear"),
    ],
)
def test_linear_layers(file, layers, hook, lm, format, tmp_path):
    state = {
        f"{layer}.{name}": bfloat16(random(*shape))
        for layer, shapes in zip(layers, LINEAR, strict=True)
        for name, shape in shapes.items()
    }
    w, x = wide(state), inputs(D)
    z = relu(x @ w[f"{layers[0]}.weight"].T + w[f"{layers[0]}.bias"])
    y = z @ w[f"{layers[1]}.weight"].T + w[f"{layers[1]}.bias"]
    card = agrees(write_torch(tmp_path / file, state), x, z, y).card
    assert (card.hook, card.lm, card.format, card.name) == (hook, lm, format, file.rpartition(".")[0])


CFG = {
    "hook_point": "blocks.8.ln2.hook_normalized",
    "out_hook_point": "blocks.8.hook_mlp_out",
    "model_name": "gpt2-small",
    "dtype": Global("torch", "float32"),
    "context_size": 128,
}


@pytest.mark.parametrize("as_object", [True, False])
def test_dunefskys_transcoders_have_a_bias_in_and_one_out(as_object, tmp_path):
    state = {"W_enc": random(D, M), "b_enc": random(M), "W_dec": random(M, D_OUT), "b_dec": random(D)}
    state["b_dec_out"] = random(D_OUT)
    w, x = wide(state), inputs(D)
    z = relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    cfg = Object(Global("sae_training.config", "LanguageModelSAERunnerConfig"), CFG) if as_object else CFG
    path = write_torch(tmp_path / "transcoder-8.pt", {"cfg": cfg, "state_dict": state})
    sae = agrees(path, x, z, z @ w["W_dec"] + w["b_dec_out"])
    assert (sae.card.hook, sae.card.hook_out) == (CFG["hook_point"], CFG["out_hook_point"])
    assert json.loads(sae.card.declared) == {"context": 128} and sae.card.lm == "gpt2-small"
    with pytest.raises(InputError, match="'scaling_factor' has no place"):
        load_sae(write_torch(path, {"cfg": cfg, "state_dict": state | {"scaling_factor": random(M)}}))


def test_saes_of_the_same_trainer(tmp_path):
    state = {"W_enc": random(D, M), "b_enc": random(M), "W_dec": random(M, D), "b_dec": random(D)}
    w, x = wide(state), inputs(D)
    z = relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    cfg = Object(Global("sae_training.config", "LanguageModelSAERunnerConfig"), {"hook_point": "blocks.2.hook_mlp_out"})
    path = write_torch(tmp_path / "final.pt", {"cfg": cfg, "state_dict": state})
    sae = agrees(path, x, z, z @ w["W_dec"] + w["b_dec"])
    assert (sae.card.hook, sae.card.hook_out) == ("blocks.2.hook_mlp_out", None)


@pytest.mark.parametrize("d", [D, M])
def test_hook_z(d, tmp_path):
    """With as many latents as inputs, only the configuration beside it tells it from Qwen Scope's turned matrices."""
    state = {"W_enc": random(d, M), "b_enc": random(M), "W_dec": random(M, d), "b_dec": random(d)}
    w, x = wide(state), inputs(d)
    z = relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    cfg = {"act_name": "blocks.5.attn.hook_z", "act_size": d, "dict_size": M, "model_name": "gpt2-small"}
    (tmp_path / "gpt2_z_cfg.json").write_text(json.dumps(cfg))
    sae = agrees(write_torch(tmp_path / "gpt2_z.pt", state), x, z, z @ w["W_dec"] + w["b_dec"])
    assert (sae.card.hook, sae.card.lm, sae.card.format) == ("blocks.5.attn.hook_z", "gpt2-small", "hook-z")
    (tmp_path / "gpt2_z_cfg.json").write_text(json.dumps(cfg | {"dict_size": 21}))
    with pytest.raises(InputError, match="dict_size = 21, the weights say 20"):
        load_sae(tmp_path)


REFUSED = {
    "mntss clt": ("W_enc_0.safetensors", {"W_enc_0": random(M, D), "b_enc_0": random(M)}, "a cross-layer transcoder"),
    "mntss decoder": ("W_dec_3.safetensors", {"W_dec_3": random(M, 2, D)}, "a cross-layer transcoder"),
    "temporal": (
        "latest_ckpt.safetensors",
        {"D": random(M, D), "b": random(1, D), "attn_layers.0.k_ctx.weight": random(4, D)},
        "a temporal SAE",
    ),
    "crosscoder of models": (
        "cc_weights.pt",
        {"W_enc": random(2, D, M), "W_dec": random(M, 2, D), "b_enc": random(M), "b_dec": random(2, D)},
        "a crosscoder",
    ),
    "crosscoder on the hub": (
        "model.safetensors",
        {"encoder.weight": random(2, D, M), "encoder.bias": random(M), "decoder.weight": random(2, M, D)},
        "a crosscoder",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_known_and_not_supported(what, tmp_path):
    file, tensors, message = REFUSED[what]
    write = write_torch if file.endswith(".pt") else lambda path, tensors: save_file(tensors, path)
    write(tmp_path / file, tensors)
    with pytest.raises(InputError, match=f"{file}: {message}.*; it is not supported, SAEs and per-layer"):
        load_sae(tmp_path / file)


def test_a_folder_of_many_that_are_not_supported(tmp_path):
    for layer in range(3):
        save_file({f"W_enc_{layer}": random(M, D)}, tmp_path / f"W_enc_{layer}.safetensors")
    with pytest.raises(InputError, match="a cross-layer transcoder"):
        load_sae(tmp_path)


@pytest.mark.parametrize("kind", ["clt", "crosscoder", "lorsa", "molt"])
def test_types_of_language_model_saes(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"sae_type": kind}))
    save_file({"W_Q": random(2, D, D), "W_O": random(M, D)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(InputError, match="it is not supported, SAEs and per-layer transcoders are"):
        load_sae(tmp_path)
