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

    d_in: int
    first_block: int


def scalar_values(
    table: Table, sae: int, facts: Facts, seed: int = 0, latents: LatentTable | None = None
) -> dict[str, Value]:
    """All metrics of one SAE whose sums were measured.

    Args:
        table: of a run.
        sae: index of the SAE in it.
        facts: of the hook.
        seed: of the bootstrap. The same rows are drawn for every SAE, so differences are paired.
        latents: per-latent measures, for the shares over latents.
    """
    columns = {name: c.sum(axis=-1) if name in _BUCKETED else c for name, c in _columns(table, sae).items()}
    total = Totals({name: column.sum(axis=0) for name, column in columns.items()}, facts.d_in, facts.first_block)
    resampled = None
    if table.n_rows > 1:
        counts = row_counts(table.n_rows, seed)
        sums = {name: np.tensordot(counts, column, axes=1) for name, column in columns.items()}
        resampled = Totals(sums, facts.d_in, facts.first_block)

    values = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for metric in REGISTRY.values():
            if metric.needs == "latents":
                if latents is not None:
                    values[metric.id] = Value(metric, getattr(latents, metric.id), table.n_tokens)
                continue
            try:
                value = float(metric.value(total))
            except KeyError:  # its group was not asked for, or there was no mean for `legacy`
                continue
            ci95 = interval(metric.value(resampled)) if resampled else None
            values[metric.id] = Value(metric, value, int(total[metric.count]), ci95)
    return values


def position_values(table: Table, sae: int, facts: Facts) -> dict[str, dict[str, float]]:
    """Metrics by position bucket; buckets that the mask leaves empty are absent."""
    columns = {name: column for name, column in _columns(table, sae).items() if name in _BUCKETED}
    out: dict[str, dict[str, float]] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for i, bucket in enumerate(BUCKET_NAMES):
            sums = {name: column[:, i].sum() for name, column in columns.items()}
            for metric in REGISTRY.values():
                if metric.by_position and sums["n"]:
                    with contextlib.suppress(KeyError):  # its group was not asked for
                        value = float(metric.value(Totals(sums, facts.d_in, facts.first_block)))
                        out.setdefault(metric.id, {})[bucket] = value
    return out


def block_values(table: Table, sae: int, facts: Facts) -> dict[str, dict[str, float]]:
    """`downstream_mse` and `downstream_fvu` of each block after the hook."""
    n = table.n_tokens
    sse = table.saes["downstream_sse"][sae].sum(axis=0)
    spread = table.rows["resid_sq"].sum(axis=0) - np.square(table.vectors["resid"]).sum(axis=1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        curves = {"downstream_mse": sse / n, "downstream_fvu": sse / spread}
    return {name: {str(k): float(c[k]) for k in range(facts.first_block, len(c))} for name, c in curves.items()}


def zero_values(table: Table) -> dict[str, float]:
    """What zero ablation does to the LM: the baseline of the recovered scores."""
    total = {name: table.rows[name].sum() for name in ("ce_clean", "ce_zero", "kl_zero", "n_ce")}
    ce_zero = total["ce_zero"] / total["n_ce"]
    return {
        "ce_spliced": float(ce_zero),
        "ce_increase": float(ce_zero - total["ce_clean"] / total["n_ce"]),
        "downstream_loss": float(total["kl_zero"] / table.n_tokens),
    }


def _columns(table: Table, sae: int) -> Columns:
    """Columns per row of one SAE, with `sst`: squared deviations from the mean of the run, by bucket.

    Deviations were summed about a fixed vector. Moving to the mean needs the vector sums: of each bucket, over the run.
    A row's share of that shift is taken in proportion to its tokens, so that the total is exact.
    """
    columns = {**table.rows, **{name: column[sae] for name, column in table.saes.items()}}
    if "x_dev_sq" in columns:
        n, shifts = columns["n"], table.vectors["x_dev"]
        per_bucket = n.sum(axis=0)
        shift = shifts.sum(axis=0) / max(1, per_bucket.sum())
        change = np.square(shift).sum() * per_bucket - 2 * shifts @ shift
        per_token = np.divide(change, per_bucket, out=np.zeros(len(change)), where=per_bucket > 0)
        columns["sst"] = columns["x_dev_sq"] + n * per_token[None]
    return columns
