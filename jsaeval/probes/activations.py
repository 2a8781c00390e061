"""Activations of the LM at a hook, for single texts: one pass of the prefix for all tasks and all SAEs.

What is kept of a text is the activation at its last token (`last`), or at every token but BOS (`tokens`). It is found
by a hash of everything that it depends on, so a text that is in two tasks, in an earlier run or in one that was killed
is not computed again. Texts are sorted by length: little of a batch is padding, and few programs are compiled.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jsaeval.cache import HARMED, atomic
from jsaeval.corpus.texts import TokenIds
from jsaeval.errors import InputError
from jsaeval.forward.splice import at_hook, prefix
from jsaeval.hooks import Hook
from jsaeval.lm.card import card_of
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import map_rows, on_host, replicate, shard_rows
from jsaeval.numerics import wide
from jsaeval.run.calibration import Progress
from jsaeval.run.lengths import padded_length, rows_at_once
from jsaeval.run.placed import Model


Kept = Literal["last", "tokens"]
# Activations of a text: float32, one line for each token that is kept.
Activations = Float[np.ndarray, "_ width"]

LIMIT_BYTES = 16 * 2**30
_LAYOUT = "1"  # raise it when a change of the forward pass changes the numbers
_WRITE_EVERY = 20.0  # seconds; what a killed run loses
_VALUES, _INDEX = ".values.npy", ".index.npz"


@dataclass
class ActivationStore:
    """Activations by key: in memory, or in a folder, where each file holds those of some batches.

    Files appear whole or not at all, the index of one after its values. The oldest go when all stores beside this one
    outgrow the limit.
    """

    folder: Path | None = None
    limit: int = LIMIT_BYTES
    _known: dict[bytes, Activations] = field(default_factory=dict)
    _new: dict[bytes, Activations] = field(default_factory=dict)

    def __post_init__(self):
        if self.folder is None:
            return
        for path in sorted(self.folder.glob(f"*{_INDEX}")):
            values = path.with_name(path.name.replace(_INDEX, _VALUES))
            try:
                with path.open("rb") as stream, np.load(stream) as index:
                    keys, ends = index["keys"], index["ends"]
                rows = np.load(values, mmap_mode="r")
                if len(rows) != ends[-1]:
                    raise ValueError("cut short")
            except HARMED:
                path.unlink(missing_ok=True)
                continue
            values.touch()
            starts = [0, *ends[:-1]]
            self._known |= {key.tobytes(): rows[a:b] for key, a, b in zip(keys, starts, ends, strict=True)}

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def __getitem__(self, key: bytes) -> Activations:
        return self._known[key]

    def add(self, found: dict[bytes, Activations]) -> None:
        self._known |= found
        self._new |= found

    def write(self) -> None:
        """Bring what is new to disk."""
        if self.folder is None or not self._new:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(self._new), np.uint8).reshape(len(self._new), -1)
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:32]
        values = self.folder / f"{name}{_VALUES}"
        with atomic(values) as temporary, temporary.open("wb") as stream:
            np.save(stream, np.concatenate(list(self._new.values())))
        with atomic(self.folder / f"{name}{_INDEX}") as temporary, temporary.open("wb") as stream:
            np.savez(stream, keys=keys, ends=np.cumsum([len(own) for own in self._new.values()]))
        rows, start = np.load(values, mmap_mode="r"), 0
        for key, own in self._new.items():  # the memory of the device's copies is free again
            self._known[key] = rows[start : start + len(own)]
            start += len(own)
        self._new = {}
        self._trim()

    def _trim(self) -> None:
        assert self.folder is not None
        files = [(path, path.stat()) for path in self.folder.parent.glob(f"*/*{_VALUES}")]
        total = 0
        for path, stat in sorted(files, key=lambda pair: pair[1].st_mtime, reverse=True):
            total += stat.st_size
            if total > self.limit:
                path.with_name(path.name.replace(_VALUES, _INDEX)).unlink(missing_ok=True)
                path.unlink(missing_ok=True)


def open_store(root: Path | None, lm: HostLM, hook: Hook, precision: str, kept: Kept) -> ActivationStore:
    """The store for an LM and a hook; in memory only without a folder, or where the weights of the LM have no hash."""
    card = card_of(lm)
    if root is None or not card.sha256:
        return ActivationStore()
    if root.exists() and not root.is_dir():
        raise InputError(f"--lm-cache {root}: exists and is not a folder")
    identity = "\n".join((_LAYOUT, card.sha256, str(lm.unembedding.dtype), precision, hook.name, kept))
    return ActivationStore(root / hashlib.sha256(identity.encode()).hexdigest()[:32])


def key_of(ids: TokenIds) -> bytes:
    """The key of a text in a store."""
    return hashlib.sha256(np.ascontiguousarray(ids, "<i4").tobytes()).digest()[:16]


def text_activations(
    lm: HostLM,
    hook: Hook,
    texts: Sequence[TokenIds],
    mesh: Mesh,
    kept: Kept = "last",
    precision: str = "highest",
    store: ActivationStore | None = None,
    progress: Progress = lambda stage, tokens, total: None,
    stop: Callable[[], None] = lambda: None,
) -> ActivationStore:
    """See that the store holds the activations of all texts.

    Args:
        lm: the language model.
        hook: where its activations are read.
        texts: token ids of each, BOS first.
        mesh: devices; texts are split over its data axis.
        kept: what of a text.
        precision: of matrix products.
        store: what is known already; default nothing.
        progress: called with "activations", the tokens just done, and all that are to be done.
        stop: called between batches, after which nothing is lost; it may raise.

    Raises:
        InputError: the LM gives NaN or Inf at the hook.
    """
    store = ActivationStore() if store is None else store
    missing = {key_of(ids): ids for ids in texts}
    missing = {key: ids for key, ids in missing.items() if key not in store}
    if not missing:
        return store
    order = sorted(missing, key=lambda key: len(missing[key]), reverse=True)
    model, total = Model.place(lm, mesh), sum(map(len, missing.values()))
    block = replicate(jnp.int32(hook.block), mesh)

    def run(shared, tokens: Int[Array, "row position"], last: Int[Array, " row"]):
        arrays, block = shared
        own, whole = hook.at(block), model.whole(arrays)
        with jax.default_matmul_precision(precision):
            x = wide(at_hook(whole, own, prefix(whole, own, tokens)))
        return x if kept == "tokens" else jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]

    step = jax.jit(map_rows(run, mesh))
    written, pending = time.monotonic(), None
    try:
        while order or pending is not None:
            dispatched = None
            if order:
                # The longest come first: what runs out of memory does so at once.
                width = padded_length(len(missing[order[0]]))
                size = rows_at_once(width, mesh)
                keys, order = order[:size], order[size:]
                tokens, last = np.zeros((size, width), np.int32), np.zeros(size, np.int32)
                for row, key in enumerate(keys):
                    tokens[row, : len(missing[key])], last[row] = missing[key], len(missing[key]) - 1
                dispatched = keys, step((model.arrays, block), *shard_rows((tokens, last), mesh))
            if pending is not None:  # fetched while the device works on the next
                keys, x = pending[0], on_host(pending[1])
                found = {
                    key: x[row, 1 : len(missing[key])] if kept == "tokens" else x[row : row + 1]
                    for row, key in enumerate(keys)
                }
                if not all(np.isfinite(own).all() for own in found.values()):
                    raise InputError(f"the LM gives NaN or Inf at {hook.name}; try --dtype float32")
                store.add({key: np.array(own, np.float32) for key, own in found.items()})
                progress("activations", sum(len(missing[key]) for key in keys), total)
                if time.monotonic() - written > _WRITE_EVERY:
                    store.write()
                    written = time.monotonic()
                stop()
            pending = dispatched
    finally:
        store.write()
    return store
