"""The rows of a run as batches on the devices, and the clock."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Integer

from jsaeval.corpus.masks import Masks
from jsaeval.forward.controls import RUN_CONTROLS, SAE_CONTROLS
from jsaeval.mesh import DATA, platform_of, shard_rows
from jsaeval.run.state import PassState


# Tokens that a device takes at a time. On 2 x86 cores 1,024 were faster than 512 and 2,048; a CPU's cache is small, an
# accelerator wants more work at a time (not measured).
CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 4096


def default_batch(positions: int, mesh: Mesh | AbstractMesh) -> int:
    """Rows at a time that suit the machine. Results do not depend on it."""
    if platform_of(mesh) == "cpu":  # fake devices share the cores
        return max(1, CPU_TOKENS // positions)
    return max(1, ACCELERATOR_TOKENS // positions) * mesh.shape[DATA]


def control_batch(rows: int, n_saes: int) -> int:
    """Rows at a time with the controls of so many SAEs, as many streams as without them."""
    streams, controls = 1 + n_saes, len(RUN_CONTROLS) + n_saes * len(SAE_CONTROLS)
    return max(1, rows * streams // (streams + controls))


@dataclass(frozen=True)
class Batch:
    """Rows `start .. start + n_rows - 1` on the devices; the rest fills up the batch and is masked."""

    tokens: Array
    masks: Masks
    row_ids: Array
    start: int
    n_rows: int
    size: int
    control: bool


@dataclass(frozen=True)
class Batches:
    """All batches of a run: first the control rows, a few at a time because they have many streams, then the others.

    Batches of each of the two kinds have one shape, so each kind is one program. The first `done` rows are left out.
    """

    tokens: Integer[np.ndarray, "row position"]
    masks: Masks
    size: int
    mesh: Mesh
    control_rows: int = 0
    control_size: int = 1
    done: int = 0

    def __iter__(self) -> Iterator[Batch]:
        n_rows, share = len(self.tokens), self.mesh.shape[DATA]
        for first, last, size in (
            (0, self.control_rows, self.control_size),
            (self.control_rows, n_rows, self.size),
        ):
            size = -(-size // share) * share
            for start in range(max(first, self.done), last, size):
                yield self._batch(start, min(size, last - start), size, control=last == self.control_rows)

    def leading(self, n_rows: int) -> "Batches":
        """The same for the first rows only."""
        masks = Masks(*(mask[:n_rows] for mask in self.masks))
        control = min(self.control_rows, n_rows)
        return Batches(self.tokens[:n_rows], masks, self.size, self.mesh, control, self.control_size)

    def all(self) -> "Batches":
        """The same with those that are done."""
        return dataclasses.replace(self, done=0)

    def on_devices(self, rows: np.ndarray, batch: Batch) -> Array:
        """Host rows of the run that belong to a batch, padded and sharded as it is."""
        part = rows[batch.start : batch.start + batch.n_rows]
        return shard_rows(_padded(part, batch.size), self.mesh)

    def _batch(self, start: int, n_rows: int, size: int, control: bool) -> Batch:
        part = slice(start, start + n_rows)
        ids = np.arange(start, start + size, dtype=np.int32)
        host = [self.tokens[part].astype(np.int32), *(mask[part] for mask in self.masks)]
        tokens, *masks = shard_rows([_padded(x, size) for x in host], self.mesh)
        return Batch(tokens, Masks(*masks), shard_rows(ids, self.mesh), start, n_rows, size, control)


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    return np.pad(rows, [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1))


@dataclass
class Clock:
    """Tells the time that compilation took from the time of the run."""

    compile_s: float = 0.0
    _start: float = field(default_factory=time.perf_counter)

    @classmethod
    def after(cls, saved: PassState | None) -> "Clock":
        """One that goes on where a pass stopped."""
        if saved is None:
            return cls()
        return cls(saved.compile_s, time.perf_counter() - saved.compile_s - saved.run_s)

    def compile(self, jitted: Any, *arguments: Any) -> Callable:
        start = time.perf_counter()
        compiled = jitted.lower(*arguments).compile()
        self.compile_s += time.perf_counter() - start
        return compiled

    def run_s(self) -> float:
        return time.perf_counter() - self._start - self.compile_s


@dataclass
class Programs:
    """One compiled program per kind of batch."""

    jitted: Any
    clock: Clock
    _compiled: dict[bool, Callable] = field(default_factory=dict)

    def __call__(self, kind: bool, *arguments: Any) -> Any:
        if kind not in self._compiled:
            self._compiled[kind] = self.clock.compile(self.jitted, *arguments)
        return self._compiled[kind](*arguments)
