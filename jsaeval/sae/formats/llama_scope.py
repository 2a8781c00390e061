"""Llama Scope (He et al. 2024, arXiv 2410.20526): `hyperparams.json` and `checkpoints/final.safetensors`.

The weights are for inputs scaled to an average norm of sqrt(d), and outputs likewise. The threshold is not: it applies
to latents in the units of the LM with decoder rows of norm 1. So the scales are folded first, then the norms of the
decoder, and only then is there a threshold.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jsaeval.errors import InputError, nearest
from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import look, peek, read_json
from jsaeval.sae.module import SAE


NAME = "llama-scope"
_TENSORS = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T", "decoder.bias": "b_dec"}
_WEIGHTS = Path("checkpoints", "final.safetensors")
_ACTIVATIONS = ("jumprelu", "topk", "relu")


def recognise(path: Path) -> str | None:
    """What says that a folder, or the weights in it, are in this format."""
    folder, weights = _places(path)
    if not (folder / "hyperparams.json").is_file() or (contents := peek(weights)) is None:
        return None
    return "hyperparams.json and encoder.weight, decoder.weight" if contents.has("encoder.weight") else None


def read(path: Path) -> SAE:
    """Read an SAE or a transcoder.

    Raises:
        InputError: see `make_sae`; a setting in `hyperparams.json` that is missing or not supported.
    """
    folder, weights = _places(path)
    config = folder / "hyperparams.json"
    cfg = read_json(config)
    act = str(cfg.get("act_fn", "jumprelu")).lower()
    if act not in _ACTIVATIONS:
        raise InputError(f"{config}: act_fn {act!r} is not supported{nearest(act, _ACTIVATIONS)}")
    if cfg.get("use_glu_encoder", False):
        raise InputError(f"{config}: use_glu_encoder, an encoder with a gate of its own, is not supported")
    tensors = look(weights).read(_TENSORS)
    hook, hook_out = cfg.get("hook_point_in"), cfg.get("hook_point_out")
    mean_in, mean_out = _means(config, cfg)
    declared = {"l0": cfg.get("top_k"), "mean_norm": mean_in}
    card = make_card(weights, NAME, hook, hook_out, cfg.get("model_name"), folder.name, declared)
    sae = make_sae(tensors, str(weights), card=dataclasses.replace(card, source=str(folder)))
    scale_in, scale_out = sae.d_in**0.5 / mean_in, sae.d_out**0.5 / mean_out
    centred = cfg.get("apply_decoder_bias_to_pre_encoder", False)
    if centred and sae.d_in != sae.d_out:
        raise InputError(f"{config}: apply_decoder_bias_to_pre_encoder asks for outputs as wide as inputs")
    unit = dataclasses.replace(
        sae,
        b_enc=sae.b_enc / scale_in,
        W_dec=sae.W_dec * (scale_in / scale_out),
        b_dec=sae.b_dec / scale_out,
        b_pre=sae.b_dec / scale_in if centred else None,
    ).with_unit_decoder()
    if act == "topk":
        return dataclasses.replace(unit, activation="topk", k=_needed(config, cfg, "top_k"))
    if act == "relu":
        return unit
    threshold = jnp.full(sae.d_sae, _needed(config, cfg, "jump_relu_threshold"), jnp.float32)
    return dataclasses.replace(unit, activation="jumprelu", threshold=threshold)


def _places(path: Path) -> tuple[Path, Path]:
    """The folder and its weights, whichever of them `path` is."""
    return (path.parent.parent, path) if path.is_file() else (path, path / _WEIGHTS)


def _means(config: Path, cfg: dict[str, Any]) -> tuple[Any, Any]:
    """The average norms of input and output, which training brought to sqrt(d)."""
    how = cfg.get("norm_activation", "dataset-wise")
    if how != "dataset-wise":
        raise InputError(f"{config}: norm_activation = {how!r} is not supported; known: 'dataset-wise'")
    norms = _needed(config, cfg, "dataset_average_activation_norm")
    sound = isinstance(norms, dict) and all(
        isinstance(v, (int, float)) and 0 < v < float("inf") for v in norms.values()
    )
    if not sound:
        raise InputError(f"{config}: dataset_average_activation_norm is no table of positive numbers 'in' and 'out'")
    return _needed(config, norms, "in"), _needed(config, norms, "out")


def _needed(config: Path, table: dict[str, Any], key: str) -> Any:
    if table.get(key) is None:
        raise InputError(f"{config}: {key!r} is missing, without which the SAE is not known")
    return table[key]
