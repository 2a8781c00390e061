"""Tables of activations on disk, found by a hash of everything that they depend on; and of a pass that was stopped, the
part that is done. The oldest files go when the folder outgrows its limit."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jsaeval.autointerp.sparse import Entries, SparseLatents
from jsaeval.cache import HARMED, atomic
from jsaeval.errors import InputError
from jsaeval.mesh import on_host
from jsaeval.sae.module import SAE


LIMIT_BYTES = 4 * 2**30
_TABLE = [field.name for field in dataclasses.fields(SparseLatents)]


def encoder_sha256(sae: SAE) -> str:
    """Of everything that decides which latents fire: weights in their dtypes, and what is done with them."""
    digest = hashlib.sha256()
    for field in dataclasses.fields(sae):
        if field.name in ("W_dec", "b_dec", "W_skip", "card"):
            continue
        value = getattr(sae, field.name)
        if isinstance(value, jax.Array):
            value = np.ascontiguousarray(on_host(value))
            digest.update(f"{field.name} {value.dtype} {value.shape}\n".encode())
            digest.update(value.tobytes())
        else:
            digest.update(f"{field.name} {value}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Store:
    """Tables by key, in a folder; without one nothing is kept."""

    folder: Path | None = None
    limit: int = LIMIT_BYTES

    def __post_init__(self):
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"evidence cache {self.folder}: exists and is not a folder")

    def load(self, key: str) -> SparseLatents | None:
        """A table, or None where there is none, or what is there was harmed."""
        found = None if self.folder is None else _read(self.folder / f"{key}.npz", _TABLE)
        if found is None:
            return None
        latents, offsets, row, position, value, n_tokens = found
        return SparseLatents(latents, offsets, row, position, value, int(n_tokens))

    def save(self, key: str, table: SparseLatents) -> None:
        if self.folder is not None:
            _write(self.folder / f"{key}.npz", vars(table))
            self._trim()

    def parts(self, key: str, n_saes: int) -> tuple[int, list[list[Entries]]]:
        """Of a pass: how many leading rows are done, and their entries, part by part, of every SAE."""
        done, found = 0, []
        names = ["done", *(f"{i}.{name}" for i in range(n_saes) for name in Entries._fields)]
        while self.folder is not None and (part := _read(self._part(key, done), names)) is not None:
            if part[0] <= done:  # harmed; the next part is written over it
                break
            done, arrays, width = int(part[0]), part[1:], len(Entries._fields)
            found.append([Entries(*arrays[width * i : width * (i + 1)]) for i in range(n_saes)])
        return done, found

    def add_part(self, key: str, start: int, done: int, entries: Sequence[Entries]) -> None:
        """Keep the entries of rows `start .. done - 1`, which follow those that are kept."""
        if self.folder is None:
            return
        named = {f"{i}.{name}": array for i, own in enumerate(entries) for name, array in own._asdict().items()}
        _write(self._part(key, start), named | {"done": np.array(done)})
        self._trim()

    def drop_parts(self, key: str) -> None:
        """When the pass is done and its tables are saved."""
        if self.folder is not None:
            for path in self.folder.glob(f"{key}.from-*.npz"):
                path.unlink(missing_ok=True)

    def _part(self, key: str, start: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.from-{start}.npz"

    def _trim(self) -> None:
        assert self.folder is not None
        files = [(path, path.stat()) for path in self.folder.glob("*.npz")]
        total = 0
        for path, stat in sorted(files, key=lambda pair: pair[1].st_mtime, reverse=True):
            total += stat.st_size
            if total > self.limit:
                path.unlink(missing_ok=True)


def key_of(*identity: Any) -> str:
    """A key from anything that JSON can write."""
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def _read(path: Path, names: Sequence[str]) -> list[np.ndarray] | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = [file[name] for name in names]
    except FileNotFoundError:
        return None
    except HARMED:
        path.unlink(missing_ok=True)
        return None
    path.touch()
    return found


def _write(path: Path, arrays: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)
