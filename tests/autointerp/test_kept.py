"""Kept explanations come back only where nothing that an explainer may look at has changed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from jsaeval.autointerp.evidence import Evidence
from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.kept import KeptExplainer
from jsaeval.autointerp.trie import Pattern, TrieRule
from tests.autointerp.made_up import documents, evidence_of, following


class Counting:
    """Knows what it was asked."""

    def __init__(self):
        self.asked = []

    def explain(self, evidence: Sequence[Evidence]) -> list[Explanation]:
        self.asked += [own.latent for own in evidence]
        rule = TrieRule([Pattern((3, None), 2.0, at_start=True)])
        return [Explanation(own.latent, "text", "n2g", rule) for own in evidence]


@pytest.fixture(scope="module")
def evidence():
    return evidence_of(0, following(5), documents(60))


def other_example(evidence, **changes):
    first, *rest = evidence.of("explain")
    examples = evidence.examples | {"explain": (dataclasses.replace(first, **changes), *rest)}
    return dataclasses.replace(evidence, examples=examples)


def other_table(evidence, **changes):
    return dataclasses.replace(evidence, tokens=dataclasses.replace(evidence.tokens, **changes))


CHANGES = {
    "latent": lambda own: dataclasses.replace(own, latent=1),
    "problem": lambda own: dataclasses.replace(own, problem="dead"),
    "density": lambda own: dataclasses.replace(own, statistics=dataclasses.replace(own.statistics, fires=7)),
    "before": lambda own: other_example(own, before=np.array([3], np.int32)),
    "begins": lambda own: other_example(own, begins=not own.of("explain")[0].begins),
    "kind": lambda own: other_example(own, kind="random"),
    "interval": lambda own: other_example(own, interval=3),
    "focus": lambda own: other_example(own, focus=own.of("explain")[0].focus + 1),
    "tokens": lambda own: other_example(own, tokens=own.of("explain")[0].tokens + 1),
    "activations": lambda own: other_example(own, activations=2 * own.of("explain")[0].activations),
    "seen": lambda own: other_table(own, seen=own.tokens.seen + 1),
    "fires": lambda own: other_table(own, fires=own.tokens.fires + 1),
    "mean": lambda own: other_table(own, mean=own.tokens.mean + 1),
    "n_tokens": lambda own: other_table(own, n_tokens=5),
}


def test_nothing_is_explained_twice(evidence, tmp_path):
    counting = Counting()
    for _ in range(2):
        (made,) = KeptExplainer(counting, tmp_path, ("sae",)).explain([evidence])
        assert counting.asked == [0] and made.text == "text"
        assert made.rule.patterns == (Pattern((3, None), 2.0, at_start=True),)
    KeptExplainer(counting, tmp_path, ("sae", "1")).explain([evidence])
    assert counting.asked == [0, 0]


@pytest.mark.parametrize("content", ["", "[" * 100_000, "3", "{}", '{"patterns": 3}'])
def test_what_was_harmed_is_explained_again(content, evidence, tmp_path):
    kept = KeptExplainer(counting := Counting(), tmp_path, ())
    kept.explain([evidence])
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    assert kept.explain([evidence])[0].text == "text" and len(counting.asked) == 2
    kept.explain([evidence])
    assert len(counting.asked) == 2


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_it_is_explained_again(name, evidence, tmp_path):
    kept = KeptExplainer(counting := Counting(), tmp_path, ())
    kept.explain([evidence])
    kept.explain([CHANGES[name](evidence)])
    assert len(counting.asked) == 2


def test_a_corpus_that_was_edited(tmp_path):
    """One document has other tokens, and no example is of it."""
    kept = KeptExplainer(counting := Counting(), tmp_path, ())
    texts = documents(60)
    before = evidence_of(0, following(5), texts, per_kind=2)
    shown = {own.document for own in before.of("explain")}
    edited = next(i for i in range(60) if i % 4 == 0 and i not in shown)
    texts[edited] = texts[edited][::-1].copy()
    texts[edited][0] = 5
    after = evidence_of(0, following(5), texts, per_kind=2)
    kept.explain([before])
    kept.explain([dataclasses.replace(after, examples=before.examples, statistics=before.statistics)])
    assert len(counting.asked) == 2
