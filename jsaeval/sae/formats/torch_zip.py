"""Torch files (`torch.save`) without torch: the zip of today and the older file of several pickles.

Nothing that a file says is believed: a storage has to have the bytes that its dtype and length ask for, a tensor has to
lie inside its storage without overlapping itself, members of the zip are stored as they are (torch does not compress),
so that nothing becomes larger than the file. Tensors are read when they are asked for.
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import jax.numpy as jnp
import numpy as np

from jsaeval.errors import InputError
from jsaeval.sae.formats.torch_pickle import Name, unpickle
from jsaeval.sae.formats.zips import members_of, whole


# A file of the older kind begins with the pickle of torch's magic number.
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_PICKLE_LIMIT = 2**22  # bytes
_AXES_LIMIT = 8
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file."""

    dtype: np.dtype
    n: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class TorchTensor:
    """Part of a storage; offset and strides are in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        """The numbers as float32."""
        dtype = self.storage.dtype
        flat = np.frombuffer(self.storage.read(), dtype)[self.offset :]
        view = np.lib.stride_tricks.as_strided(flat, self.shape, [s * dtype.itemsize for s in self.strides])
        return view.astype(np.float32)


def is_torch_zip(names: list[str]) -> bool:
    """Whether a zip with members of these names is a torch file."""
    return any(PurePosixPath(name).name == "data.pkl" for name in names)


def load_torch(path: Path) -> Any:
    """What `torch.save` was given, with `TorchTensor`s for tensors and `Record`s for objects of some trainers.

    Raises:
        InputError: no whole torch file, one that does not agree with itself, or one that holds more than tensors.
    """
    with whole(path, "torch"):
        return _load_zip(path) if zipfile.is_zipfile(path) else _load_legacy(path)


def _load_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = members_of(path, archive, compressed=False)
        pickles = [name for name in members if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) != 1:
            raise InputError(f"{path}: {len(pickles)} members of the zip are called data.pkl, a torch file has one")
        root = pickles[0].removesuffix("data.pkl")
        if members[pickles[0]].file_size > _PICKLE_LIMIT:
            raise InputError(f"{path}: its pickle is larger than {_PICKLE_LIMIT >> 20} MiB; it is not read")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise InputError(f"{path}: its numbers are big-endian, which is not supported")
        content = archive.read(pickles[0])
    seen: dict[str, np.dtype] = {}

    def storage(identity: Any) -> Storage:
        key, dtype, n = _storage_id(path, identity, 5)
        member = members.get(f"{root}data/{key}")
        if member is None or member.file_size != n * dtype.itemsize:
            found = "is missing" if member is None else f"has {member.file_size} bytes"
            raise InputError(f"{path}: a storage of {n} {dtype} numbers {found}; the file does not agree with itself")
        if seen.setdefault(key, dtype) != dtype:
            raise InputError(f"{path}: storage {key} is of two dtypes, {seen[key]} and {dtype}")
        return Storage(dtype, n, partial(_read_member, path, member.filename))

    return unpickle(io.BytesIO(content), str(path), storage, partial(_tensor, path))


def _read_member(path: Path, name: str) -> bytes:
    with whole(path, "torch"), zipfile.ZipFile(path) as archive:
        return archive.read(name)


def _load_legacy(path: Path) -> Any:
    """Pickles of: the magic number, a version, facts of the machine, the object, the keys of its storages; then these,
    each after its length."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = io.BytesIO(file.read(_PICKLE_LIMIT))
        if not head.getvalue().startswith(LEGACY_MAGIC):
            raise InputError(f"{path}: not a torch file")
        wanted: dict[str, tuple[np.dtype, int]] = {}
        places: dict[str, int] = {}

        def storage(identity: Any) -> Storage:
            key, dtype, n = _storage_id(path, identity, 6)
            if wanted.setdefault(key, (dtype, n)) != (dtype, n):
                raise InputError(f"{path}: storage {key} is of two lengths or dtypes")
            return Storage(dtype, n, lambda: _read_span(path, places[key], n * dtype.itemsize))

        def following() -> Any:
            return unpickle(head, str(path), storage, partial(_tensor, path))

        _, version, machine = following(), following(), following()
        if version != 1001 or not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise InputError(f"{path}: a torch file of a version other than 1001 or big-endian, which is not supported")
        result, keys = following(), following()
        if not isinstance(keys, list) or not all(type(k) is str for k in keys) or set(keys) != set(wanted):
            raise InputError(f"{path}: its storages are not those that its tensors are of")
        position = head.tell()
        for key in keys:
            dtype, n = wanted[key]
            file.seek(position)
            found, places[key] = int.from_bytes(file.read(8), "little"), position + 8
            position = places[key] + n * dtype.itemsize
            if found != n or position > size:
                raise InputError(f"{path}: a storage of {n} {dtype} numbers is not whole; fetch the file again")
    return result


def _read_span(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _storage_id(path: Path, identity: Any, length: int) -> tuple[str, np.dtype, int]:
    """Key, dtype and length out of the persistent id ("storage", type, key, device, length[, None])."""
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] != "storage":
        raise InputError(f"{path}: a persistent id of its pickle is no storage")
    _, kind, key, _, n, *view = identity
    if (
        not isinstance(kind, Name)
        or not isinstance(key, str)
        or type(n) is not int
        or n < 0
        or view not in ([], [None])
    ):
        raise InputError(f"{path}: a storage of its pickle is not described as torch does")
    dtype = _DTYPES.get(kind.text.rpartition(".")[2])
    if dtype is None:
        raise InputError(f"{path}: {kind.text} is not supported; known: {', '.join(_DTYPES)}")
    return key, dtype, n


def _tensor(path: Path, storage: Any, offset: Any, shape: Any, strides: Any) -> TorchTensor:
    """A tensor that lies inside its storage and in which no two indices are one number; an empty one is of shape (0,).

    Sorted by stride, every axis has to step over all that the axes before it reach.
    """
    numbers = [offset, *shape, *strides]
    if not isinstance(storage, Storage) or len(shape) != len(strides) or any(type(v) is not int for v in numbers):
        raise InputError(f"{path}: a tensor of its pickle is not described as torch does")
    if min(numbers) < 0 or len(shape) > _AXES_LIMIT:
        raise InputError(
            f"{path}: a tensor has offset {offset}, {len(shape)} axes and strides {strides}; it is not read"
        )
    if 0 in shape:
        return TorchTensor(storage, 0, (0,), (1,))
    reach = 0
    for stride, size in sorted((s, n) for n, s in zip(shape, strides, strict=True) if n > 1):
        if stride <= reach:
            raise InputError(f"{path}: a tensor of shape {shape} and strides {strides} overlaps itself; it is not read")
        reach += (size - 1) * stride
    if offset + reach >= storage.n:
        raise InputError(f"{path}: a tensor of shape {shape} at {offset} does not fit into its storage of {storage.n}")
    return TorchTensor(storage, offset, tuple(shape), tuple(strides))
