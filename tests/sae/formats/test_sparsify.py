import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jsaeval.errors import InputError
from jsaeval.hooks import parse_hook
from jsaeval.sae.load import load_sae
from tests.sae.formats.check import agrees, inputs, random, topk, wide
from tests.sae.formats.torch_file import bfloat16


D, M, D_OUT, K = 6, 20, 9, 4
CFG = {"activation": "topk", "expansion_factor": 4, "normalize_decoder": True, "num_latents": 20, "k": K, "d_in": D}
CFG |= {"multi_topk": False, "skip_connection": False, "transcode": False}


def state(d_out=D):
    return {
        "encoder.weight": random(M, D),
        "encoder.bias": random(M),
        "W_dec": random(M, d_out),
        "b_dec": random(d_out),
    }


def original(tensors, cfg, x):
    w = wide(tensors)
    centred = x if cfg["transcode"] else x - w["b_dec"]
    z = topk(centred @ w["encoder.weight"].T + w["encoder.bias"], K)
    return z, z @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if cfg["skip_connection"] else 0)


def folder(root, module, tensors, cfg, run=None):
    (root / module).mkdir(parents=True)
    (root / module / "cfg.json").write_text(json.dumps(cfg))
    save_file(tensors, root / module / "sae.safetensors")
    if run:
        (root / "config.json").write_text(json.dumps(run))
    return root / module


@pytest.mark.parametrize(
    ("module", "hook"),
    [
        ("layers.7", "blocks.7.hook_resid_post"),
        ("layers.7.mlp", "layers.7.mlp.output"),
        ("h.7.attn", "h.7.attn.output"),
        ("layers.7.self_attn.o_proj", "layers.7.self_attn.o_proj.output"),
        ("embed_tokens", "blocks.0.hook_resid_pre"),
        ("something", None),
    ],
)
def test_saes_centre_their_input(module, hook, tmp_path):
    """What a module gives out inside a block is another site in other families, so its path is kept."""
    x, tensors = inputs(D), state()
    run = {"model": "HuggingFaceTB/SmolLM2-135M", "ctx_len": 2048, "dataset": "fineweb"}
    sae = agrees(folder(tmp_path, module, tensors, CFG, run), x, *original(tensors, CFG, x))
    assert (sae.card.hook, sae.card.hook_out, sae.card.lm) == (hook, None, "HuggingFaceTB/SmolLM2-135M")
    assert json.loads(sae.card.declared) == {"l0": K, "context": 2048, "dataset": "fineweb"}


@pytest.mark.parametrize("skip", [False, True])
def test_transcoders(skip, tmp_path):
    x, cfg = inputs(D), CFG | {"transcode": True, "skip_connection": skip}
    tensors = state(D_OUT) | ({"W_skip": random(D_OUT, D)} if skip else {})
    tensors = {name: bfloat16(t) for name, t in tensors.items()}
    sae = agrees(folder(tmp_path, "layers.7.mlp", tensors, cfg), x, *original(tensors, cfg, x))
    assert (sae.card.hook, sae.card.hook_out) == ("blocks.7.mlp.hook_in", "layers.7.mlp.output")
    assert parse_hook(sae.card.hooks or "", family="llama").name == "blocks.7.mlp.hook_in:hook_mlp_out"
    with pytest.raises(InputError, match="no site in gemma2, where a norm follows"):
        parse_hook(sae.card.hooks or "", family="gemma2")


def test_a_skip_beside_an_sae(tmp_path):
    x, cfg, tensors = inputs(D), CFG | {"skip_connection": True}, state() | {"W_skip": random(D, D)}
    agrees(folder(tmp_path, "layers.7", tensors, cfg), x, *original(tensors, cfg, x))


@pytest.mark.parametrize(
    ("cfg", "tensors", "message"),
    [
        ({"activation": "groupmax"}, {}, "activation 'groupmax' is not supported; known: 'topk'"),
        ({"signed": True}, {}, "signed, latents that may be negative"),
        ({"skip_connection": True}, {}, "skip_connection = True, the weights say otherwise"),
        ({}, {"W_skip": random(D, D)}, "skip_connection = False, the weights say otherwise"),
        ({"d_in": 7}, {}, "d_in = 7, the weights say 6"),
        ({"k": None}, {}, "k belongs to topk"),
        ({"k": True}, {}, r"k = True is not in 1\.\.20"),
        ({"transcode": "no"}, {}, "transcode = 'no'; true or false was expected"),
        ({"skip_connection": 1}, {"W_skip": random(D, D)}, "skip_connection = 1; true or false was expected"),
        ({"signed": "false"}, {}, "signed = 'false'; true or false was expected"),
        ({}, {"W_dec": random(D, M)}, "W_dec has shape"),
    ],
)
def test_what_is_refused(cfg, tensors, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_sae(folder(tmp_path, "layers.7", state() | tensors, CFG | cfg))


def test_no_configuration(tmp_path):
    save_file({name: np.asarray(t) for name, t in state().items()}, tmp_path / "sae.safetensors")
    with pytest.raises(InputError, match=r"cfg\.json: no such file"):
        load_sae(tmp_path)
