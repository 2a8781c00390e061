"""The activations of all latents of all SAEs at a hook in one pass of the prefix: nothing is run twice, and nothing of
size latents × tokens is kept, neither on the devices between batches nor on the host."""

import dataclasses
import functools
import hashlib
import math
import operator
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int

from jsaeval.autointerp.sparse import Entries, SparseLatents, table_of
from jsaeval.autointerp.store import Store, encoder_sha256, key_of
from jsaeval.corpus.masks import Masks
from jsaeval.corpus.rows import Rows
from jsaeval.errors import InputError
from jsaeval.forward.firing import Firing, firing
from jsaeval.forward.splice import prefix, read_at_hook
from jsaeval.hooks import Hook
from jsaeval.lm.card import card_of
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import DATA, MODEL, make_mesh, map_rows, on_host, replicate
from jsaeval.run.batches import Batch, Batches, default_batch
from jsaeval.run.calibration import Progress
from jsaeval.run.placed import Dictionaries, Model
from jsaeval.sae.module import SAE


_LAYOUT = "1"  # raise it when a change of the forward pass or of the table changes the numbers
_WRITE_EVERY = 20.0  # seconds; what a killed run loses
_EXPECTED_L0 = 64  # a row gets as many slots at first, times its positions


def sparse_activations(
    lm: HostLM,
    saes: Sequence[SAE],
    hook: Hook,
    rows: Rows,
    masks: Masks,
    latents: Sequence[Int[np.ndarray, "_"] | None] | None = None,
    *,
    mesh: Mesh | None = None,
    precision: str = "highest",
    batch: int | None = None,
    cache: Path | None = None,
    progress: Progress = lambda stage, tokens, total: None,
    stop: Callable[[], None] = lambda: None,
) -> list[SparseLatents]:
    """Where latents fire at the counted tokens, and how much; exact, whatever the batch and the devices.

    Args:
        lm: the language model.
        saes: SAEs that read the hook; `expected_average` ones with their scale (`SAE.with_scale`).
        hook: where they read.
        rows: the corpus.
        masks: `metric` says which tokens count.
        latents: of each SAE, which; None: all.
        mesh: devices; default all.
        precision: of matrix products.
        batch: rows at a time; default what suits the machine.
        cache: a folder that keeps tables, and what is done of a pass that is stopped; needs the SHA-256 of the LM.
        progress: called with "evidence", the tokens just done, and all that are to be done.
        stop: called between batches; it may raise, and little is lost then.

    Raises:
        InputError: a latent does not exist, or the LM gives NaN or Inf at the hook.
    """
    mesh = make_mesh() if mesh is None else mesh
    chosen = [_chosen(sae, own) for sae, own in zip(saes, latents or [None] * len(saes), strict=True)]
    card = card_of(lm)
    store = Store(cache if card.sha256 else None)
    text = rows.sha256(), hashlib.sha256(np.packbits(masks.metric).tobytes()).hexdigest()
    about = _LAYOUT, card.sha256, str(lm.unembedding.dtype), precision, hook.name, *text
    keys = [""] * len(saes)
    if store.folder is not None:
        encoders = [encoder_sha256(sae) for sae in saes]
        keys = [key_of(about, own, key_of(which.tolist())) for own, which in zip(encoders, chosen, strict=True)]
    found = [store.load(key) for key in keys]
    missing = [i for i, table in enumerate(found) if table is None]
    if missing:
        batches = Batches(np.asarray(rows.tokens), masks, batch or default_batch(rows.tokens.shape[1], mesh), mesh)
        asked = [saes[i] for i in missing], [chosen[i] for i in missing]
        parts = _parts(lm, hook, *asked, batches, precision, store, key_of([keys[i] for i in missing]), progress, stop)
        for i, entries in zip(missing, zip(*parts, strict=True), strict=True):
            found[i] = table = table_of(entries, chosen[i], int(masks.metric.sum()))
            store.save(keys[i], table)
        store.drop_parts(key_of([keys[i] for i in missing]))
    return [table for table in found if table is not None]


def _chosen(sae: SAE, latents: Int[np.ndarray, " latent"] | None) -> Bool[np.ndarray, " all_latents"]:
    if latents is None:
        return np.ones(sae.d_sae, bool)
    if len(latents) and not 0 <= latents.min() <= latents.max() < sae.d_sae:
        raise InputError(f"{sae.card.name}: latents {latents.min()} to {latents.max()}, but it has {sae.d_sae}")
    out = np.zeros(sae.d_sae, bool)
    out[latents] = True
    return out


