"""Two runs on the same rows, or two SAEs of one run: paired differences of every metric made of sums over rows.

Both sides are resampled with the same rows, so what the text does to both falls out of the difference.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jsaeval.errors import InputError, nearest
from jsaeval.hooks import parse_hook
from jsaeval.metrics.compute import Estimate, Facts, estimates
from jsaeval.metrics.registry import REGISTRY
from jsaeval.run.folder import ROWS, is_run, read_report, read_table, sections_of
from jsaeval.stats.table import Columns


# What may be compared between two hooks: not what speaks of the activation there, of the blocks behind it, or of its
# zero ablation.
_ACROSS_HOOKS = ("downstream_loss", "ce_spliced", "ce_increase", "top1_agreement", "total_variation", "l0")


class Side(NamedTuple):
    """One SAE of a run."""

    folder: Path
    sae: dict[str, Any]
    columns: Columns


@dataclass(frozen=True)
class Pair:
    """Two SAEs on the same rows; `differences` are a minus b, by metric id."""

    a: Side
    b: Side
    values: dict[str, tuple[Estimate, Estimate]]
    differences: dict[str, Estimate]
    n_rows: int

    @property
    def same_hook(self) -> bool:
        return self.a.sae["hook"] == self.b.sae["hook"]


def _read_run(folder: Path) -> dict[str, Any]:
    report = read_report(folder)
    if not is_run(report):
        held = " and ".join(section.name for section in sections_of(report))
        raise InputError(f"{folder}: holds {held} and no run; jsaeval run makes one")
    return report


def compare(
    a: Path, b: Path | None = None, sae_a: str | None = None, sae_b: str | None = None, seed: int = 0
) -> list[Pair]:
    """Compare SAEs of one or two runs.

    Args:
        a: the folder of a run.
        b: that of another; default the same one.
        sae_a: which SAE of a; default the only one.
        sae_b: which SAE of b. Where neither is named, those of the same names are compared one by one.
        seed: of the bootstrap.

    Raises:
        InputError: a folder is no run, an SAE is not in it, or the two were not measured alike on the same rows.
    """
    first = _read_run(a)
    second = first if b is None else _read_run(b)
    if b is not None:
        _check(a, first, b, second)
    names_a, names_b = _names(first), _names(second)
    shared = [name for name in names_a if name in names_b]
    if b is not None and sae_a is None and sae_b is None and shared and max(len(names_a), len(names_b)) > 1:
        chosen = [(name, name) for name in shared]
    elif b is None and sae_a is None and sae_b is None and len(names_a) == 2:
        chosen = [(names_a[0], names_a[1])]
    else:
        chosen = [(_choose(a, names_a, sae_a, "--sae-a"), _choose(b or a, names_b, sae_b, "--sae-b"))]
        if b is None and chosen[0][0] == chosen[0][1]:
            raise InputError(f"{a}: compared with itself; name another SAE with --sae-b ({', '.join(names_a)})")
    rows_a = read_table(a, ROWS)
    rows_b = rows_a if b is None else read_table(b, ROWS)
    return [_pair(_side(a, first, rows_a, one), _side(b or a, second, rows_b, other), seed) for one, other in chosen]


def _names(report: dict[str, Any]) -> list[str]:
    return [sae["name"] for sae in report["saes"] if "error" not in sae]


def _choose(folder: Path, names: list[str], wanted: str | None, flag: str) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None:
        raise InputError(f"{folder}: holds {len(names)} SAEs; choose one with {flag} ({', '.join(names)})")
    if wanted not in names:
        raise InputError(f"{flag} {wanted!r}: not in {folder}{nearest(wanted, names)} ({', '.join(names)})")
    return wanted


def _check(a: Path, first: dict[str, Any], b: Path, second: dict[str, Any]) -> None:
    """Raises InputError where two runs cannot be compared row by row."""
    for what, path in (
        ("LM", ("lm", "sha256")),
        ("text", ("corpus", "sha256")),
        ("metric mask", ("masks", "metric")),
        ("splice mask", ("masks", "splice")),
        ("dtype", ("provenance", "dtype")),
        ("precision of matrix products", ("provenance", "precision")),
    ):
        one, other = (report[path[0]][path[1]] for report in (first, second))
        if one != other:
            raise InputError(
                f"{a} and {b}: another {what} ({one} and {other}); only runs on the same rows, with the same "
                "LM, masks and arithmetic can be compared"
            )
    if first["lm"]["sha256"] is None and first["lm"] != second["lm"]:
        raise InputError(f"{a} and {b}: another LM, as far as one can tell without its hash")


def _side(folder: Path, report: dict[str, Any], frame: pd.DataFrame, name: str) -> Side:
    sae = next(sae for sae in report["saes"] if sae["name"] == name)
    lines = pd.DataFrame(frame[frame["sae"] == name]).sort_values(by="row")
    if len(lines) != report["corpus"]["rows"]:
        raise InputError(
            f"{folder / ROWS}: {len(lines)} rows of {name}, but the report speaks of {report['corpus']['rows']}"
        )
    columns = {}
    for key in lines.columns.difference(["sae", "row", "documents"]):
        values = lines[key].tolist()
        if not any(value is None or (np.ndim(value) == 0 and np.isnan(value)) for value in values):
            columns[key] = np.stack([np.asarray(value) for value in values])
    return Side(folder, sae, columns)


def _pair(a: Side, b: Side, seed: int) -> Pair:
    found = []
    for side in (a, b):
        hook = parse_hook(side.sae["hook"])
        found.append(
            estimates(side.columns, Facts(side.sae.get("d_out", side.sae["d_in"]), int(hook.prefix_stop)), seed)
        )
    ids = [id for id in REGISTRY if id in found[0] and id in found[1] and id != "ce_clean"]
    if a.sae["hook"] != b.sae["hook"]:
        ids = [id for id in ids if id in _ACROSS_HOOKS]
    values = {id: (found[0][id], found[1][id]) for id in ids}
    differences = {id: one.minus(other) for id, (one, other) in values.items()}
    return Pair(a, b, values, differences, len(a.columns["n"]))
