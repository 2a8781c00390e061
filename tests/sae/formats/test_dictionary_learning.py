import json

import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.sae.load import load_sae
from tests.sae.formats.check import agrees, inputs, random, relu, topk, wide
from tests.sae.formats.torch_file import write_torch


D, M, K = 6, 20, 4
LINEAR = {"encoder.weight": random(M, D), "encoder.bias": random(M), "decoder.weight": random(D, M)}
MATRICES = {"W_enc": random(D, M), "b_enc": random(M), "W_dec": random(M, D), "b_dec": random(D)}
SIZES = {"k": np.array(K), "threshold": np.array(0.3, np.float32)}
STATES = {
    "AutoEncoder": LINEAR | {"bias": random(D)},
    "AutoEncoderNew": LINEAR | {"decoder.bias": random(D)},
    "GatedAutoEncoder": {
        "encoder.weight": random(M, D),
        "decoder.weight": random(D, M),
        "decoder_bias": random(D),
        "r_mag": random(M),
        "gate_bias": random(M, scale=0.2),
        "mag_bias": random(M, scale=0.4),
    },
    "AutoEncoderTopK": LINEAR | {"b_dec": random(D)} | SIZES,
    "BatchTopKSAE": LINEAR | {"b_dec": random(D)} | SIZES,
    "MatryoshkaBatchTopKSAE": MATRICES | SIZES | {"group_sizes": np.array([4, 6, 10])},
    "JumpReluAutoEncoder": MATRICES | {"threshold": np.abs(random(M))},
}


