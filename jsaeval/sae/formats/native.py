"""The package's own format: one safetensors file with canonical tensor names and the rest as JSON in its metadata."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike
from safetensors.numpy import save_file

from jsaeval.cache import atomic, sha256_of
from jsaeval.errors import InputError
from jsaeval.sae.formats.assemble import make_sae
from jsaeval.sae.formats.contents import look, peek
from jsaeval.sae.module import SAE, SAECard


NAME = "jsaeval"
_KEY = "jsaeval_sae"
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "b_pre", "threshold", "b_gate", "r_mag", "W_skip")


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    return f"{_KEY!r} in its metadata" if contents is not None and _KEY in contents.metadata else None


def read(path: Path) -> SAE:
    """Read an SAE; weights come out as float32.

    Raises:
        InputError: see `make_sae`; also metadata that is not this format's.
    """
    contents = look(path)
    try:
        head = json.loads(contents.metadata[_KEY])
        card = SAECard(
            **{**head["card"], "source": str(path), "format": NAME, "sha256": sha256_of(path)},
        )
        options = {"activation": head["activation"], "k": head["k"], "input_norm": head.get("input_norm", "none")}
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: metadata {_KEY!r} is missing or not of this version") from None
    return make_sae(contents.read(), str(path), card=card, **options)


def write(sae: SAE, path: Path, dtype: DTypeLike = jnp.float32) -> None:
    """Write an SAE. Reading it back gives the same SAE, up to rounding to `dtype`."""
    tensors = {name: getattr(sae, name) for name in _TENSORS if getattr(sae, name) is not None}
    tensors = {name: np.asarray(tensor.astype(dtype)) for name, tensor in tensors.items()}
    card = dataclasses.asdict(sae.card)
    kept = {key: card[key] for key in ("name", "hook", "hook_out", "lm", "declared")}
    head = json.dumps({"activation": sae.activation, "k": sae.k, "input_norm": sae.input_norm, "card": kept})
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: head})
