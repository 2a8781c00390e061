"""dictionary_learning (Marks, Karvonen, Mueller) and SAEBench: `ae.pt` with a `config.json` beside it.

The names of the tensors say which of its classes was saved, except for TopK and BatchTopK, which `config.json` tells
apart. BatchTopK and Matryoshka SAEs are thresholds at inference; one that was never estimated is -1 and refused.
Biases were brought into the units of the LM before saving; only the backups of a run in progress, dictionaries with a
`norm_factor`, are still in the units of training.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jsaeval.errors import InputError, nearest
from jsaeval.sae.formats.assemble import make_card, make_sae, per_latent
from jsaeval.sae.formats.contents import Contents, look, peek, read_json
from jsaeval.sae.formats.places import name_of, tl_hook
from jsaeval.sae.module import SAE


NAME = "dictionary-learning"
_LINEAR = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T"}
_MATRICES = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_GATED = {"encoder.weight": "W_enc.T", "decoder.weight": "W_dec.T", "decoder_bias": "b_dec"}
_GATED |= {"r_mag": "r_mag", "gate_bias": "b_gate", "mag_bias": "b_enc"}
# Class → its tensors under canonical names, activation, and whether the decoder's bias is subtracted from the input.
_CLASSES = {
    "AutoEncoder": (_LINEAR | {"bias": "b_dec"}, "relu", True),
    "AutoEncoderNew": (_LINEAR | {"decoder.bias": "b_dec"}, "relu", False),
    "GatedAutoEncoder": (_GATED, "gated", True),
    "AutoEncoderTopK": (_LINEAR | {"b_dec": "b_dec"}, "topk", True),
    "BatchTopKSAE": (_LINEAR | {"b_dec": "b_dec"}, "batch_topk", True),
    "MatryoshkaBatchTopKSAE": (_MATRICES, "batch_topk", True),
    "JumpReluAutoEncoder": (_MATRICES, "jumprelu", False),
}
_SIZES = {"k", "threshold", "group_sizes"}
_NORMALISER = {"activation_mean", "activation_std", "target_rms", "activation_global_scale"}  # of a fork
_BACKUP = "ae/"


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "torch":
        return None
    if not (classes := _possible(contents)):
        return None
    if classes != ["AutoEncoderNew"]:
        return f"a torch file with the tensors of {' or '.join(classes)}"
    try:  # others have the same names
        config = read_json(path.parent / "config.json")
    except InputError:
        return None
    return "a torch file with the tensors of AutoEncoderNew, 'trainer' in config.json" if "trainer" in config else None


def read(path: Path) -> SAE:
    """Read an SAE of any class.

    Raises:
        InputError: see `make_sae`; no `config.json` where it is needed, one that does not agree with the tensors, or a
            BatchTopK SAE without a threshold.
    """
    contents = look(path)
    trainer, buffer = _config(path, contents)
    kind = _class(path, trainer, _possible(contents))
    names, activation, centred = _CLASSES[kind]
    prefix = _prefix(contents)
    own = contents.read({prefix + old: new for old, new in (names | {n: n for n in _SIZES | _NORMALISER}).items()})
    if any(np.isfinite(own.pop(name, np.nan)).any() for name in ("activation_mean", "activation_std")):
        raise InputError(f"{path}: normalises its input with 'activation_mean', which is not supported")
    threshold, k = own.pop("threshold", None), own.pop("k", trainer.get("k"))
    tensors = {name: tensor for name, tensor in own.items() if name not in _SIZES | _NORMALISER}
    if activation in ("batch_topk", "jumprelu"):
        if threshold is None or (activation == "batch_topk" and (threshold < 0).any()):
            raise InputError(
                f"{path}: {kind} whose threshold was not estimated; take a checkpoint from later in training"
            )
        tensors["threshold"] = per_latent(threshold, tensors)
    if centred:
        tensors["b_pre"] = tensors["b_dec"]
    declared = {"context": buffer.get("ctx_len"), "trainer": trainer.get("trainer_class")}
    declared["l0"] = trainer.get("target_l0") if k is None else int(k)
    sae = make_sae(
        tensors,
        str(path),
        activation=activation,
        k=int(k) if activation == "topk" and k is not None else None,
        card=make_card(path, NAME, *_hooks(trainer, buffer), trainer.get("lm_name"), name_of(path, 2), declared),
    )
    for key, found in (("activation_dim", sae.d_in), ("dict_size", sae.d_sae)):
        if trainer.get(key, found) != found:
            raise InputError(f"{path.parent}: config.json says {key} = {trainer[key]}, the weights say {found}")
    return _in_units_of_the_lm(sae, contents) if prefix else sae


def _prefix(contents: Contents) -> str:
    return _BACKUP if any(name.startswith(_BACKUP) for name in contents.tensors) else ""


def _possible(contents: Contents) -> list[str]:
    """The classes that have the tensors of a file."""
    prefix = _prefix(contents)
    names = {name.removeprefix(prefix) for name in contents.tensors if name.startswith(prefix)}
    found = [name for name, (wanted, _, _) in _CLASSES.items() if names - _SIZES - _NORMALISER == set(wanted)]
    if "group_sizes" in names:
        return [name for name in found if name == "MatryoshkaBatchTopKSAE"]
    if "MatryoshkaBatchTopKSAE" in found:
        return ["JumpReluAutoEncoder"] if "threshold" in names else []
    return found


def _class(path: Path, trainer: dict[str, Any], possible: list[str]) -> str:
    stated = trainer.get("dict_class")
    if stated is not None and stated not in _CLASSES:
        raise InputError(f"{path}: dict_class {stated!r} is not supported{nearest(str(stated), _CLASSES)}")
    if stated is None and len(possible) == 1:
        return possible[0]
    if stated not in possible:
        raise InputError(
            f"{path}: its tensors are those of {' or '.join(possible)}; config.json says {stated or 'neither'}"
        )
    return stated


def _config(path: Path, contents: Contents) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of trainer and buffer; a backup holds the trainer's part itself."""
    config = path.parent / "config.json"
    raw = read_json(config) if config.is_file() else {}
    inside = {
        name.removeprefix("config/"): value for name, value in contents.rest.items() if name.startswith("config/")
    }
    trainer, buffer = raw.get("trainer", inside), raw.get("buffer", {})
    if not isinstance(trainer, dict) or not isinstance(buffer, dict):
        raise InputError(f"{config}: 'trainer' and 'buffer' have to be tables")
    return trainer, buffer