def _parts(
    lm: HostLM,
    hook: Hook,
    saes: Sequence[SAE],
    chosen: Sequence[Bool[np.ndarray, "_"]],
    batches: Batches,
    precision: str,
    store: Store,
    key: str,
    progress: Progress,
    stop: Callable[[], None],
) -> list[list[Entries]]:
    """The entries of every SAE, part by part of the rows."""
    done, parts = store.parts(key, len(saes))
    n_rows, positions = batches.tokens.shape
    step = _Step(lm, hook, saes, chosen, batches.mesh, precision)
    written, start, new = time.monotonic(), done, []

    def keep() -> None:
        nonlocal written, start, new
        if new:
            parts.append([Entries(*map(np.concatenate, zip(*own, strict=True))) for own in zip(*new, strict=True)])
            store.add_part(key, start, done, parts[-1])
        written, start, new = time.monotonic(), done, []

    pending: tuple[Batch, Any] | None = None
    batches = dataclasses.replace(batches, done=done)
    for batch in (*batches, None):
        dispatched = None if batch is None else (batch, step(batch))
        if pending is not None:  # fetched while the devices work on the next
            own, firing = pending
            new.append(step.entries(own, firing))
            done = own.start + own.n_rows
            progress("evidence", own.n_rows * positions, (n_rows - batches.done) * positions)
            if time.monotonic() - written > _WRITE_EVERY:
                keep()
            try:
                stop()
            except BaseException:
                keep()
                raise
        pending = dispatched
    keep()
    return parts


class _Step:
    """From a batch to entries. Where a row has more than its slots hold, the batch is run again with twice as many."""

    def __init__(
        self,
        lm: HostLM,
        hook: Hook,
        saes: Sequence[SAE],
        chosen: Sequence[Bool[np.ndarray, "_"]],
        mesh: Mesh,
        precision: str,
    ):
        model, placed = Model.place(lm, mesh), Dictionaries.place(saes, mesh)
        block, which = replicate((jnp.int32(hook.block), tuple(chosen)), mesh)
        self._shared, self._hook = (model.arrays, block, placed.saes, which), hook
        self._latents = [int(own.sum()) for own in chosen]
        self._capacities: tuple[int, ...] | None = None

        def run(capacities, shared, tokens: Int[Array, "row position"], mask: Bool[Array, "row position"]):
            arrays, block, saes, which = shared
            with jax.default_matmul_precision(precision):
                whole, at = model.whole(arrays), hook.at(block)
                read, _ = read_at_hook(whole, at, prefix(whole, at, tokens))
                codes = [sae.encode(read.astype(sae.W_enc.dtype)) for sae in saes]
            sound = jnp.isfinite(read).all(axis=(1, 2))
            return sound, tuple(firing(z, mask, *own) for z, *own in zip(codes, which, capacities, strict=True))

        @functools.cache
        def program(capacities: tuple[int, ...]) -> Callable:
            return jax.jit(map_rows(functools.partial(run, capacities), mesh, (P(DATA), P(DATA, MODEL))))

        self._program = program

    def __call__(self, batch: Batch) -> tuple[Array, tuple[Firing, ...]]:
        positions = batch.tokens.shape[1]
        if self._capacities is None:
            self._capacities = tuple(positions * max(1, min(_EXPECTED_L0, n)) for n in self._latents)
        return self._program(self._capacities)(self._shared, batch.tokens, batch.masks.metric)

    def entries(self, batch: Batch, found: tuple[Array, tuple[Firing, ...]]) -> list[Entries]:
        """Of every SAE, on the host."""
        if not on_host(found[0])[: batch.n_rows].all():
            raise InputError(f"the LM gives NaN or Inf at {self._hook.name}; try --dtype float32")
        slots = tuple(own.value.shape[1] // own.count.shape[1] for own in found[1])
        needed = tuple(int(on_host(own.count).max()) for own in found[1])
        if any(map(operator.gt, needed, slots)):
            assert self._capacities is not None
            now = zip(self._capacities, needed, strict=True)
            self._capacities = tuple(own if n <= own else own * 2 ** math.ceil(math.log2(n / own)) for own, n in now)
            return self.entries(batch, self(batch))
        return [self._of(batch, own) for own in found[1]]

    def _of(self, batch: Batch, own: Firing) -> Entries:
        counts, *slots = (on_host(array)[: batch.n_rows] for array in own)
        used = np.arange(slots[0].shape[1] // counts.shape[1]) < counts[..., None]
        position, latent, value = (array.reshape(used.shape)[used] for array in slots)
        row = np.repeat(np.arange(batch.start, batch.start + batch.n_rows, dtype=np.int32), counts.sum(axis=1))
        return Entries(row, position, latent, value.astype(np.float32))
