"""Explanations by N2G on disk, as they are made: a run that was stopped makes none of them again."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jsaeval.autointerp.evidence import Evidence
from jsaeval.autointerp.explanation import Explainer, Explanation
from jsaeval.autointerp.trie import Pattern, TrieRule
from jsaeval.cache import HARMED, atomic


@dataclass(frozen=True)
class KeptExplainer:
    """An explainer whose explanations are kept in a folder, by all that they depend on.

    Attributes:
        explainer: makes those that are not there; their rules are of patterns.
        folder: where they are.
        about: what else tells them from others: the LM, the dictionary, and all settings of the explainer.
    """

    explainer: Explainer
    folder: Path
    about: tuple[str, ...]

    def explain(self, evidence: Sequence[Evidence]) -> list[Explanation]:
        found = self.kept(evidence)
        missing = [i for i, own in enumerate(found) if own is None]
        made = self.explainer.explain([evidence[i] for i in missing]) if missing else []
        for i, own in zip(missing, made, strict=True):
            found[i] = own
            _write(self._path(evidence[i]), own)
        return [own for own in found if own is not None]

    def kept(self, evidence: Sequence[Evidence]) -> list[Explanation | None]:
        """Those that are there; None for others."""
        return [_read(self._path(own)) for own in evidence]

    def _path(self, evidence: Evidence) -> Path:
        return self.folder / f"{self._key(evidence)}.json"

    def _key(self, evidence: Evidence) -> str:
        """Of everything that an explainer may look at; another corpus has other keys."""
        examples = evidence.examples["explain"]
        seen = evidence.latent, evidence.problem, evidence.strata.get("explain"), len(examples)
        of_parts = (vars(own).values() for own in (evidence.statistics, evidence.tokens, *examples))
        return digest_of(itertools.chain(self.about, seen, *of_parts))


def digest_of(values: Iterable[Any]) -> str:
    """A name for a file that depends on all of these values."""
    digest = hashlib.sha256()
    for value in values:
        whole = (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
        digest.update(repr(whole).encode() + b"\n")
    return digest.hexdigest()[:32]


def _write(path: Path, explanation: Explanation) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {"latent": explanation.latent, "text": explanation.text, "explainer": explanation.explainer}
    fields |= {"error": explanation.error, "patterns": None}
    if explanation.rule is not None:
        assert isinstance(explanation.rule, TrieRule)
        fields["patterns"] = [vars(pattern) for pattern in explanation.rule.patterns]
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(fields), encoding="utf-8")


def _read(path: Path) -> Explanation | None:
    """None where there is none, or what is there was harmed."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        patterns = fields.pop("patterns")
        if patterns is None:
            return Explanation(**fields)
        return Explanation(
            **fields, rule=TrieRule([Pattern(**own | {"tokens": tuple(own["tokens"])}) for own in patterns])
        )
    except FileNotFoundError:
        return None
    except HARMED:
        path.unlink(missing_ok=True)
        return None
