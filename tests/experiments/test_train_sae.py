"""The command: refusals come before anything is loaded, and a small training leaves what it says."""

from pathlib import Path

import pytest

from experiments.train_sae import Config, main
from jsaeval.errors import InputError
from jsaeval.sae.load import load_sae


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "relu"}, "--sparsity is missing: λ of relu"),
        ({"architecture": "jumprelu"}, "try 0.001"),
        ({"cached": True, "objective": "e2e"}, "--cached with --objective e2e"),
        ({"steps": 0}, "--steps 0: at least 1"),
        ({"checkpoint_every": 0}, "--checkpoint-every 0"),
        ({"sparsity": (8, 8)}, "a value is there twice"),
        ({"sparsity": (float("nan"),)}, "a finite number"),
        ({"sparsity": (2.5,)}, "counts latents"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(InputError, match=message):
        Config(Path("nowhere"), **changes).recipe()


def test_default_k():
    assert Config(Path("nowhere")).recipe().sparsity == (48,)
    assert Config(Path("nowhere"), architecture="relu", sparsity=(3.0,)).recipe().sparsity == (3.0,)


@pytest.mark.slow
def test_cached_activations(tmp_path, capsys):
    config = Config(
        tmp_path / "out",
        lm="tiny",
        hook="blocks.1.hook_resid_post",
        sparsity=(4, 8),
        width=128,
        tokens=20_000,
        steps=40,
        batch=256,
        cached=True,
        evaluations=0,
    )
    main(config)
    assert "topk-4.local.safetensors" in capsys.readouterr().out
    sae = load_sae(tmp_path / "out" / "topk-8.local.safetensors")
    assert (sae.k, sae.d_sae, sae.card.lm) == (8, 128, "tiny")
