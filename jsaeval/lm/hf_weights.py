"""Weights of a Hugging Face model folder: `model.safetensors`, whole or in shards. Pickles are never opened."""

import hashlib
import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jsaeval.errors import InputError
from jsaeval.lm.weights import Tensors


# Of integers only so that a tensor that has no place in a decoder can be named.
_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

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
        # Models saved without their head have no "model." prefix.
        location.update({_PREFIXED.sub(r"model.\g<0>", key): view for key, view in views(path).items()})
    return Tensors(frozenset(location), location.__getitem__, str(folder)), digest.hexdigest()


def views(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as views of the file: what is not touched is not read.

    Raises:
        InputError: it is no whole safetensors file, or has a type that numpy does not know.
    """
    try:
        safe_open(path, framework="numpy")  # checks sizes and offsets
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    head = json.loads(content[8:start].tobytes())
    head.pop("__metadata__", None)
    if unknown := [name for name, about in head.items() if about["dtype"] not in _TYPES]:
        raise InputError(f"{path}: tensor {unknown[0]!r} is {head[unknown[0]]['dtype']}; known: {', '.join(_TYPES)}")

    def view(about: dict) -> np.ndarray:
        first, last = about["data_offsets"]
        return content[start + first : start + last].view(_TYPES[about["dtype"]]).reshape(about["shape"])

    return {name: view(about) for name, about in head.items()}


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
