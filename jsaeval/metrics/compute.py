"""The statistics table → metric values with intervals. Plain float64 arithmetic."""

import contextlib
from dataclasses import dataclass

import numpy as np

from jsaeval.forward.sums import BUCKET_NAMES
from jsaeval.metrics.latents import LatentTable
from jsaeval.metrics.metric import Metric, Totals
from jsaeval.metrics.registry import REGISTRY
from jsaeval.stats.bootstrap import interval, row_counts
from jsaeval.stats.table import Columns, Table


_BUCKETED = ("n", "sst", "l0", "sse", "kl")


@dataclass(frozen=True)
class Value:
    """A measured metric. `ci95` is absent where an interval makes no sense; `value` is NaN where it is undefined."""

    metric: Metric
    value: float
    n: int
    ci95: tuple[float, float] | None = None


@dataclass(frozen=True)
class Facts:
    """What the sums do not say: width of the hook, and the first block after it."""

    width: int
    first_block: int


@dataclass(frozen=True)
class Estimate:
    """A value of a metric with its bootstrap resamples (None: a single row)."""

    value: float
    n: int
    samples: np.ndarray | None

    def ci95(self) -> tuple[float, float] | None:
        return None if self.samples is None else interval(self.samples)

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference: both were resampled with the same rows."""
        with np.errstate(invalid="ignore"):  # infinite on both sides: undefined
            samples = None if self.samples is None or other.samples is None else self.samples - other.samples
        return Estimate(self.value - other.value, self.n, samples)


def estimates(columns: Columns, facts: Facts, seed: int = 0) -> dict[str, Estimate]:
    """Every metric whose columns are there.

    Args:
        columns: sums per row, of one SAE or control.
        facts: of the hook.
        seed: of the bootstrap. The same rows are drawn for everything of the same number of rows.
    """
    per_row = {name: c.sum(axis=-1) if name in _BUCKETED else c for name, c in columns.items()}
    total = Totals({name: column.sum(axis=0) for name, column in per_row.items()}, facts.width, facts.first_block)
    resampled, n_rows = None, len(columns["n"])
    if n_rows > 1:
        counts = row_counts(n_rows, seed)
        sums = {name: np.tensordot(counts, column, axes=1) for name, column in per_row.items()}
        resampled = Totals(sums, facts.width, facts.first_block)
    out = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for metric in REGISTRY.values():
            if metric.needs == "latents":
                continue
            try:
                value = float(metric.value(total))
            except KeyError:  # its group was not asked for, or what it compares with was not run
                continue
            samples = np.asarray(metric.value(resampled)) if resampled else None
            out[metric.id] = Estimate(value, int(total[metric.count]), samples)
    return out


def scalar_values(
    table: Table, sae: int, facts: Facts, seed: int = 0, latents: LatentTable | None = None
) -> dict[str, Value]:
    """All metrics of one SAE whose sums were measured.

    Args:
        table: of a run.
        sae: index of the SAE in it.
        facts: of the hook.
        seed: of the bootstrap.
        latents: per-latent measures, for the shares over latents.
    """
    values = named(estimates(columns_of(table, sae), facts, seed))
    for metric in REGISTRY.values():
        if metric.needs == "latents" and latents is not None:
            values[metric.id] = Value(metric, getattr(latents, metric.id), table.n_tokens)
    return values


def named(estimated: dict[str, Estimate]) -> dict[str, Value]:
    """Estimates as values with intervals."""
    return {id: Value(REGISTRY[id], e.value, e.n, e.ci95()) for id, e in estimated.items()}


def position_values(table: Table, sae: int, facts: Facts) -> dict[str, dict[str, float]]:
    """Metrics by position bucket; buckets that the mask leaves empty are absent."""
    columns = {name: column for name, column in columns_of(table, sae).items() if name in _BUCKETED}
    out: dict[str, dict[str, float]] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for i, bucket in enumerate(BUCKET_NAMES):
            sums = {name: column[:, i].sum() for name, column in columns.items()}
            for metric in REGISTRY.values():
                if metric.by_position and sums["n"]:
                    with contextlib.suppress(KeyError):  # its group was not asked for
                        value = float(metric.value(Totals(sums, facts.width, facts.first_block)))
                        out.setdefault(metric.id, {})[bucket] = value
    return out


def block_values(table: Table, sae: int, facts: Facts) -> dict[str, dict[str, float]]:
    """`downstream_mse` and `downstream_fvu` of each block after the hook."""
    n = table.n_tokens
    sse = table.saes["downstream_sse"][sae].sum(axis=0)
    spread = table.rows["resid_sst"].sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        curves = {"downstream_mse": sse / n, "downstream_fvu": sse / spread}
    return {name: {str(k): float(c[k]) for k in range(facts.first_block, len(c))} for name, c in curves.items()}


def columns_of(table: Table, sae: int) -> Columns:
    """Columns per row of one SAE or control."""
    return {**table.rows, **{name: column[sae] for name, column in table.saes.items()}}
