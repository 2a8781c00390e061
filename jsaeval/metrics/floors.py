"""What the controls say: each control's metrics on the control rows, and paired differences of the SAE from them."""

from dataclasses import dataclass

from jsaeval.forward.controls import control_names
from jsaeval.metrics.compute import Estimate, Facts, Value, columns_of, estimates, named
from jsaeval.metrics.registry import REGISTRY
from jsaeval.stats.table import Columns, Table


# Controls whose latents are their own, so that norms of latents mean something.
_WITH_CODE = ("random_sae",)
# The identity control must stay below this in nats.
IDENTITY_LIMIT = 1e-4


@dataclass(frozen=True)
class Floor:
    """One control of an SAE: its metrics, and SAE minus control (positive: the SAE has more of it)."""

    metrics: dict[str, Value]
    difference: dict[str, Value]


@dataclass(frozen=True)
class SAEControls:
    """Of one SAE: its own metrics on the control rows, those that need a control, and its floors."""

    on_control_rows: dict[str, Value]
    compared: dict[str, Value]
    floors: dict[str, Floor]


@dataclass(frozen=True)
class RunControls:
    """Of a run: metrics of the zero, mean and identity streams on the control rows."""

    rows: int
    n: int
    metrics: dict[str, dict[str, Value]]

    def identity_holds(self) -> bool:
        """Whether splicing x itself changes nothing."""
        values = self.metrics.get("identity", {})
        measured = [values[id] for id in ("ce_increase", "downstream_loss") if id in values and values[id].n]
        return all(abs(value.value) < IDENTITY_LIMIT for value in measured)


def run_controls(table: Table, n_saes: int, facts: Facts, seed: int) -> RunControls:
    """The controls that do not belong to an SAE.

    Args:
        table: of the control rows, or of all rows of a run without controls, where only zero ablation is left.
        n_saes: number of SAEs in it.
        facts: of the hook.
        seed: of the bootstrap.
    """
    metrics = {}
    if "ce_zero" in table.rows:
        zero = {"ce": table.rows["ce_zero"], "kl": table.rows["kl_zero"][:, None]}
        metrics["zero"] = _about_the_lm(estimates(table.rows | zero, facts, seed))
    for name, owner, index in _streams(table, n_saes):
        if owner < 0:
            found = estimates(columns_of(table, index), facts, seed)
            metrics[name] = named({id: e for id, e in found.items() if id not in _NORMS})
    return RunControls(table.n_rows, table.n_tokens, metrics)


def sae_controls(table: Table, sae: int, n_saes: int, facts: Facts, seed: int) -> SAEControls:
    """The controls of one SAE. Arguments as for `run_controls`; `sae` is its index."""
    streams = {name: columns_of(table, index) for name, owner, index in _streams(table, n_saes) if owner in (-1, sae)}
    own: Columns = columns_of(table, sae)
    extra = {}
    if "ce" in own:
        extra = {"ce_mean": streams["mean"]["ce"], "kl_random_error": streams["random_error"]["kl"].sum(axis=-1)}
    found = estimates(own | extra, facts, seed)
    compared = {id: e for id, e in found.items() if REGISTRY[id].needs == "controls"}
    plain = {id: e for id, e in found.items() if id not in compared}
    floors = {}
    for name, owner, index in _streams(table, n_saes):
        if owner == sae:
            other = estimates(columns_of(table, index), facts, seed)
            other = {id: e for id, e in other.items() if id not in _NORMS or name in _WITH_CODE}
            differences = {id: plain[id].minus(e) for id, e in other.items() if id in plain and id != "ce_clean"}
            floors[name] = Floor(named(other), named(differences))
    return SAEControls(named(plain), named(compared), floors)


_NORMS = tuple(metric.id for metric in REGISTRY.values() if metric.needs == "norms")


def _streams(table: Table, n_saes: int) -> list[tuple[str, int, int]]:
    """(control, its SAE or -1, its index in the table) of the controls that the table has."""
    n_streams = max((len(column) for column in table.saes.values()), default=n_saes)
    if n_streams == n_saes:
        return []
    return [(name, sae, n_saes + i) for i, (name, sae) in enumerate(control_names(n_saes))]


def _about_the_lm(found: dict[str, Estimate]) -> dict[str, Value]:
    wanted = ("ce_clean", "ce_spliced", "ce_increase", "downstream_loss")
    return named({id: e for id, e in found.items() if id in wanted})
