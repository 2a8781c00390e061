"""`jsaeval show` and `jsaeval run` on one small checkpoint of every layout, all in the shipped LM."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from jsaeval.cli import main
from jsaeval.run.saes import find_saes
from jsaeval.sae.load import FORMATS, load_sae, save_sae
from tests.sae.formats.check import random
from tests.sae.formats.torch_file import Global, Object, write_torch
from tests.tiny import tiny_sae


D, HIDDEN, M = 96, 256, 40
ENCODER, DECODER = random(M, D), random(D, M)
LINEAR = {"encoder.weight": ENCODER, "encoder.bias": random(M), "decoder.weight": DECODER, "decoder.bias": random(D)}
MATRICES = {"W_enc": random(D, M), "b_enc": random(M), "W_dec": random(M, D), "b_dec": random(D)}
THRESHOLD = {"threshold": np.abs(random(M))}
TURNED = {name: np.ascontiguousarray(tensor.T) for name, tensor in MATRICES.items()}
POST, MLP = "blocks.1.hook_resid_post", ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")


def laid(path: Path, tensors: dict, beside: str = "", content: dict | None = None) -> Path:
    """A file of tensors, and a configuration beside or above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if beside:
        write = yaml.safe_dump if beside.endswith("yaml") else json.dumps
        (path.parent / beside).write_text(write(content))
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        write_torch(path, tensors)
    return path


def native(root: Path) -> Path:
    save_sae(tiny_sae("relu", d_in=D), root / "own.safetensors")
    return root / "own.safetensors"


def saelens(root: Path) -> Path:
    save_sae(tiny_sae("gated", d_in=D), root / "saelens", "saelens")
    return root / "saelens"


def transcoder_circuits(root: Path) -> Path:
    cfg = {"hook_point": "blocks.1.ln2.hook_normalized", "out_hook_point": MLP[1], "model_name": "tiny"}
    made = Object(Global("sae_training.config", "LanguageModelSAERunnerConfig"), cfg)
    return laid(root / "transcoder.pt", {"cfg": made, "state_dict": MATRICES | {"b_dec_out": random(D)}})


