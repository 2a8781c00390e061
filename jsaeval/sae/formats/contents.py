"""What is in a file of tensors (safetensors, npz, torch), before and after reading them. Its first bytes say which.

Only headers are read to look inside, so that every reader may look at every file. No file is executed or trusted.
"""

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open

from jsaeval.errors import InputError
from jsaeval.sae.formats.torch_pickle import Record
from jsaeval.sae.formats.torch_zip import LEGACY_MAGIC, TorchTensor, is_torch_zip, load_torch
from jsaeval.sae.formats.zips import members_of, whole


Kind = Literal["safetensors", "npz", "torch"]


@dataclass(frozen=True)
class Lazy:
    """A tensor that is read when it is asked for, as float32."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Contents:
    """Of one file.

    `tensors` go by name; names inside of dictionaries are joined by `/`. `rest` are numbers and texts of a torch file
    by name, the attributes of objects included. `metadata` is the text in the header of a safetensors file.
    """

    kind: Kind
    tensors: Mapping[str, Lazy]
    rest: Mapping[str, str | int | float | None]
    metadata: Mapping[str, str]

    def has(self, *names: str, only: bool = False) -> bool:
        """Whether all of these tensors are there, and with `only` no other."""
        return set(names) == set(self.tensors) if only else set(names) <= set(self.tensors)

    def read(self, names: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
        """All tensors; or those of `names` (in the file → wanted) that are there, turned where it ends in `.T`."""
        if names is None:
            return {name: tensor.read() for name, tensor in self.tensors.items()}
        found = {new: self.tensors[old].read() for old, new in names.items() if old in self.tensors}
        return {new.removesuffix(".T"): t.T if new.endswith(".T") else t for new, t in found.items()}


def kind_of(path: Path) -> Kind | None:
    """What kind of file of tensors a file is; None: none of them."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(LEGACY_MAGIC):
        return "torch"
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
        with whole(path, "zip"), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return "torch" if is_torch_zip(names) else "npz" if any(n.endswith(".npy") for n in names) else None
    if path.suffix == ".safetensors":
        return "safetensors"
    length = int.from_bytes(head[:8], "little")
    return "safetensors" if head[8:9] == b"{" and length <= path.stat().st_size - 8 else None


def peek(path: Path) -> Contents | None:
    """What is in a file; None if it is no file of tensors, or a damaged or forbidden one (`look` says why)."""
    try:
        return look(path)
    except (InputError, OSError):
        return None


def look(path: Path) -> Contents:
    """What is in a file of tensors.

    Raises:
        InputError: no such file, damaged, of another kind, or with something else than tensors in it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    status = path.stat()
    return _look(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _look(path: Path, _mtime: int, _size: int) -> Contents:
    kind = kind_of(path)
    if kind is None:
        raise InputError(f"{path}: no file of tensors (safetensors, npz or torch)")
    return {"safetensors": _safetensors, "npz": _npz, "torch": _torch}[kind](path)


def _safetensors(path: Path) -> Contents:
    with _whole_safetensors(path), safe_open(path, framework="numpy") as handle:
        metadata = handle.metadata() or {}
        shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    tensors = {name: Lazy(shape, partial(_read_safetensor, path, name)) for name, shape in shapes.items()}
    return Contents("safetensors", tensors, {}, metadata)


def _read_safetensor(path: Path, name: str) -> np.ndarray:
    with _whole_safetensors(path), safe_open(path, framework="numpy") as handle:
        return handle.get_tensor(name).astype(np.float32)


@contextmanager
def _whole_safetensors(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None


def _npz(path: Path) -> Contents:
    tensors = {}
    with whole(path, "npz"), zipfile.ZipFile(path) as archive:
        for name, info in members_of(path, archive, compressed=True).items():
            if not name.endswith(".npy"):
                continue
            with archive.open(name) as stream:
                shape, dtype = _npy_header(path, name, stream)
                size = stream.tell() + math.prod(shape) * dtype.itemsize
            if size != info.file_size:
                raise InputError(f"{path}: {name} has {info.file_size:,} bytes, its header asks for {size:,}")
            tensors[name.removesuffix(".npy")] = Lazy(shape, partial(_read_npy, path, name))
    return Contents("npz", tensors, {}, {})


def _npy_header(path: Path, name: str, stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise InputError(f"{path}: {name} is of version {version} of npy, which is not supported")
    shape, _, dtype = read(stream)
    if dtype.hasobject or dtype.kind not in "fiub":
        raise InputError(f"{path}: {name} is of dtype {dtype}; only numbers are read")
    return shape, dtype


def _read_npy(path: Path, name: str) -> np.ndarray:
    with whole(path, "npz"), zipfile.ZipFile(path) as archive, archive.open(name) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False).astype(np.float32)


def _torch(path: Path) -> Contents:
    root = load_torch(path)
    if not isinstance(root, dict):
        raise InputError(f"{path}: holds a {type(root).__name__}; a dictionary of tensors was expected")
    values = _flat(root)
    tensors = {name: Lazy(value.shape, value.numpy) for name, value in values.items() if isinstance(value, TorchTensor)}
    rest = {name: value for name, value in values.items() if isinstance(value, (str, int, float, type(None)))}
    return Contents("torch", tensors, rest, {})


def _flat(root: dict[Any, Any]) -> dict[str, Any]:
    """One level of dictionaries and objects in the dictionary, under joined names."""
    out = {}
    for name, value in root.items():
        inner = value.attributes if isinstance(value, Record) else value
        if isinstance(inner, dict):
            out |= {f"{name}/{key}": content for key, content in inner.items()}
        else:
            out[str(name)] = inner
    return out


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: no such file, not JSON, or not an object.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: a JSON object was expected, found {type(raw).__name__}")
    return raw


def read_yaml(path: Path) -> dict[str, Any]:
    """A table from a YAML file, of plain values only.

    Raises:
        InputError: not YAML, or not a table.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"{path}: not valid YAML of plain values") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: a table was expected, found {type(raw).__name__}")
    return raw
