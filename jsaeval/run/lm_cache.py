"""`--lm-cache`: the LM's side of a run on disk, so that another SAE at the same hook need not pay for it again.

Kept per LM, precision and text: the residual stream that `prefix` returns for a hook, and the final residual stream of
the clean pass. Both are float arrays (row, position, d_model) in `.npy` files, found by a hash of everything they
depend on, written aside and moved into place when they are whole. The oldest go when the folder outgrows its limit.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jsaeval.cache import atomic
from jsaeval.errors import InputError
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

    def write(self, name: str, array: np.ndarray) -> None:
        """Keep an array, if it fits, and let the oldest go that then do not."""
        if array.nbytes > self.limit:
            return
        if array.dtype == jnp.bfloat16:  # which .npy files cannot name
            array = array.view(np.uint16)
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(self._path(name)) as temporary, temporary.open("wb") as stream:
            np.save(stream, array)
        kept = sorted(self.folder.glob("*.npy"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in kept:
            total += path.stat().st_size
            if total > self.limit:
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(f'{self.identity}/{name}'.encode()).hexdigest()[:32]}.npy"


class LMSide:
    """What a cache knows of the LM's side of a run, and what it will be given."""

    def __init__(self, cache: LMCache | None, hook: Hook, batches: Batches, keep_final: bool):
        self._cache, self._batches = cache, batches
        self._name = f"prefix-{int(hook.prefix_stop)}"
        self._residuals = None if cache is None else cache.read(self._name)
        self._finals = None if cache is None else cache.read("final")
        self.wants_final = cache is not None and keep_final and self._finals is None
        self._new: dict[str, np.ndarray] = {}

    def residual(self, batch: Batch) -> Array | None:
        return None if self._residuals is None else self._batches.on_devices(self._residuals, batch)

    def final(self, batch: Batch) -> Array | None:
        return None if self._finals is None else self._batches.on_devices(self._finals, batch)

    def keep_residual(self, batch: Batch, residual: Array | None) -> None:
        if self._cache is not None and self._residuals is None and residual is not None:
            self._keep(self._name, batch, residual)

    def keep_final(self, batch: Batch, final: Array | None) -> None:
        if final is not None:
            self._keep("final", batch, final)

    def write(self) -> None:
        """Give the cache what is new and whole."""
        for name, array in self._new.items():
            if self._cache is not None:
                self._cache.write(name, array)

    def _keep(self, name: str, batch: Batch, rows: Array) -> None:
        host = np.asarray(rows)[: batch.n_rows]
        if name not in self._new:
            self._new[name] = np.empty((len(self._batches.tokens), *host.shape[1:]), host.dtype)
        self._new[name][batch.start : batch.start + batch.n_rows] = host
