"""Checkpoints that torch and the original libraries wrote: the same numbers, latents and output."""

import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.sae.formats.torch_zip import load_torch
from jsaeval.sae.load import load_sae


pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "sae_formats_reference.py"
# The environment of each, and how many checkpoints it writes.
LIBRARIES = {
    "sparsify": (".venv-formats", 4),
    "dictionary_learning": (".venv-dictionaries", 7),
    "llamascopium": (".venv-formats", 6),
    "circuit_tracer": (".venv-formats", 4),
}


def run(environment: str, command: str, folder: Path) -> None:
    python = ROOT / environment / "bin" / "python"
    assert python.exists(), f"no {environment}; run `make test-peers`"
    subprocess.run([python, SCRIPT, command, folder], check=True, capture_output=True, text=True)


def test_files_of_torch_save(tmp_path):
    """Every dtype and kind of tensor, in both kinds of file and three protocols, to the last bit."""
    run(".venv-peers", "torch", tmp_path)
    expected = np.load(tmp_path / "expected.npz")
    for name in ("zip", "legacy", "protocol4", "protocol5"):
        tree = load_torch(tmp_path / f"{name}.pt")
        for key in expected.files:
            np.testing.assert_array_equal(tree[key].numpy(), expected[key], err_msg=f"{name} {key}")
        for key in ("weight", "bias"):
            np.testing.assert_array_equal(tree["inner"][key].numpy(), expected[f"module.{key}"])
        rest = {"k": 32, "name": "é", "rate": 0.5, "none": None, "list": [1, "a", (2,)], "dtype": "bfloat16"}
        assert tree["rest"] == rest | {"device": "cpu", "size": (3, 4), "on": True, "big": 2**40}
    with pytest.raises(InputError, match=r"names 'torch\.nn\.modules\.linear\.Linear'; only tensors are read"):
        load_torch(tmp_path / "whole_module.pt")


@pytest.mark.parametrize("library", LIBRARIES)
def test_checkpoints_of_the_original_library(library, tmp_path):
    environment, n = LIBRARIES[library]
    run(environment, library, tmp_path)
    found = {}
    for reference in sorted(tmp_path.rglob("reference.npz")):
        weights = next(path for path in reference.parent.iterdir() if path.suffix in (".pt", ".safetensors"))
        expected, sae = np.load(reference), load_sae(weights)
        z = sae.encode(x := jnp.asarray(expected["x"]))
        assert 0 < np.count_nonzero(expected["z"]) < expected["z"].size
        np.testing.assert_array_equal(np.asarray(z) != 0, expected["z"] != 0)
        pairs = (z, expected["z"]), (sae.decode(z, x), expected["xhat"])
        errors = [np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max() for ours, theirs in pairs]
        found[reference.parent.name] = float(max(errors))
    print(f"{library} → jsaeval: worst of {len(found)} checkpoints {max(found.values()):.1e}, relative")
    assert len(found) == n and max(found.values()) < 1e-5, found
