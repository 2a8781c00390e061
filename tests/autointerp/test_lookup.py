"""Lookup tables by hand, and texts of tokens."""

import dataclasses

import numpy as np
import pytest

from jsaeval.autointerp.evidence import Evidence, Example, Statistics, TokenTable
from jsaeval.autointerp.lookup import NO_TOKEN, Lookup, pair_means
from jsaeval.autointerp.phrases import LONGEST, describe, joined, quoted
from jsaeval.autointerp.trie import Pattern


NAMES = {1: " oil", 2: " price", 3: "\n", 4: " New", 5: " York", 6: "\ufffd", 7: "a"}


def example(tokens, activations, interval=1, before=(), row=0, begins=True):
    tokens, activations = np.array(tokens, np.int32), np.array(activations, np.float32)
    return Example("random", interval, row, row, 1, np.array(before, np.int32), tokens, activations, 0, begins)


@pytest.fixture
def evidence():
    """Token 1 is seen ten times and fires twice, 2 fires always. Two pairs in three examples, one of them 9 windows."""
    table = TokenTable(np.array([1, 2]), np.array([10, 4]), np.array([2, 4]), np.array([0.5, 3.0]), 0.1, 60)
    examples = (
        example([7, 1, 2], [0, 4, 3], interval=5),
        example([7, 1, 7], [0, 0, 0], interval=0, row=1),
        example([1, 7, 7], [0, 0, 0], interval=0, row=2),
    )
    strata = {"explain": np.array([18, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0])}
    return Evidence(3, Statistics(99, 6, 4.0, 3.0, np.zeros(1), np.zeros(0, int)), table, {"explain": examples}, strata)


def test_pairs_by_hand(evidence):
    means = pair_means(evidence, {1: 0.5, 2: 3.0})
    # (7, 1): 4 in an example that stands for 1 window, 0 in one that stands for 9; two seen, the token counts as two.
    assert means[7, 1] == pytest.approx((2 * (4 * 1 + 0 * 9) / 10 + 2 * 0.5) / 4)
    assert means[1, 2] == pytest.approx(3) and means[NO_TOKEN, 1] == pytest.approx(2 * 0.5 / 3)
    assert len(means) == 3
    # In a row in which a document goes on nobody knows what stands before.
    going_on = dataclasses.replace(evidence.examples["explain"][2], begins=False)
    other = dataclasses.replace(evidence, examples={"explain": (*evidence.examples["explain"][:2], going_on)})
    assert means.keys() - pair_means(other, {1: 0.5, 2: 3.0}).keys() == {(NO_TOKEN, 1)}


def test_what_they_predict(evidence):
    (pairs,), (tokens,) = (Lookup(NAMES.__getitem__, kind).explain([evidence]) for kind in ("lookup", "token"))
    text = np.array([1, 2, 9, 1], np.int32)
    np.testing.assert_allclose(tokens.rule.predict(np.zeros(0, np.int32), text), [0.5, 3, 0, 0.5])
    # Pairs back off to the token: (9, 1) was never seen.
    np.testing.assert_allclose(pairs.rule.predict(np.zeros(0, np.int32), text), [1 / 3, 3, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(pairs.rule.predict(np.array([7], np.int32), text)[:1], [0.45], atol=1e-6)
    np.testing.assert_allclose(pairs.rule.predict(np.zeros(0, np.int32), text, False)[:1], [0.5])
    assert tokens.text == 'mean activation at "␣price" 3 (4 of 4), "␣oil" 0.5 (2 of 10)'
    assert pairs.text.startswith(tokens.text) and '"␣oil␣price" 3, "a␣oil" 0.45, "␣oil" first in a' in pairs.text
    assert (pairs.explainer, tokens.explainer, pairs.latent) == ("lookup", "token", 3)


def test_a_latent_with_a_problem(evidence):
    (found,) = Lookup(NAMES.__getitem__).explain([dataclasses.replace(evidence, problem="dead")])
    assert (found.error, found.rule, found.text) == ("dead", None, "")


def test_patterns_in_words():
    made = [
        Pattern((5,), 1.0, examples=4),
        Pattern((1,), 1.0, examples=9),
        Pattern((4, 5, None, 2), 1.0, examples=3),
        Pattern((1, None), 1.0, examples=2),
        Pattern((None, 7), 1.0, at_start=True),
        Pattern((7,), 0.5, at_start=True),
    ]
    expected = 'fires on "␣price" after "␣New␣York"*; on * after "␣oil"; on "␣oil", "␣York"; '
    expected += 'on "a" after *, these first in a text; on "a" first in a text'
    assert describe(made, NAMES.__getitem__) == expected
    assert len(describe([Pattern((i % 7 + 1, 4), 1.0) for i in range(99)], NAMES.__getitem__)) <= LONGEST
    often = [Pattern((i, 4), 9.0, examples=2) for i in range(1, 8)]
    assert describe([*often, made[0]], NAMES.__getitem__).split("; ")[3].startswith('on "␣York"')
    many = describe([Pattern((i,), 1.0) for i in range(20)], lambda i: f" {i}")
    assert many.endswith('"␣11" and 8 other tokens')


def test_everything_is_visible():
    assert quoted(" a\n\tb\x00\u200b") == '"␣a⏎⇥b␀⟨U+200B⟩"'
    assert joined("", ["a" * 5, "b" * 5, "c" * 5], longest=18) == "aaaaa; and 2 more"
    assert joined("", ["a" * 50], longest=9) == "aaaaaaaa…"