# Reader → where its checkpoint lies. Folders are named as in the repositories that have them.
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "jsaeval": native,
    "saelens": saelens,
    "gemma-scope": lambda root: laid(
        root / "gemma-scope-2b-pt-mlp/layer_1/width_16k/average_l0_12/params.npz", MATRICES | THRESHOLD
    ),
    "gemma-scope-2": lambda root: laid(
        root / "transcoder_all/layer_1_width_16k_l0_small_affine/params.safetensors",
        {name.lower(): tensor for name, tensor in MATRICES.items()}
        | THRESHOLD
        | {"affine_skip_connection": random(D, D, scale=0.01)},
    ),
    "dictionary-learning": lambda root: laid(
        root / "resid_post_layer_1/trainer_0/ae.pt",
        MATRICES | THRESHOLD,
        "config.json",
        {
            "trainer": {
                "dict_class": "JumpReluAutoEncoder",
                "activation_dim": D,
                "dict_size": M,
                "layer": 1,
                "lm_name": "tiny",
                "submodule_name": "resid_post_layer_1",
            },
            "buffer": {"ctx_len": 128},
        },
    ),
    "sparsify": lambda root: laid(
        root / "layers.1.mlp/sae.safetensors",
        {name: LINEAR[name] for name in ("encoder.weight", "encoder.bias")}
        | {name: MATRICES[name] for name in ("W_dec", "b_dec")}
        | {"W_skip": random(D, D, scale=0.01)},
        "cfg.json",
        {
            "activation": "topk",
            "expansion_factor": 1,
            "normalize_decoder": True,
            "num_latents": M,
            "k": 4,
            "d_in": D,
            "multi_topk": False,
            "skip_connection": True,
            "transcode": True,
        },
    ),
    "openai": lambda root: laid(
        root / "mlp_post_act/autoencoders/1.pt",
        {
            "pre_bias": random(HIDDEN),
            "latent_bias": random(M),
            "encoder.weight": random(M, HIDDEN),
            "decoder.weight": random(HIDDEN, M),
            "stats_last_nonzero": np.zeros(M, np.int64),
        },
    ),
    "llama-scope": lambda root: laid(
        root / "L1R-8x/checkpoints/final.safetensors",
        LINEAR,
        "../hyperparams.json",
        {
            "d_model": D,
            "d_sae": M,
            "expansion_factor": M / D,
            "act_fn": "jumprelu",
            "jump_relu_threshold": 0.2,
            "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": {"in": 5.0, "out": 5.0},
            "apply_decoder_bias_to_pre_encoder": False,
            "use_glu_encoder": False,
            "hook_point_in": POST,
            "hook_point_out": POST,
        },
    ),
    "lm-saes": lambda root: laid(
        root / "lm-saes/sae_weights.safetensors",
        {"W_E": MATRICES["W_enc"], "b_E": random(M), "W_D": MATRICES["W_dec"], "b_D": random(D)},
        "config.json",
        {
            "sae_type": "sae",
            "act_fn": "relu",
            "norm_activation": "token-wise",
            "hook_point_in": "blocks.1.hook_attn_out",
            "hook_point_out": "blocks.1.hook_attn_out",
        },
    ),
    "qwen-scope": lambda root: laid(root / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3/layer1.sae.pt", TURNED),
    "circuit-tracer": lambda root: laid(
        root / "transcoders/layer_1.safetensors",
        MATRICES | {"W_enc": TURNED["W_enc"]},
        "config.yaml",
        {"model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"},
    ),
    "transcoder-circuits": transcoder_circuits,
    "e2e-sae": lambda root: laid(
        root / "e2e/samples_400000.pt",
        {
            "blocks-1-hook_resid_pre.encoder.0.weight": ENCODER,
            "blocks-1-hook_resid_pre.encoder.0.bias": random(M),
            "blocks-1-hook_resid_pre.decoder.weight": DECODER,
            "blocks-1-hook_resid_pre.decoder.bias": random(D),
        },
    ),
    "hook-z": lambda root: laid(
        root / "hook_z/z.pt",
        MATRICES,
        "z_cfg.json",
        {"act_name": "blocks.1.attn.hook_z", "act_size": D, "dict_size": M, "model_name": "tiny"},
    ),
    "goodfire": lambda root: laid(
        root / "Llama-3.1-8B-Instruct-SAE-l1.pth",
        {name.replace(".", "_linear."): tensor for name, tensor in LINEAR.items()},
    ),
    "linear": lambda root: laid(root / "DeepSeek-R1-Distill-Llama-8B-SAE-l1.pt", LINEAR),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return {name: lay(tmp_path_factory.mktemp(name)) for name, lay in LAYOUTS.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_every_reader_says_that_it_took_its_layout_and_why(paths, name, capsys):
    assert main(["show", str(paths[name])]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    reader, _, why = lines["format"].strip().partition(" (")
    assert reader == name and len(why) > 5
    assert lines["hook"].strip().startswith("blocks.1.") and f"{M} latents" in lines["width"]


def test_a_pattern_over_everything_takes_each_once(tmp_path):
    for lay in LAYOUTS.values():
        lay(tmp_path)
    found, _ = find_saes([f"{tmp_path}/**"])
    assert len(found) == len(LAYOUTS) and len({load_sae(name).card.sha256 for name in found}) == len(LAYOUTS)


def test_all_of_them_run(paths, tmp_path, capsys):
    saes = [flag for path in paths.values() for flag in ("--sae", str(path))]
    asked = [
        "--lm",
        "tiny",
        "--rows",
        "2",
        "--context",
        "16",
        "--no-controls",
        "--metrics",
        "norms,reconstruction,loss",
    ]
    assert main(["run", *asked, *saes, "--out", str(tmp_path / "run")]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [sae["source"]["format"] for sae in report["saes"]] == list(LAYOUTS)
    for sae in report["saes"]:
        assert np.isfinite(sae["metrics"]["downstream_loss"]["value"]) and sae["metrics"]["l0"]["value"] > 0, sae[
            "name"
        ]
    hooks = {sae["source"]["format"]: sae["hook"] for sae in report["saes"]}
    assert hooks["sparsify"] == hooks["circuit-tracer"] == hooks["gemma-scope-2"] == "blocks.1.mlp.hook_in:hook_mlp_out"
    assert hooks["openai"] == "blocks.1.mlp.hook_post" and hooks["hook-z"] == "blocks.1.attn.hook_z"
    warned = [sae["behaviour"]["warnings"] for sae in report["saes"]]
    assert any("worse than the mean of x" in line for lines in warned for line in lines)
    assert "warning:" in capsys.readouterr().out