def _hooks(trainer: dict[str, Any], buffer: dict[str, Any]) -> tuple[str | None, str | None]:
    """From the name of the submodule, e.g. `resid_post_layer_8`, and whether its input or its output was taken."""
    layer, name, end = trainer.get("layer"), str(trainer.get("submodule_name") or "resid"), str(buffer.get("io", "out"))
    if layer is not None and "resid" in name:
        return f"blocks.{layer}.hook_resid_{'pre' if 'resid_pre' in name or end == 'in' else 'post'}", None
    if layer is not None and "mlp" in name:
        read, written = (tl_hook(f"model.layers.{layer}.mlp.{side}") for side in ("input", "output"))
        return {"in": (read, None), "in_and_out": (read, written)}.get(end, (written, None))
    if layer is not None and "att" in name and end == "out":
        name = f"model.layers.{layer}.self_attn.output"
    return tl_hook(name), None


def _in_units_of_the_lm(sae: SAE, contents: Contents) -> SAE:
    """Trained on x / norm_factor: what is added to or compared with activations is multiplied by it."""
    stored = contents.read({"norm_factor": "norm_factor"}).get("norm_factor", contents.rest.get("norm_factor", 1.0))
    factor = np.float32(stored)
    scaled = {name: getattr(sae, name) for name in ("b_enc", "b_dec", "b_pre", "threshold", "b_gate")}
    return dataclasses.replace(sae, **{name: None if t is None else t * factor for name, t in scaled.items()})
