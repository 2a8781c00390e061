"""SAELens 6 folders: `cfg.json` and `sae_weights.safetensors` (formats of sae-lens 6.54).

`W_enc` is (d_in, d_sae) and `W_dec` (d_sae, d_in), as in the canonical form. With `apply_b_dec_to_input` the decoder
bias is subtracted from the input; else there is no input bias.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike
from safetensors.numpy import save_file

from jsaeval.cache import atomic, sha256_of
from jsaeval.errors import InputError, nearest
from jsaeval.sae.formats.tensors import make_sae, read_json, read_safetensors
from jsaeval.sae.module import SAE, SAECard


NAME = "saelens"
_ACTIVATIONS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
_ARCHITECTURES = {activation: name for name, activation in _ACTIVATIONS.items()}
_READ = {"architecture", "d_in", "d_sae", "k", "apply_b_dec_to_input", "metadata"}
_BOOKKEEPING = {"dtype", "device", "reshape_activations"}  # activations at attn.hook_z are always flat here
_FIXED = {"normalize_activations": "none", "rescale_acts_by_decoder_norm": False}


def recognise(path: Path) -> bool:
    """Whether a folder is in this format."""
    return (path / "cfg.json").is_file()


def read(folder: Path) -> SAE:
    """Read an SAE; weights come out as float32.

    Raises:
        InputError: see `make_sae`; also an architecture, attribute or value that is not supported.
    """
    path = folder / "cfg.json"
    cfg = read_json(path)
    metadata = cfg.get("metadata")
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: no 'metadata', so written by SAELens before 6; load and save it with SAELens 6")
    architecture = cfg.get("architecture")
    if architecture not in _ACTIVATIONS:
        raise InputError(
            f"{path}: architecture {architecture!r} is not supported{nearest(str(architecture), _ACTIVATIONS)}"
        )
    if unknown := sorted(set(cfg) - _READ - _BOOKKEEPING - set(_FIXED)):
        raise InputError(f"{path}: unknown attribute(s) {', '.join(unknown)} for architecture {architecture!r}")
    for key, value in _FIXED.items():
        if cfg.get(key, value) != value:
            raise InputError(f"{path}: {key} = {cfg[key]!r} is not supported (only {value!r} is)")

    weights = folder / "sae_weights.safetensors"
    tensors, _ = read_safetensors(weights)
    if cfg.get("apply_b_dec_to_input", False) and "b_dec" in tensors:
        tensors["b_pre"] = tensors["b_dec"]
    card = SAECard(
        name=folder.name,
        hook=metadata.get("hook_name"),
        lm=metadata.get("model_name"),
        source=str(folder),
        format=NAME,
        sha256=sha256_of(weights),
        declared=json.dumps(metadata, sort_keys=True, default=str),
    )
    sae = make_sae(tensors, str(weights), activation=_ACTIVATIONS[architecture], k=cfg.get("k"), card=card)
    for key, found in (("d_in", sae.d_in), ("d_sae", sae.d_sae)):
        if cfg.get(key, found) != found:
            raise InputError(f"{folder}: cfg.json says {key} = {cfg[key]}, the weights say {found}")
    return sae


def write(sae: SAE, folder: Path, dtype: DTypeLike = jnp.float32) -> None:
    """Write a folder that SAELens 6 loads. An input bias that is not b_dec is folded into b_enc, which is exact."""
    b_enc, tied = np.asarray(sae.b_enc, np.float64), False
    if sae.b_pre is not None:
        tied = bool(jnp.array_equal(sae.b_pre, sae.b_dec)) if sae.d_in == sae.d_out else False
        if not tied:
            b_enc = b_enc - np.asarray(sae.b_pre, np.float64) @ np.asarray(sae.W_enc, np.float64)
    tensors = {"W_enc": sae.W_enc, "b_enc": jnp.asarray(b_enc, jnp.float32), "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    cfg: dict[str, Any] = {
        "architecture": _ARCHITECTURES[sae.activation],
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": jnp.dtype(dtype).name,
        "device": "cpu",
        "apply_b_dec_to_input": tied,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": sae.card.hook, "model_name": sae.card.lm},
    }
    if sae.activation == "topk":
        cfg |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "sae_weights.safetensors") as temporary:
        save_file({name: np.asarray(tensor.astype(dtype)) for name, tensor in tensors.items()}, temporary)
    with atomic(folder / "cfg.json") as temporary:
        temporary.write_text(json.dumps(cfg, indent=2) + "\n", encoding="utf-8")
