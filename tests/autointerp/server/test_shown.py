"""Tokens and activations as language models see them."""

import numpy as np
import pytest

from jsaeval.autointerp.server.shown import one_line, quantised, token_texts


def test_quantised_by_hand():
    # M = 2: ⌊10 a / M⌋ = ⌊5 a⌋; the negative one counts as 0, only the largest is 10.
    records = [np.array([0.0, 0.19, 0.2, 1.0, -3.0]), np.array([1.99, 2.0, 0.39, 0.4])]
    levels = quantised(records)
    assert [own.tolist() for own in levels] == [[0, 0, 1, 5, 0], [9, 10, 1, 2]]
    assert [own.tolist() for own in quantised(records, highest=9)] == [[0, 0, 1, 5, 0], [9, 9, 1, 2]]


def test_quantised_against_the_formula():
    rng = np.random.default_rng(0)
    records = [rng.standard_normal(64).astype(np.float32) for _ in range(20)]
    largest = max(max(float(a), 0.0) for own in records for a in own)
    expected = [[min(10, int(10 * max(float(a), 0.0) // largest)) for a in own] for own in records]
    assert [own.tolist() for own in quantised(records)] == expected
    assert sum(level == 10 for own in expected for level in own) == 1


def test_a_silent_latent_and_no_records():
    assert [own.tolist() for own in quantised([np.array([0.0, -1.0])])] == [[0, 0]]
    assert quantised([]) == []
    assert quantised([np.zeros(0)])[0].shape == (0,)


@pytest.mark.parametrize(
    "text, shown",
    [
        (" the", " the"),
        ("\n\n", "\\n\\n"),
        ("\t", "\\t"),
        ("a\\n", "a\\\\n"),
        ("", "\\0"),
        ("\u2028", "\\u2028"),
        ("\x1e", "\\x1e"),
        ("\x85", "\\x85"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("\ufffd", "\ufffd"),
        ("é犬", "é犬"),
    ],
)
def test_visible(text, shown):
    assert one_line(text) == shown
    assert len(f"{shown}\t0".splitlines()) == 1


def test_every_token_is_one_line(tokenizer):
    texts = token_texts(tokenizer, np.arange(tokenizer.backend.get_vocab_size()))
    assert all(text and len(text.splitlines()) == 1 and "\t" not in text and "\x1e" not in text for text in texts)
    assert " the" in texts
