"""`--lm-cache`: the LM's side of a run on disk, so that another SAE at the same hook need not pay for it again.

Kept per LM, precision and text: the residual stream that `prefix` returns for a hook, and the final residual stream of
the clean pass. Both are float arrays (row, position, d_model) in `.npy` files, found by a hash of everything they
depend on, written aside and moved into place when they are whole. The oldest go when the folder outgrows its limit.
"""

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jsaeval.errors import InputError
from jsaeval.forward.batch import Known
from jsaeval.hooks import Hook
from jsaeval.lm.card import card_of
from jsaeval.lm.protocol import HostLM
from jsaeval.run.batches import Batch, Batches


LIMIT_BYTES = 16 * 2**30
_LAYOUT = "1"  # raise it when a change of the forward pass changes the numbers


@dataclass(frozen=True)
class LMCache:
    """The cache of one LM on one text. `None` wherever something is not in it."""

    folder: Path
    identity: str
    limit: int = LIMIT_BYTES

    @classmethod
    def of(cls, folder: Path, lm: HostLM, precision: str, tokens_sha256: str) -> "LMCache":
        """The cache for a run.

        Raises:
            InputError: the weights of the LM have no hash, so they could change unseen; or `folder` is a file.
        """
        card = card_of(lm)
        if not card.sha256:
            raise InputError("lm_cache: the card of this LM has no SHA-256 of its weights; load it with load_lm")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"lm_cache {folder}: exists and is not a folder")
        return cls(folder, "\n".join((_LAYOUT, card.sha256, str(lm.unembedding.dtype), precision, tokens_sha256)))

    def read(self, name: str) -> np.ndarray | None:
        """An array, memory-mapped; `name` is "final" or "prefix-" and the number of blocks before the hook."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            array = np.load(path, mmap_mode="r")
        except (ValueError, OSError):  # cut short from outside
            path.unlink(missing_ok=True)
            return None
        path.touch()
        return array.view(jnp.bfloat16) if array.dtype == np.uint16 else array

    def start(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> "Entry | None":
        """A new array on disk to be filled in, if one of that size may be kept."""
        stored = np.dtype(np.uint16) if dtype == jnp.bfloat16 else dtype  # .npy files cannot name bfloat16
        if math.prod(shape) * stored.itemsize > self.limit:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=stored, shape=shape)
        return Entry(array.view(dtype) if stored != dtype else array, temporary, path, self)

    def trim(self) -> None:
        """Let the oldest entries go that do not fit."""
        kept = sorted(self.folder.glob("*.npy"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in kept:
            total += path.stat().st_size
            if total > self.limit:
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(f'{self.identity}/{name}'.encode()).hexdigest()[:32]}.npy"


@dataclass
class Entry:
    """An array that is being written beside its place in the cache, so that it never needs memory of its own."""

    array: np.ndarray
    temporary: Path
    path: Path
    cache: LMCache

    def finish(self) -> None:
        """Move it into place."""
        self.temporary.replace(self.path)
        self.cache.trim()

    def discard(self) -> None:
        self.temporary.unlink(missing_ok=True)


class LMSide:
    """What a cache knows of the LM's side of a run, and what it is given. A context: what is not whole is dropped.

    A run that goes on from a checkpoint has not all rows to give, so it gives none.
    """

    def __init__(self, cache: LMCache | None, hook: Hook, batches: Batches, with_final: bool):
        self._cache, self._batches = cache, batches
        names = {"residual": f"prefix-{int(hook.prefix_stop)}"} | ({"final": "final"} if with_final else {})
        self._names = names if cache is not None else {}
        self._rows = {part: cache.read(name) for part, name in self._names.items()} if cache is not None else {}
        self._new: dict[str, Entry | None] = {}

    @property
    def incomplete(self) -> bool:
        """Whether the run should hand over what it finds out."""
        return any(rows is None for rows in self._rows.values())

    def residual(self, batch: Batch) -> Array | None:
        """The residual stream of a batch, from the cache."""
        rows = self._rows.get("residual")
        return None if rows is None else self._batches.on_devices(rows, batch)

    def known(self, batch: Batch) -> Known:
        """What is in the cache, on the devices."""
        rows = {part: self._batches.on_devices(rows, batch) for part, rows in self._rows.items() if rows is not None}
        return Known(**rows)

    def keep(self, batch: Batch, known: Known) -> None:
        """Take what is new of a batch."""
        for part, name in self._names.items():
            rows = getattr(known, part)
            if self._batches.done or rows is None or self._rows[part] is not None or self._cache is None:
                continue
            host = np.asarray(rows)[: batch.n_rows]
            if part not in self._new:
                shape = (len(self._batches.tokens), *host.shape[1:])
                self._new[part] = self._cache.start(name, shape, host.dtype)
            if (entry := self._new[part]) is not None:
                entry.array[batch.start : batch.start + batch.n_rows] = host

    def __enter__(self) -> "LMSide":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for entry in self._new.values():
            if entry is not None:
                entry.finish() if kind is None else entry.discard()
