"""Which patterns are kept, by hand: what may confirm a pattern, and what may not."""

import dataclasses

import numpy as np
import pytest

from jsaeval.autointerp.evidence import TokenTable
from jsaeval.autointerp.keeping import Candidate, least_rate, reliable, token_rates
from jsaeval.autointerp.trie import Pattern
from tests.autointerp.examples import evidence, example


BIGRAM, OTHER = Pattern((7, 8), 2.0), Pattern((9, 8), 2.0)


def placed(row, tokens, activations, kind, focus):
    return dataclasses.replace(example(tokens, activations, kind, focus=focus, document=row), row=row)


def test_no_pattern_is_confirmed_by_what_patterns_were_made_from():
    """A window that was drawn as `top` for one activation and as `active` for another."""
    tokens, activations = [7, 8, 3, 9, 8, 3], [0, 5, 0, 0, 4, 0]
    both = [placed(0, tokens, activations, "top", 1), placed(0, tokens, activations, "active", 4)]
    against = [placed(1, [7, 8, 9, 8], [0] * 4, "random", 0)]
    known = evidence(explain=[*both, *against])
    candidates = [Candidate(BIGRAM, 0.3), Candidate(OTHER, 0.3)]
    # Each is wrong once, and right nowhere but at what was shown: (0 + 2 · 0.3) / (1 + 2) = 0.2 < 0.3.
    assert least_rate(known) == 0.3 and reliable(candidates, known) == []
    elsewhere = placed(2, [7, 8], [0, 1], "random", 0)
    assert reliable(candidates, evidence(explain=[*both, *against, elsewhere])) == [BIGRAM]


def test_a_window_counts_once():
    silent = [placed(row, [7, 8], [0, 0], "random", 0) for row in (1, 2)]
    right = [placed(0, [7, 8, 7, 8], [0, 5, 0, 1], kind, 1) for kind in ("top", "interval", "active")]
    # Right once, wrong twice: (1 + 2 · 0.1) / (3 + 2) = 0.24; thrice in one window would be 0.45.
    assert reliable([Candidate(BIGRAM, 0.1)], evidence(explain=[*right, *silent])) == []
    assert reliable([Candidate(BIGRAM, 0.1)], evidence(explain=[*right, silent[0]])) == [BIGRAM]


def test_the_start_of_a_document_is_not_the_head_of_its_row():
    start = Candidate(Pattern((None,), 1.0, at_start=True), 0.5)
    going_on = [dataclasses.replace(placed(row, [3, 4], [0, 0], "random", 0), begins=False) for row in range(9)]
    assert reliable([start], evidence(explain=going_on)) == [start.pattern]
    beginning = [dataclasses.replace(own, begins=True) for own in going_on]
    assert reliable([start], evidence(explain=beginning)) == []


def test_rates_know_the_split_explain_alone():
    table = TokenTable(np.array([5, 6]), np.array([3, 1]), np.array([2, 0]), np.array([1.0, 0.0]), 0.1, 20)
    known = dataclasses.replace(evidence(), tokens=table)
    assert token_rates(known) == pytest.approx([(2 + 0.1) / 4, 0.1 / 2])
    fires_elsewhere = dataclasses.replace(known.statistics, fires=500)
    again = dataclasses.replace(known, statistics=fires_elsewhere)
    np.testing.assert_array_equal(token_rates(again), token_rates(known))
