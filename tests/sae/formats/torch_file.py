"""Torch files made without torch, honest ones and hostile ones: a zip of `data.pkl` and `data/*`, or the older kind."""

import io
import pickle
import zipfile
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np


STORAGES = {"float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long"}
STORAGES |= {"int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool"}


@dataclass(frozen=True)
class Global:
    """A name in the pickle."""

    module: str
    name: str

    def __call__(self):
        raise AssertionError


@dataclass
class Call:
    """A name that is called with arguments."""

    target: Global
    arguments: tuple


@dataclass
class Object:
    """An instance of a class elsewhere."""

    cls: Global
    attributes: dict = field(default_factory=dict)


@dataclass
class Tensor:
    """A tensor as the file describes it, true or not."""

    data: np.ndarray
    offset: int = 0
    shape: tuple | None = None
    strides: tuple | None = None
    n: int | None = None
    key: str | None = None
    parameter: bool = False


class Pickler(pickle._Pickler):
    """Writes what `torch.save` writes; arrays are tensors."""

    def __init__(self, stream, storages: dict, legacy=False):
        super().__init__(stream, 2)
        self.storages, self.legacy = storages, legacy

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.target)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(obj, Object):
            self.save(obj.cls)
            self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
            self.save(obj.attributes)
            self.write(pickle.BUILD)
        elif isinstance(obj, (np.ndarray, Tensor)):
            self.tensor(obj if isinstance(obj, Tensor) else Tensor(obj))
        else:
            super().save(obj, save_persistent_id)

    def tensor(self, t: Tensor):
        key = str(len(self.storages)) if t.key is None else t.key
        flat = np.ascontiguousarray(t.data).reshape(-1)
        self.storages[key] = flat
        shape = t.data.shape if t.shape is None else t.shape
        strides = tuple(s // t.data.itemsize for s in np.array(t.data, order="C").strides)
        strides = strides if t.strides is None else t.strides
        kind = Global("torch", f"{STORAGES[flat.dtype.name]}Storage")
        identity = ("storage", kind, key, "cpu", flat.size if t.n is None else t.n)
        if t.parameter:
            self.save(Global("torch._utils", "_rebuild_parameter"))
            self.write(pickle.MARK)
        self.save(Global("torch._utils", "_rebuild_tensor_v2"))
        self.write(pickle.MARK)
        self.save(identity + (None,) * self.legacy)
        self.write(pickle.BINPERSID)
        for part in (t.offset, shape, strides, False, Call(Global("collections", "OrderedDict"), ())):
            self.save(part)
        self.write(pickle.TUPLE + pickle.REDUCE)
        if t.parameter:
            self.save(True)
            self.save(Call(Global("collections", "OrderedDict"), ()))
            self.write(pickle.TUPLE + pickle.REDUCE)


def pickled(obj, storages=None, legacy=False) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, {} if storages is None else storages, legacy).dump(obj)
    return stream.getvalue()


def write_torch(path, obj, compression=zipfile.ZIP_STORED, root="archive", extra=(), content: bytes | None = None):
    """A zip as torch writes it; `content` in the place of the pickle, `extra` members beside it."""
    storages: dict[str, np.ndarray] = {}
    data = pickled(obj, storages) if content is None else content
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", data)
        archive.writestr(f"{root}/byteorder", b"little")
        for key, flat in storages.items():
            archive.writestr(f"{root}/data/{key}", flat.tobytes())
        for name, bytes_ in extra:
            archive.writestr(name, bytes_)
        archive.writestr(f"{root}/version", b"3\n")
    return path


def write_legacy(path, obj):
    storages: dict[str, np.ndarray] = {}
    root = pickled(obj, storages, legacy=True)
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, machine)]
    tail = [flat.size.to_bytes(8, "little") + flat.tobytes() for flat in storages.values()]
    path.write_bytes(b"".join([*head, root, pickle.dumps(list(storages), 2), *tail]))
    return path


def bfloat16(array: np.ndarray) -> np.ndarray:
    return np.asarray(jnp.asarray(array, jnp.bfloat16))
