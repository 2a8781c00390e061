"""The folder of a command that adds a section: its own, or one of the same LM and SAEs, whose report it completes."""

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
from jsaeval.run.folder import (
    REPORT,
    SCHEMA,
    Section,
    finite,
    fresh,
    read_report,
    sections_of,
    to_text,
    which,
    with_section,
)


@dataclass(frozen=True)
class SectionFolder:
    """A folder that may be written to. `identity`: what was asked for; `before`: the report that is in it."""

    section: Section
    path: Path
    identity: dict[str, Any]
    before: dict[str, Any] | None

    @classmethod
    def claim(cls, section: Section, out: str | None, identity: dict[str, Any], resume: bool) -> "SectionFolder":
        """The folder for a call. It is not made yet. One in which nothing was done yet may be claimed with other flags.

        Raises:
            InputError: it is no folder, or holds others, or some that did not end and are not to be resumed.
        """
        what = section.name
        if out is None:
            if resume:
                raise InputError(f"--resume: say which {what} with --out DIR")
            return cls(section, fresh(), identity, None)
        path = Path(out)
        if path.exists() and not path.is_dir():
            raise InputError(f"--out {path}: exists and is not a folder")
        if unfinished(path):
            raise InputError(f"--out {path}: holds a run that did not end; let jsaeval run --resume end it first")
        parts = path / section.parts
        begun = bool(section.parts) and parts.is_dir() and any(parts.iterdir())
        if begun and not resume:
            raise InputError(
                f"--out {path}: holds {what} that did not end; --resume goes on with them, or delete {parts}"
            )
        before = read_report(path) if (path / REPORT).exists() else None
        if section.plan and (plan := path / section.plan).exists():
            try:
                then = tomllib.loads(plan.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError):
                raise InputError(f"--out {path}: {plan.name} in it cannot be read; choose another folder") from None
            now = tomllib.loads(tomli_w.dumps(identity))
            if then != now and (begun or section in sections_of(before or {})):
                raise InputError(f"--out {path}: holds other {what} ({difference(then, now)}); choose another folder")
        return cls(section, path, identity, before)

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
        """Make it, and say what it is for.

        Raises:
            InputError: it cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.section.plan:
                with atomic(self.path / self.section.plan) as temporary:
                    temporary.write_text(tomli_w.dumps(self.identity), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--out {self.path}: cannot be written to ({error.strerror})") from None

    def write(self, made: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
        """Write the table and, last, the report; returns it. What was kept to go on from goes.

        Args:
            made: "lm", "saes", "provenance" and the keys of the section. Of a report that was there only the last are
                replaced, and metrics of its SAEs added.
            table: one line for each result.
        """
        report: dict[str, Any] = {"schema": SCHEMA} | made
        if self.before is not None:
            report = with_section(self.before, report, self.section)
        report = finite(report)
        with atomic(self.path / self.section.table) as temporary:
            table.to_parquet(temporary, index=False)
        with atomic(self.path / REPORT) as temporary:
            temporary.write_text(to_text(report), encoding="utf-8")
        if self.section.parts:
            shutil.rmtree(self.path / self.section.parts, ignore_errors=True)
        return report
