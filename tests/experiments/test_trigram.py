"""The trigram model: probabilities add up to 1, and a case small enough to count by hand."""

import numpy as np

from experiments.training.trigram import Trigram


def test_probabilities_add_up():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 7, (40, 30))
    model = Trigram.fit(rows, 9)  # tokens 7 and 8 never occur
    contexts = [(a, b) for a in (0, 3, 8) for b in (1, 7)]
    for a, b in contexts:
        test = np.array([[a, b, c] for c in range(9)])
        np.testing.assert_allclose(np.exp(-model.loss(test)).sum(), 1, rtol=1e-9)


def test_by_hand():
    """`0 1 2` three times and `3 1 2`, `0 1 4` once."""
    rows = np.array([[0, 1, 2]] * 3 + [[3, 1, 2], [0, 1, 4]])
    model = Trigram.fit(rows, 5)
    unigram = np.array([1, 1, 2, 1, 2]) / 7  # 2 and 4 each follow one token
    # Trigram types: (0 1 2) x3, (3 1 2) x1, (0 1 4) x1: once 2, twice 0, D = 1. Bigrams: (1 2) after 2, (1 4) after 1.
    once, twice = 1, 1
    d2 = once / (once + 2 * twice)
    bigram_2 = (2 - d2) / 3 + d2 * 2 / 3 * unigram[2]
    d3 = 1.0
    expected = (3 - d3) / 4 + d3 * 2 / 4 * bigram_2
    np.testing.assert_allclose(np.exp(-model.loss(np.array([[0, 1, 2]]))), [[expected]], rtol=1e-9)


def test_it_learns():
    rng = np.random.default_rng(1)
    next_ = rng.integers(0, 50, (50, 50))

    def text(n):
        rows = np.zeros((n, 40), int)
        rows[:, :2] = rng.integers(0, 50, (n, 2))
        for t in range(2, 40):
            rows[:, t] = np.where(rng.random(n) < 0.9, next_[rows[:, t - 2], rows[:, t - 1]], rng.integers(0, 50, n))
        return rows

    loss = Trigram.fit(text(4000), 50).loss(text(100)).mean()
    entropy = -(0.902 * np.log(0.902) + 0.098 * np.log(0.098 / 49))
    assert entropy < loss < entropy + 0.25