def original(kind, state, x):
    """Each class's `forward`, as its file has it."""
    w = wide(state)
    if kind == "AutoEncoder":
        z = relu((x - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"])
        return z, z @ w["decoder.weight"].T + w["bias"]
    if kind == "AutoEncoderNew":
        z = relu(x @ w["encoder.weight"].T + w["encoder.bias"])
        return z, z @ w["decoder.weight"].T + w["decoder.bias"]
    if kind == "GatedAutoEncoder":
        e = (x - w["decoder_bias"]) @ w["encoder.weight"].T
        z = (e + w["gate_bias"] > 0) * relu(np.exp(w["r_mag"]) * e + w["mag_bias"])
        return z, z @ w["decoder.weight"].T + w["decoder_bias"]
    if kind in ("AutoEncoderTopK", "BatchTopKSAE"):
        acts = relu((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
        z = topk(acts, K) if kind == "AutoEncoderTopK" else acts * (acts > w["threshold"])
        return z, z @ w["decoder.weight"].T + w["b_dec"]
    if kind == "MatryoshkaBatchTopKSAE":
        acts = relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
        z = acts * (acts > w["threshold"])
    else:
        p = x @ w["W_enc"] + w["b_enc"]
        z = relu(p * (p > w["threshold"]))
    return z, z @ w["W_dec"] + w["b_dec"]


def folder(root, state, kind=None, trainer=(), buffer=None, name="ae.pt"):
    config = {"trainer": {"dict_class": kind, "activation_dim": D, "dict_size": M, "layer": 8, "lm_name": "pythia"}}
    config["trainer"] |= {"submodule_name": "resid_post_layer_8", **dict(trainer)}
    write_torch(root / "trainer_3" / name, state)
    if kind:
        (root / "trainer_3" / "config.json").write_text(json.dumps(config | {"buffer": buffer or {"ctx_len": 128}}))
    return root / "trainer_3"


@pytest.mark.parametrize("kind", STATES)
def test_every_class(kind, tmp_path):
    x = inputs(D)
    sae = agrees(folder(tmp_path, STATES[kind], kind), x, *original(kind, STATES[kind], x))
    assert (sae.card.hook, sae.card.lm, sae.card.format) == (
        "blocks.8.hook_resid_post",
        "pythia",
        "dictionary-learning",
    )
    declared = json.loads(sae.card.declared)
    assert declared["context"] == 128 and declared.get("l0") == (K if "k" in STATES[kind] else None)


@pytest.mark.parametrize("kind", ["AutoEncoder", "GatedAutoEncoder", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"])
def test_without_a_config_the_tensors_tell(kind, tmp_path):
    x = inputs(D)
    sae = agrees(folder(tmp_path, STATES[kind]) / "ae.pt", x, *original(kind, STATES[kind], x))
    assert sae.card.hook is None and kind in sae.card.why


def test_old_topk_files_have_k_in_the_config_only(tmp_path):
    state = {name: t for name, t in STATES["AutoEncoderTopK"].items() if name not in SIZES}
    x = inputs(D)
    agrees(folder(tmp_path, state, "AutoEncoderTopK", {"k": K}), x, *original("AutoEncoderTopK", state, x))
    unset = state | {"k": np.array(K), "threshold": np.array(-1.0, np.float32)}
    agrees(folder(tmp_path / "b", unset, "AutoEncoderTopK"), x, *original("AutoEncoderTopK", state, x))


@pytest.mark.parametrize("kind", STATES)
def test_backups_are_in_the_units_of_training(kind, tmp_path):
    """They read x / norm_factor and write y / norm_factor; latents come out in the units of x, as in the last file."""
    factor, x = 3.0, inputs(D)
    backup = {
        "step": 100,
        "ae": STATES[kind],
        "optimizer": {"state": {0: {"exp_avg": random(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "config": {"dict_class": kind, "layer": 3, "k": K},
        "norm_factor": np.array(factor, np.float32),
    }
    z, y = original(kind, STATES[kind], x)
    path = write_torch(tmp_path / "ae_100.pt", backup)
    if kind == "AutoEncoderNew":  # its tensors are not a name of its own
        path = folder(tmp_path, backup, kind, {"layer": 3}, name="ae_100.pt")
    sae = agrees(path, x * factor, z * factor, y * factor)
    assert sae.card.hook == "blocks.3.hook_resid_post"


@pytest.mark.parametrize(
    ("submodule", "io", "hooks"),
    [
        ("resid_post_layer_8", "out", ("blocks.8.hook_resid_post", None)),
        ("resid_post_layer_8", "in", ("blocks.8.hook_resid_pre", None)),
        ("attn_out_layer_8", "out", ("model.layers.8.self_attn.output", None)),
        ("mlp_out_layer_8", "out", ("model.layers.8.mlp.output", None)),
        ("mlp8", "in", ("blocks.8.mlp.hook_in", None)),
        ("mlp8", "in_and_out", ("blocks.8.mlp.hook_in", "model.layers.8.mlp.output")),
        (None, "out", ("blocks.8.hook_resid_post", None)),
        ("something", "out", (None, None)),
    ],
)
def test_hooks(submodule, io, hooks, tmp_path):
    path = folder(tmp_path, STATES["AutoEncoder"], "AutoEncoder", {"submodule_name": submodule}, {"io": io})
    card = load_sae(path).card
    assert (card.hook, card.hook_out) == hooks


def test_transcoders_have_another_output(tmp_path):
    state = LINEAR | {"decoder.weight": random(9, M), "decoder.bias": random(9)}
    x = inputs(D)
    path = folder(tmp_path, state, "AutoEncoderNew", {"submodule_name": "mlp8"}, {"io": "in_and_out"})
    assert agrees(path, x, *original("AutoEncoderNew", state, x)).d_out == 9


TOPK = STATES["BatchTopKSAE"]


@pytest.mark.parametrize(
    ("state", "kind", "trainer", "message"),
    [
        (TOPK, None, {}, "those of AutoEncoderTopK or BatchTopKSAE; config.json says neither"),
        (TOPK, "AutoEncoder", {}, "those of AutoEncoderTopK or BatchTopKSAE; config.json says AutoEncoder"),
        (TOPK, "BatchTopK", {}, "dict_class 'BatchTopK' is not supported; did you mean 'BatchTopKSAE'"),
        (TOPK, "CrossCoder", {}, "dict_class 'CrossCoder' is not supported"),
        (TOPK | {"threshold": np.array(-1.0)}, "BatchTopKSAE", {}, "threshold was not estimated"),
        ({n: t for n, t in TOPK.items() if n != "threshold"}, "BatchTopKSAE", {}, "threshold was not estimated"),
        (TOPK, "BatchTopKSAE", {"dict_size": 21}, "config.json says dict_size = 21, the weights say 20"),
        (TOPK | {"activation_mean": random(D)}, "BatchTopKSAE", {}, "normalises its input with 'activation_mean'"),
        (LINEAR | {"decoder.weight": random(M, D), "bias": random(D)}, "AutoEncoder", {}, "W_dec has shape"),
    ],
)
def test_what_is_refused(state, kind, trainer, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_sae(folder(tmp_path, state, kind, trainer))


def test_a_normaliser_that_is_not_set_changes_nothing(tmp_path):
    nothing = {"activation_mean": np.full(D, np.nan), "activation_std": np.full(D, np.nan), "target_rms": np.array(1.0)}
    x = inputs(D)
    agrees(folder(tmp_path, TOPK | nothing, "BatchTopKSAE"), x, *original("BatchTopKSAE", TOPK, x))
