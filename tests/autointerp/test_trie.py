"""Patterns and what matches them, beside the traps of the released N2G."""

import numpy as np
import pytest

from jsaeval.autointerp.trie import Pattern, TrieRule
from tests.autointerp.released_n2g import WILDCARD, ReleasedRule


A, B, C, D = 1, 2, 3, 4
NOTHING = np.zeros(0, np.int32)


def at_last(rule, *text):
    return float(rule.predict(NOTHING, np.array(text, np.int32))[-1])


def test_a_match_follows_the_literal_and_the_wildcard():
    """The released one takes the literal B and does not come back for the wildcard."""
    rule = TrieRule([Pattern((A, B, C), 2.0), Pattern((D, None, C), 3.0)])
    assert at_last(rule, A, B, C) == 2 and at_last(rule, D, B, C) == 3 and at_last(rule, D, A, C) == 3
    assert at_last(rule, C, B, C) == 0
    released = ReleasedRule(str)
    released.insert(["3", "2", "1"], 2.0)
    released.insert(["3", WILDCARD, "4"], 3.0)
    assert at_last(released, A, B, C) == 2 and at_last(released, D, A, C) == 3 and at_last(released, D, B, C) == 0


def test_a_longer_pattern_is_not_hidden_by_a_shorter_one():
    rule = TrieRule([Pattern((C,), 1.0), Pattern((B, C), 5.0), Pattern((None, None, B, C), 4.0)])
    assert at_last(rule, A, C) == 1 and at_last(rule, B, C) == 5
    assert at_last(rule, A, A, B, C) == 4  # as many literals, but longer
    released = ReleasedRule(str)
    released.insert(["3"], 1.0)
    released.insert(["3", "2"], 5.0)
    assert at_last(released, B, C) == 1


def test_tokens_of_one_text_stay_apart():
    """Pieces of a character have no text of their own, and strings cannot tell them apart."""
    rule, released = TrieRule([Pattern((A,), 1.0)]), ReleasedRule(lambda token: "\ufffd")
    released.insert(["\ufffd"], 1.0)
    assert at_last(rule, A) == 1 and at_last(rule, B) == 0 and at_last(released, B) == 1


def test_the_start_is_that_of_the_document():
    rule = TrieRule([Pattern((None,), 1.0, at_start=True), Pattern((A, None, B), 2.0, at_start=True)])
    text = np.array([A, C, B, A], np.int32)
    assert rule.predict(NOTHING, text).tolist() == [1, 0, 2, 0]
    assert rule.predict(np.array([A], np.int32), text[1:]).tolist() == [0, 2, 0]
    assert rule.predict(np.array([C], np.int32), text).tolist() == [0, 0, 0, 0]
    assert rule.predict(NOTHING, text, begins=False).tolist() == [0, 0, 0, 0]  # a document that goes on in this row


def test_what_matches_everywhere_is_no_pattern():
    with pytest.raises(ValueError, match="everywhere"):
        TrieRule([Pattern((None, None), 1.0)])


def test_matches_by_trying_all():
    """The trie against every pattern laid over the text."""
    rng = np.random.default_rng(0)
    made = {}
    for value in range(200):
        tokens = tuple(int(t) if t < 3 else None for t in rng.integers(0, 5, rng.integers(1, 5)))
        pattern = Pattern(tokens, 1.0 + value, bool(rng.random() < 0.2))
        if pattern.literals:
            made[pattern.tokens, pattern.at_start] = pattern
    text = rng.integers(0, 4, 300).astype(np.int32)
    rule = TrieRule(list(made.values()))
    found = rule.predict(NOTHING, text)
    for end in range(len(text)):
        fitting = []
        for pattern in made.values():
            first = end + 1 - len(pattern.tokens)
            if first < 0 or (pattern.at_start and first):
                continue
            if all(t is None or t == text[first + i] for i, t in enumerate(pattern.tokens)):
                fitting.append((pattern.literals, len(pattern.tokens), pattern.value))
        assert found[end] == (max(fitting)[2] if fitting else 0)
