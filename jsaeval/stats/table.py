"""The statistics table: one line of sums per row (sequence) and SAE, in float64 and int64 on the host.

This table is what is stored, merged, bootstrapped and turned into metrics. Columns are described at
`jsaeval.forward.batch.BatchStatistics`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jsaeval.mesh import on_host


Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Table:
    """`rows`: (row, ...); `saes`: (sae, row, ...); `vectors`: sums over the run; `latents`: counters of each SAE."""

    rows: Columns
    saes: Columns
    vectors: Columns
    latents: tuple[Columns, ...]

    @property
    def n_rows(self) -> int:
        return len(self.rows["n"])

    @property
    def n_tokens(self) -> int:
        """Counted tokens N = |T|."""
        return int(self.rows["n"].sum())

    def to_arrays(self) -> dict[str, Any]:
        """Nested dictionaries of arrays, which is what is stored."""
        latents = {str(i): columns for i, columns in enumerate(self.latents)}
        return {"rows": self.rows, "saes": self.saes, "vectors": self.vectors, "latents": latents}

    @classmethod
    def of_arrays(cls, tree: dict[str, Any]) -> "Table":
        """What `to_arrays` was made from; empty dictionaries may be missing."""
        latents = tree.get("latents", {})
        counted = tuple(latents[str(i)] for i in range(len(latents)))
        return cls(tree["rows"], tree.get("saes", {}), tree.get("vectors", {}), counted)

    def not_finite(self, sae: int | None = None) -> dict[str, int]:
        """Columns with NaN or Inf, of one SAE or (None) of all SAEs together, and the first row of each."""
        columns = self.rows if sae is None else {name: column[sae] for name, column in self.saes.items()}
        bad = {name: ~np.isfinite(column.reshape(self.n_rows, -1)).all(axis=1) for name, column in columns.items()}
        return {name: int(rows.argmax()) for name, rows in bad.items() if rows.any()}

    def with_variance(self) -> "Table":
        """The same table with squared deviations from means of the run: `sst` of x (by bucket), `resid_sst` of a^k (by
        block). Totals are exact; what only the run knows is given to its rows in proportion to their tokens.
        """
        added: Columns = {}
        if "x_dev_sq" in self.rows:
            added["sst"] = self._of_input()
        if "resid_sum_sq" in self.rows:
            added["resid_sst"] = self._of_residual()
        return replace(self, rows=self.rows | added)

    def _of_input(self) -> np.ndarray:
        """Deviations were summed about a fixed vector near the mean: move them by sums of vectors of the run."""
        n, shifts = self.rows["n"], self.vectors["x_dev"]
        per_bucket = n.sum(axis=0)
        shift = shifts.sum(axis=0) / max(1, per_bucket.sum())
        change = np.square(shift).sum() * per_bucket - 2 * shifts @ shift
        per_token = np.divide(change, per_bucket, out=np.zeros(len(change)), where=per_bucket > 0)
        return self.rows["x_dev_sq"] + n * per_token[None]

    def _of_residual(self) -> np.ndarray:
        """Within a row about its own mean, exactly; between rows, which is little, from the run."""
        n = self.rows["n"].sum(axis=1)[:, None]
        own = np.divide(self.rows["resid_sum_sq"], n, out=np.zeros(self.rows["resid_sum_sq"].shape), where=n > 0)
        total = max(1, self.n_tokens)
        between = own.sum(axis=0) - np.square(self.vectors["resid"]).sum(axis=1) / total
        return self.rows["resid_sq"] - own + n * (between / total)[None]


@dataclass
class Collector:
    """Collects batches into a `Table`, after those of `begun`. Host arrays only; `add` waits for the device."""

    begun: Table | None = None

    def __post_init__(self):
        begun = self.begun
        self._rows: list[Columns] = [] if begun is None else [begun.rows]
        self._saes: list[Columns] = [] if begun is None else [begun.saes]
        self._vectors: Columns = {} if begun is None else begun.vectors
        self._latents: tuple[Columns, ...] = () if begun is None else begun.latents

    def add(self, rows: Any, saes: Any, vectors: Any, n_rows: int) -> None:
        """One batch, of which the first `n_rows` rows are real (the rest fills up the batch)."""
        rows, saes, vectors = (jax.tree.map(exact, tree) for tree in (rows, saes, vectors))
        self._rows.append({name: column[:n_rows] for name, column in rows.items()})
        self._saes.append({name: column[:, :n_rows] for name, column in saes.items()})
        self._vectors = {name: self._vectors.get(name, 0) + vector for name, vector in vectors.items()}

    def add_latents(self, counts: Iterable[Any]) -> None:
        """Counters of some batches: `jsaeval.forward.latents.LatentCounts` of each SAE."""
        new = tuple({name: exact(value) for name, value in c._asdict().items()} for c in counts)
        old = self._latents or tuple({name: np.zeros_like(value) for name, value in c.items()} for c in new)
        self._latents = tuple(
            {
                "fires": a["fires"] + b["fires"],
                "rows": a["rows"] + b["rows"],
                "total": a["total"] + b["total"],
                "largest": np.maximum(a["largest"], b["largest"]),
            }
            for a, b in zip(old, new, strict=True)
        )

    @property
    def empty(self) -> bool:
        return not self._rows

    def table(self) -> Table:
        """Everything so far; there has to be something."""
        rows = {name: np.concatenate([part[name] for part in self._rows]) for name in self._rows[0]}
        saes = {name: np.concatenate([part[name] for part in self._saes], axis=1) for name in self._saes[0]}
        return Table(rows, saes, self._vectors, self._latents)


def exact(x: Any) -> np.ndarray:
    """A device array on the host, as float64 or int64."""
    array = on_host(x)
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
