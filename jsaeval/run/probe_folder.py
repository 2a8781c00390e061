"""The folder of `jsaeval probe`: its own, or that of a run of the same LM and SAEs, whose report it completes."""

import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from jsaeval.cache import atomic
from jsaeval.errors import InputError
from jsaeval.run.checkpoint import difference, unfinished
from jsaeval.run.folder import REPORT, SCHEMA, finite, fresh, read_report, to_text, which, with_probes


PLAN, TABLE = "probe.toml", "probes.parquet"
# Where results of single tasks lie until all are done.
TASKS = "probes"


@dataclass(frozen=True)
class ProbeFolder:
    """A folder that may be written to. `identity`: what was asked for; `before`: the report that is in it."""

    path: Path
    identity: dict[str, Any]
    before: dict[str, Any] | None

    @classmethod
    def claim(cls, out: str | None, identity: dict[str, Any], resume: bool) -> "ProbeFolder":
        """The folder for a call. It is not made yet.

        Raises:
            InputError: it is no folder, or holds other probes, or some that did not end and are not to be resumed.
        """
        if out is None:
            if resume:
                raise InputError("--resume: say which probes with --out DIR")
            return cls(fresh(), identity, None)
        path = Path(out)
        if path.exists() and not path.is_dir():
            raise InputError(f"--out {path}: exists and is not a folder")
        if unfinished(path):
            raise InputError(f"--out {path}: holds a run that did not end; let jsaeval run --resume end it first")
        if (path / TASKS).is_dir() and not resume:
            raise InputError(
                f"--out {path}: holds probes that did not end; --resume goes on with them, or delete {path / TASKS}"
            )
        if (path / PLAN).exists():
            try:
                then = tomllib.loads((path / PLAN).read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError):
                raise InputError(f"--out {path}: {PLAN} in it cannot be read; choose another folder") from None
            now = tomllib.loads(tomli_w.dumps(identity))
            if then != now:
                raise InputError(f"--out {path}: holds other probes ({difference(then, now)}); choose another folder")
        return cls(path, identity, read_report(path) if (path / REPORT).exists() else None)

    def check_same(self, lm: dict[str, Any], saes: Sequence[tuple[str, str]]) -> None:
        """Raises InputError where the folder is that of a run of another LM, or of none of these (SHA-256, hook)."""
        if self.before is None:
            return
        if self.before["lm"].get("sha256") != lm["sha256"]:
            raise InputError(f"--out {self.path}: holds a run of another LM ({self.before['lm'].get('name')})")
        there = {which(sae) for sae in self.before["saes"] if "error" not in sae}
        if not set(saes) <= there:
            raise InputError(f"--out {self.path}: holds a run of other SAEs, or at another hook; choose another folder")

    def name_of(self, sha256: str, hook: str) -> str | None:
        """What the run in the folder calls an SAE."""
        saes = [] if self.before is None else self.before["saes"]
        return next((sae["name"] for sae in saes if "error" not in sae and which(sae) == (sha256, hook)), None)

    def begin(self) -> None:
        """Make it, and say what it is for."""
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic(self.path / PLAN) as temporary:
            temporary.write_text(tomli_w.dumps(self.identity), encoding="utf-8")

    def write(self, made: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
        """Write the table and, last, the report; returns it. What was kept to go on from goes.

        Args:
            made: "lm", "saes", "provenance", "probes" and "probe_summary". Of a run's report only the last two are
                replaced, and metrics of its SAEs added.
            table: one line for each probe.
        """
        report: dict[str, Any] = {"schema": SCHEMA} | made
        if self.before is not None:
            report = with_probes(self.before, report)
        report = finite(report)
        with atomic(self.path / TABLE) as temporary:
            table.to_parquet(temporary, index=False)
        with atomic(self.path / REPORT) as temporary:
            temporary.write_text(to_text(report), encoding="utf-8")
        shutil.rmtree(self.path / TASKS, ignore_errors=True)
        return report
