"""Folders that SAELens wrote, and that it reads: latents and reconstruction of every architecture and normalisation."""

import dataclasses
import itertools
import json
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jsaeval.sae.load import load_sae, save_sae
from tests.tiny import tiny_sae


pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-saelens" / "bin" / "python"
SCRIPT = Path(__file__).parent / "saelens_reference.py"
OURS = [
    ("relu", "none"),
    ("topk", "layer_norm"),
    ("jumprelu", "constant_norm"),
    ("gated", "none"),
    ("gated", "layer_norm"),
]
OURS += [("batch_topk", "none")]


def run(command: str, folder: Path) -> None:
    assert PYTHON.exists(), "no environment of SAELens; run `make test-peers`"
    subprocess.run([PYTHON, SCRIPT, command, folder], check=True, capture_output=True, text=True)


def worst(folder: Path) -> float:
    """Largest difference, in latents or reconstruction."""
    expected, sae = np.load(folder / "reference.npz"), load_sae(folder)
    x = jnp.asarray(expected["x"])
    z = sae.encode(x)
    assert 0 < np.count_nonzero(expected["z"]) < expected["z"].size
    np.testing.assert_array_equal(np.asarray(z) != 0, expected["z"] != 0)
    pairs = (z, expected["z"]), (sae.decode(z, x), expected["xhat"])
    return max(float(np.abs(np.asarray(ours) - theirs).max()) for ours, theirs in pairs)


def test_folders_that_saelens_wrote(tmp_path):
    run("write", tmp_path)
    folders = sorted(tmp_path.iterdir())
    found = {folder.name: worst(folder) for folder in folders}
    print(f"SAELens → jsaeval: worst of {len(found)} SAEs {max(found.values()):.1e}")
    assert len(found) == 40 and max(found.values()) < 1e-5, found
    sae = load_sae(tmp_path / "jumprelu_skip_transcoder")
    assert sae.W_skip is not None and sae.card.hook_out == "blocks.1.hook_mlp_out"


def test_folders_that_we_wrote(tmp_path):
    for activation, norm in OURS:
        save_sae(tiny_sae(activation, input_norm=norm), tmp_path / f"{activation}-{norm}", format="saelens")
    for kind, skip in itertools.product(("relu", "jumprelu"), (False, True)):
        sae = tiny_sae(kind)
        skipping = jnp.asarray(np.random.default_rng(3).standard_normal((16, 16)), jnp.float32) if skip else None
        sae = dataclasses.replace(
            sae, W_skip=skipping, card=dataclasses.replace(sae.card, hook_out="blocks.1.hook_out")
        )
        save_sae(sae, tmp_path / f"{kind}-{skip}", format="saelens")
    run("read", tmp_path)
    found = {folder.name: worst(folder) for folder in tmp_path.iterdir()}
    print(f"jsaeval → SAELens: worst of {len(found)} SAEs {max(found.values()):.1e}")
    assert len(found) == len(OURS) + 4 and max(found.values()) < 1e-5, found


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("standard", {}),
        ("centred", {"apply_b_dec_to_input": False}),
        ("topk", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 7}}),
        ("layer_norm", {"normalize_activations": "layer_norm"}),
        ("version 2", {"hook_point": "blocks.1.hook_resid_post", "hook_point_head_index": None, "hook_name": None}),
    ],
)
def test_folders_of_version_5(tmp_path, name, extra):
    """The flat configuration of before version 6, as SAELens itself reads it today."""
    folder = tmp_path / name
    folder.mkdir()
    sae = tiny_sae()
    save_file(
        {n: np.asarray(getattr(sae, n)) for n in ("W_enc", "b_enc", "W_dec", "b_dec")},
        folder / "sae_weights.safetensors",
    )
    cfg = {"architecture": "standard", "d_in": 16, "d_sae": 40, "dtype": "float32", "device": "cpu"}
    cfg |= {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post", "hook_layer": 1, "hook_head_index": None}
    cfg |= {"activation_fn_str": "relu", "context_size": 128, "sae_lens_training_version": "5.3.0"} | extra
    (folder / "cfg.json").write_text(json.dumps({key: value for key, value in cfg.items() if value is not None}))
    run("read", tmp_path)
    assert load_sae(folder).card.hook == "blocks.1.hook_resid_post"
    assert worst(folder) < 1e-5
