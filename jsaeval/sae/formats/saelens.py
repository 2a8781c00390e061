"""SAELens folders, versions 1 to 6: `cfg.json` and `sae_weights.safetensors` (as sae-lens 6.54 reads and writes them).

`W_enc` is (d_in, d_sae) and `W_dec` (d_sae, d_in), as in the canonical form. With `apply_b_dec_to_input` the decoder
bias is subtracted from the input; else there is no input bias. With `rescale_acts_by_decoder_norm` latents are compared
and reported in units of their decoder rows, which is the same as folding the norms into the encoder. Transcoders never
subtract b_dec; their `W_skip` is (d_out, d_in).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike
from safetensors.numpy import save_file

from jsaeval.cache import atomic
from jsaeval.errors import InputError, nearest
from jsaeval.sae.formats.assemble import centred, make_card, make_sae, per_latent
from jsaeval.sae.formats.contents import look, read_json
from jsaeval.sae.module import SAE


NAME = "saelens"
_ACTIVATIONS = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batch_topk",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_REFUSED = {
    "temporal": "its latents depend on the tokens before",
    "matching_pursuit": "it encodes in as many steps as it needs",
    "abstopk": "its latents may be negative",
}
# By activation: as an SAE, as a transcoder, as one with a skip.
_ARCHITECTURES = {
    "relu": ("standard", "transcoder", "skip_transcoder"),
    "topk": ("topk",),
    "gated": ("gated",),
    "jumprelu": ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
}
_ARCHITECTURES["batch_topk"] = _ARCHITECTURES["jumprelu"]
_WEIGHTS = "sae_weights.safetensors"
_NORMS = {
    "none": "none",
    "constant_norm_rescale": "constant_norm",
    "layer_norm": "layer_norm",
    "expected_average_only_in": "expected_average",
}
_NORM_NAMES = {ours: theirs for theirs, ours in _NORMS.items()}
_READ = {"architecture", "d_in", "d_sae", "k", "apply_b_dec_to_input", "metadata", "normalize_activations"}
_READ |= {"rescale_acts_by_decoder_norm", "d_out"}
_BOOKKEEPING = {"dtype", "device", "reshape_activations"}  # activations at attn.hook_z are always flat here


def recognise(path: Path) -> str | None:
    """What says that a folder is in this format."""
    if not (path / "cfg.json").is_file():
        return None
    if (path / _WEIGHTS).is_file():
        return f"cfg.json and {_WEIGHTS}"
    try:
        return "d_sae in cfg.json" if "d_sae" in read_json(path / "cfg.json") else None
    except InputError:
        return None


def read(folder: Path) -> SAE:
    """Read an SAE; weights come out as float32.

    Raises:
        InputError: see `make_sae`; also an architecture, attribute or value that is not supported.
    """
    path = folder / "cfg.json"
    cfg = read_json(path)
    if "metadata" not in cfg:
        cfg = upgrade(cfg)
    metadata = cfg["metadata"]
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: 'metadata' is no table")
    architecture, norm = cfg.get("architecture"), cfg.get("normalize_activations", "none")
    if architecture not in _ACTIVATIONS:
        hint = f": {_REFUSED[architecture]}" if architecture in _REFUSED else nearest(str(architecture), _ACTIVATIONS)
        raise InputError(f"{path}: architecture {architecture!r} is not supported{hint}")
    if norm not in _NORMS:
        raise InputError(f"{path}: normalize_activations = {norm!r} is not supported{nearest(str(norm), _NORMS)}")
    if unknown := sorted(set(cfg) - _READ - _BOOKKEEPING):
        raise InputError(f"{path}: unknown attribute(s) {', '.join(unknown)} for architecture {architecture!r}")
    for key in ("hook_head_index", "hook_head_index_out"):
        if metadata.get(key) is not None:
            raise InputError(f"{path}: {key} = {metadata[key]}; SAEs on one head are not supported")
    transcodes = architecture.endswith("transcoder")
    if transcodes and (norm != "none" or cfg.get("apply_b_dec_to_input", False)):
        raise InputError(f"{path}: a {architecture} with an input norm or apply_b_dec_to_input is not supported")

    weights = folder / _WEIGHTS
    tensors = look(weights).read()
    threshold = tensors.pop("topk_threshold", None)
    features = tensors.pop("scaling_factor", None)  # of SAELens 5: latents are multiplied by it before decoding
    if "b_mag" in tensors:
        tensors["b_enc"] = tensors.pop("b_mag")
    if "log_threshold" in tensors:  # of a checkpoint of training
        tensors["threshold"] = np.exp(tensors.pop("log_threshold"))
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T
    if ("skip" in architecture) != ("W_skip" in tensors):
        raise InputError(f"{weights}: 'W_skip' belongs to skip transcoders, which need it; this is {architecture!r}")
    if cfg.get("apply_b_dec_to_input", False) and "b_dec" in tensors:
        tensors["b_pre"] = tensors["b_dec"]
    if architecture == "batchtopk" and threshold is not None:
        tensors["threshold"] = per_latent(threshold, tensors)
    hooks = metadata.get("hook_name"), metadata.get("hook_name_out")
    declared = metadata if cfg.get("k") is None else metadata | {"l0": cfg["k"]}
    card = make_card(weights, NAME, *hooks, metadata.get("model_name"), folder.name, declared)
    sae = make_sae(
        tensors,
        str(weights),
        activation=_ACTIVATIONS[architecture],
        k=cfg.get("k") if architecture == "topk" else None,
        input_norm=_NORMS[norm],
        card=dataclasses.replace(card, source=str(folder)),
    )
    for key, found in (("d_in", sae.d_in), ("d_sae", sae.d_sae), ("d_out", sae.d_out)):
        if cfg.get(key, found) != found:
            raise InputError(f"{folder}: cfg.json says {key} = {cfg[key]}, the weights say {found}")
    if cfg.get("rescale_acts_by_decoder_norm", False):
        # The threshold of batch_topk is in rescaled units already.
        sae = dataclasses.replace(sae.with_unit_decoder(), threshold=sae.threshold)
    if (metadata.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights"):
        sae = centred(sae, str(path))
    if features is not None:
        sae = dataclasses.replace(sae, W_dec=sae.W_dec * jnp.asarray(features)[:, None])
    return sae


def upgrade(cfg: dict[str, Any]) -> dict[str, Any]:
    """The flat configuration of SAELens 1 to 5 in the form of version 6, with the defaults it had then."""
    act = cfg.get("activation_fn", cfg.get("activation_fn_str", "relu"))
    options = cfg.get("activation_fn_kwargs") or {}
    architecture = cfg.get("architecture", "standard")
    if act == "topk" and "k" in options:  # stored as architecture "standard" by some versions
        architecture = "topk"
    elif act != "relu" and architecture == "standard":
        architecture = f"standard with activation {act}"
    norm = cfg.get("normalize_activations")
    norm = {None: "none", False: "none", True: "expected_average_only_in"}.get(norm, norm)
    sizes = {key: cfg[key] for key in ("d_in", "d_sae", "d_out") if key in cfg}
    return sizes | {
        "architecture": architecture,
        "k": options.get("k"),
        "apply_b_dec_to_input": cfg.get("apply_b_dec_to_input", True),
        "normalize_activations": norm,
        "metadata": {
            "hook_name": cfg.get("hook_name", cfg.get("hook_point")),
            "hook_head_index": cfg.get("hook_head_index", cfg.get("hook_point_head_index")),
            "hook_name_out": cfg.get("hook_name_out"),
            "model_name": cfg.get("model_name"),
            "sae_lens_version": cfg.get("sae_lens_training_version"),
            "context_size": cfg.get("context_size"),
            "dataset_path": cfg.get("dataset_path"),
            "model_from_pretrained_kwargs": cfg.get("model_from_pretrained_kwargs"),
        },
    }


def write(sae: SAE, folder: Path, dtype: DTypeLike = jnp.float32) -> None:
    """Write a folder that SAELens 6 loads. An input bias that is not b_dec is folded into b_enc, which is exact.

    Raises:
        InputError: a transcoder of a kind that SAELens does not have.
    """
    transcodes = sae.W_skip is not None or sae.card.hook_out is not None or sae.d_in != sae.d_out
    names = _ARCHITECTURES[sae.activation]
    if transcodes and (len(names) == 1 or sae.input_norm != "none"):
        raise InputError(f"{sae.card.name}: SAELens has no transcoder with {sae.activation} and {sae.input_norm}")
    same = sae.b_pre is not None and sae.d_in == sae.d_out and bool(jnp.array_equal(sae.b_pre, sae.b_dec))
    tied = same and not transcodes
    shift = np.zeros(sae.d_sae)
    if sae.b_pre is not None and not tied:
        shift = np.asarray(sae.b_pre, np.float64) @ np.asarray(sae.W_enc, np.float64)
    biases = {"b_enc": sae.b_enc} if sae.r_mag is None else {"b_mag": sae.b_enc, "b_gate": sae.b_gate}
    scales = {"b_mag": 1.0 if sae.r_mag is None else np.exp(np.asarray(sae.r_mag, np.float64))}
    tensors = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    tensors |= {name: np.asarray(b, np.float64) - shift * scales.get(name, 1.0) for name, b in biases.items()}
    tensors |= {name: getattr(sae, name) for name in ("threshold", "r_mag") if getattr(sae, name) is not None}
    if sae.W_skip is not None:
        tensors["W_skip"] = np.asarray(sae.W_skip).T
    metadata = {"sae_lens_version": "6.54.12", "hook_name": sae.card.hook, "model_name": sae.card.lm}
    cfg: dict[str, Any] = {
        "architecture": names[transcodes + (sae.W_skip is not None)],
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": jnp.dtype(dtype).name,
        "device": "cpu",
        "apply_b_dec_to_input": tied,
        "normalize_activations": _NORM_NAMES[sae.input_norm],
        "reshape_activations": "none",
        "metadata": metadata,
    }
    if transcodes:
        cfg |= {"d_out": sae.d_out, "metadata": metadata | {"hook_name_out": sae.card.hook_out or sae.card.hook}}
    if sae.k is not None:
        cfg |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / _WEIGHTS) as temporary:
        save_file({name: np.asarray(jnp.asarray(t, dtype)) for name, t in tensors.items()}, temporary)
    with atomic(folder / "cfg.json") as temporary:
        temporary.write_text(json.dumps(cfg, indent=2) + "\n", encoding="utf-8")
