"""Explanations by N2G on disk, as they are made: a run that was stopped makes none of them again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsaeval.autointerp.evidence import SPLITS, Evidence
from jsaeval.autointerp.explanation import Explainer, Explanation
from jsaeval.autointerp.trie import Pattern, TrieRule
from jsaeval.cache import atomic


@dataclass(frozen=True)
class KeptExplainer:
    """An explainer whose explanations are kept in a folder, by all that they depend on.

    Attributes:
        explainer: makes those that are not there; their rules are of patterns.
        folder: where they are.
        about: what else tells them from others: the dictionary, and how the explainer was asked.
    """

    explainer: Explainer
    folder: Path
    about: tuple[str, ...]

    def explain(self, evidence: Sequence[Evidence]) -> list[Explanation]:
        paths = [self.folder / f"{self._key(own)}.json" for own in evidence]
        found = [_read(path) for path in paths]
        missing = [i for i, own in enumerate(found) if own is None]
        made = self.explainer.explain([evidence[i] for i in missing]) if missing else []
        for i, own in zip(missing, made, strict=True):
            found[i] = own
            _write(paths[i], own)
        return [own for own in found if own is not None]

    def _key(self, evidence: Evidence) -> str:
        digest = hashlib.sha256(repr((*self.about, evidence.latent)).encode())
        for example in evidence.examples[SPLITS[0]]:
            digest.update(repr((example.kind, example.row, example.start, example.focus)).encode())
            digest.update(example.tokens.tobytes() + example.activations.tobytes())
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
    except (OSError, ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return None
