"""Weights of a Hugging Face model folder: `model.safetensors`, whole or in shards. Pickles are never opened."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from jsaeval.errors import InputError
from jsaeval.lm.weights import Tensors


_PREFIXED = re.compile(r"^(?=(embed_tokens|layers|norm)\.)")


def open_folder(folder: Path) -> tuple[Tensors, str]:
    """Open the safetensors files of a model folder.

    Returns:
        The tensors, and a SHA-256 over the files.

    Raises:
        InputError: there is no safetensors file, or one is damaged.
    """
    files = _weight_files(folder)
    digest = hashlib.sha256()
    location = {}
    for path in files:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        try:
            handle = safe_open(path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None
        # Models saved without their head have no "model." prefix.
        location.update({_PREFIXED.sub(r"model.\g<0>", key): (handle, key) for key in handle.keys()})  # noqa: SIM118

    def read(name: str) -> np.ndarray:
        handle, key = location[name]
        return handle.get_tensor(key)

    return Tensors(frozenset(location), read, str(folder)), digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            raise InputError(f"{index}: not a safetensors index") from None
    else:
        names = ["model.safetensors"]
    files = [folder / name for name in names]
    if missing := [path.name for path in files if not path.is_file()]:
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        hint = f"; {pickles[0]} is a pickle and is not opened, save it as safetensors" if pickles else ""
        raise InputError(f"{folder}: weight file {missing[0]} is missing{hint}")
    return files
