"""The package's own format: one safetensors file with canonical tensor names and the rest as JSON in its metadata."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jsaeval.cache import atomic, sha256_of
from jsaeval.errors import InputError
from jsaeval.sae.formats.tensors import make_sae, read_safetensors
from jsaeval.sae.module import SAE, SAECard


NAME = "jsaeval"
_KEY = "jsaeval_sae"
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "b_pre", "threshold", "b_gate", "r_mag")


def recognise(path: Path) -> bool:
    """Whether a file is in this format."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="numpy") as handle:
            return _KEY in (handle.metadata() or {})
    except SafetensorError:
        return False


def read(path: Path) -> SAE:
    """Read an SAE; weights come out as float32.

    Raises:
        InputError: see `make_sae`; also metadata that is not this format's.
    """
    tensors, metadata = read_safetensors(path)
    try:
        head = json.loads(metadata[_KEY])
        card = SAECard(
            **{**head["card"], "source": str(path), "format": NAME, "sha256": sha256_of(path)},
        )
        options = {"activation": head["activation"], "k": head["k"], "input_norm": head.get("input_norm", "none")}
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: metadata {_KEY!r} is missing or not of this version") from None
    return make_sae(tensors, str(path), card=card, **options)


def write(sae: SAE, path: Path, dtype: DTypeLike = jnp.float32) -> None:
    """Write an SAE. Reading it back gives the same SAE, up to rounding to `dtype`."""
    tensors = {name: getattr(sae, name) for name in _TENSORS if getattr(sae, name) is not None}
    tensors = {name: np.asarray(tensor.astype(dtype)) for name, tensor in tensors.items()}
    card = dataclasses.asdict(sae.card)
    kept = {key: card[key] for key in ("name", "hook", "lm", "declared")}
    head = json.dumps({"activation": sae.activation, "k": sae.k, "input_norm": sae.input_norm, "card": kept})
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: head})
