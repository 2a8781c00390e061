"""Reading the tensors of one safetensors file, and turning them into an `SAE` with its checks."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jsaeval.errors import InputError
from jsaeval.sae.module import SAE


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a file in float32, and its metadata.

    Raises:
        InputError: no such file, or not a whole safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as handle:
            tensors = {key: handle.get_tensor(key).astype(np.float32) for key in handle.keys()}  # noqa: SIM118
            return tensors, handle.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: no such file, not JSON, or not an object.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: a JSON object was expected, found {type(raw).__name__}")
    return raw


def make_sae(tensors: dict[str, np.ndarray], where: str, **options: Any) -> SAE:
    """An `SAE` from tensors under their canonical names.

    Args:
        tensors: `W_enc` (d_in, d_sae), `b_enc`, `W_dec` (d_sae, d_out), `b_dec`; also `b_pre`,
            `threshold`, `b_gate`, `r_mag`.
        where: names the source in errors.
        options: the remaining fields of `SAE`.

    Raises:
        InputError: a tensor is missing, superfluous, has the wrong shape, or holds NaN or Inf.
    """
    required = {"W_enc", "W_dec", "b_enc", "b_dec"}
    known = required | {"b_pre", "threshold", "b_gate", "r_mag"}
    if missing := sorted(required - set(tensors)):
        raise InputError(f"{where}: tensor {missing[0]!r} is missing (found {', '.join(sorted(tensors))})")
    if extra := sorted(set(tensors) - known):
        raise InputError(f"{where}: tensor {extra[0]!r} has no place in this kind of SAE")
    if tensors["W_enc"].ndim != 2 or tensors["W_dec"].ndim != 2:
        raise InputError(f"{where}: W_enc and W_dec must be matrices")
    (d_in, d_sae), d_out = tensors["W_enc"].shape, tensors["W_dec"].shape[1]
    shapes = {
        "W_dec": (d_sae, d_out),
        "b_enc": (d_sae,),
        "b_dec": (d_out,),
        "b_pre": (d_in,),
        "threshold": (d_sae,),
        "b_gate": (d_sae,),
        "r_mag": (d_sae,),
    }
    for name, shape in shapes.items():
        if name in tensors and tensors[name].shape != shape:
            raise InputError(
                f"{where}: {name} has shape {tensors[name].shape}, but W_enc {tensors['W_enc'].shape} asks for {shape}"
            )
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(f"{where}: NaN or Inf in {name}")
    try:
        return SAE(**{name: jnp.asarray(tensor) for name, tensor in tensors.items()}, **options)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
