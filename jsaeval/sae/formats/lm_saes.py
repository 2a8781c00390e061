"""Language-Model-SAEs or llamascopium (OpenMOSS): `config.json` and `sae_weights.safetensors`, or a torch file.

Two generations: Llama-Scope-R1 names linear layers (`encoder.weight`), version 2 matrices (`W_E`). The input is scaled
to an average norm of sqrt(d) before encoding and the output back; where the average is not in the file, it is measured
in the LM (`expected_average`). With `sparsity_include_decoder_norm` latents are selected in units of their decoder
rows: a threshold is divided by the norm of its row; for TopK the norms go into the latents.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jsaeval.errors import InputError, nearest
from jsaeval.sae.formats.assemble import make_card, make_sae, per_latent
from jsaeval.sae.formats.contents import Contents, look, peek, read_json
from jsaeval.sae.module import SAE


NAME = "lm-saes"
_R1 = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T", "decoder.bias": "b_dec"}
_R1 |= {"log_jumprelu_threshold": "log_threshold"}
_V2 = {"W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec"}
_V2 |= {"activation_function.log_jumprelu_threshold": "log_threshold", "W_E_glu": "glu"}
_ACTIVATIONS = ("relu", "jumprelu", "topk")
_NORMS = {"dataset-wise": "expected_average", "token-wise": "constant_norm", "inference": "none", "none": "none"}
_AVERAGE = "dataset_average_activation_norm."
_NESTED = "sae/"  # in a torch file


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or not (path.parent / "config.json").is_file():
        return None
    names = {name.removeprefix(_NESTED) for name in contents.tensors}
    if {"W_E", "W_D"} <= names:
        return "W_E and W_D, and config.json"
    return "log_jumprelu_threshold, and config.json" if {"encoder.weight", "log_jumprelu_threshold"} <= names else None


def read(path: Path) -> SAE:
    """Read an SAE or a transcoder.

    Raises:
        InputError: see `make_sae`; a setting in `config.json` that is not supported.
    """
    config, contents = path.parent / "config.json", look(path)
    cfg = read_json(config)
    if cfg.get("sae_type", "sae") not in ("sae", "transcoder"):
        raise InputError(f"{config}: sae_type {cfg['sae_type']!r} is not supported; known: 'sae'")
    prefix = _NESTED if any(name.startswith(_NESTED) for name in contents.tensors) else ""
    tensors = contents.read({prefix + old: new for old, new in (_R1 | _V2).items()})
    if "glu" in tensors or cfg.get("use_glu_encoder", False):
        raise InputError(f"{config}: use_glu_encoder, an encoder with a gate of its own, is not supported")
    log_threshold = tensors.pop("log_threshold", None)
    act = str(cfg.get("act_fn", "relu" if log_threshold is None else "jumprelu")).lower()
    if act not in _ACTIVATIONS or (act == "jumprelu") != (log_threshold is not None):
        raise InputError(f"{config}: act_fn {act!r} with these tensors is not supported{nearest(act, _ACTIVATIONS)}")
    if log_threshold is not None:
        tensors["threshold"] = per_latent(np.exp(log_threshold), tensors)
    if not cfg.get("use_decoder_bias", True) and "W_dec" in tensors:
        tensors.setdefault("b_dec", np.zeros(tensors["W_dec"].shape[1], np.float32))
    hook, hook_out = cfg.get("hook_point_in"), cfg.get("hook_point_out")
    how = cfg.get("norm_activation", "dataset-wise")
    if how not in _NORMS:
        raise InputError(f"{config}: norm_activation = {how!r} is not supported; known: {', '.join(_NORMS)}")
    means = _means(contents, prefix, hook, hook_out or hook) if how == "dataset-wise" else None
    k = cfg.get("top_k") if act == "topk" else None
    declared = {"l0": cfg.get("l0", k), "mean_norm": None if means is None else means[0]}
    card = make_card(path, NAME, hook, hook_out, cfg.get("model_name"), path.parent.name, declared)
    if means is None and _NORMS[how] != "none" and hook_out not in (None, hook):
        raise InputError(f"{path}: a transcoder with norm_activation {how!r} and no averages is not supported")
    norm = "none" if means is not None else _NORMS[how]
    sae = make_sae(tensors, str(path), activation=act, k=k, input_norm=norm, card=card)
    rescaled = cfg.get("sparsity_include_decoder_norm", True)
    if rescaled and sae.threshold is not None:
        rows = jnp.maximum(jnp.linalg.norm(sae.W_dec, axis=1), jnp.finfo(jnp.float32).tiny)  # one may be 0
        sae = dataclasses.replace(sae, threshold=jnp.minimum(sae.threshold / rows, jnp.finfo(jnp.float32).max))
    if means is not None:
        sae = _folded(sae, *means)
    return sae.with_unit_decoder() if act == "topk" and rescaled else sae


def _means(contents: Contents, prefix: str, hook: Any, hook_out: Any) -> tuple[float, float] | None:
    """The average norms of input and output, if both are in the file. Where they were not known, anything may be."""
    found = contents.read({f"{prefix}{_AVERAGE}{name}": name for name in (hook, hook_out)})
    known = {name for name, value in found.items() if value.size == 1 and np.isfinite(value) and value > 0}
    return (float(found[hook]), float(found[hook_out])) if {hook, hook_out} == known else None


def _folded(sae: SAE, mean_in: float, mean_out: float) -> SAE:
    """For inputs as they are: x · sqrt(d) / mean goes into the encoder, and out of what the decoder gives."""
    scale_in, scale_out = sae.d_in**0.5 / mean_in, sae.d_out**0.5 / mean_out
    return dataclasses.replace(
        sae, W_enc=sae.W_enc * scale_in, W_dec=sae.W_dec / scale_out, b_dec=sae.b_dec / scale_out
    )
