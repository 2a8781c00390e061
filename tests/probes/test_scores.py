import numpy as np
import pytest

from jsaeval.probes.scores import auc, scores, to_json


def example(n=200, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    logits = rng.standard_normal(n) + labels
    return (np.round(logits) if ties else logits), labels


@pytest.mark.parametrize("ties", [False, True])
def test_values_by_their_definitions(ties):
    logits, labels = example(ties=ties)
    found = {name: score.value for name, score in scores(logits, labels).items()}
    p = 1 / (1 + np.exp(-logits))
    assert found["bce"] == pytest.approx(-np.mean(np.where(labels, np.log(p), np.log(1 - p))))
    assert found["accuracy"] == np.mean((logits > 0) == labels)
    pairs = logits[labels][:, None] - logits[~labels][None]
    assert found["auc"] == pytest.approx(np.mean(pairs > 0) + np.mean(pairs == 0) / 2)
    f1 = []
    for side in (True, False):
        said, there = (logits > 0) == side, labels == side
        precision, recall = there[said].mean(), said[there].mean()
        f1.append(2 * precision * recall / (precision + recall) * there.mean())
    assert found["f1"] == pytest.approx(sum(f1))


def test_intervals_cover_the_truth():
    """The AUC of N(1, 1) against N(0, 1) is Φ(1/√2): nearly 95 % of the intervals hold it; and they shrink as 1/√n."""
    truth, n = 0.76025, 200
    ends = [scores(*example(n, seed))["auc"].ci95 for seed in range(n)]
    assert 0.90 <= np.mean([low < truth < high for low, high in ends]) <= 0.99
    low, high = np.mean(ends, axis=0)
    lower, higher = scores(*example(n=16 * n))["auc"].ci95
    assert (higher - lower) == pytest.approx((high - low) / 4, rel=0.15)


def test_a_weighting_is_a_repetition():
    logits, labels = example(n=40, ties=True)
    counts = np.random.default_rng(1).integers(0, 3, (5, 40)).astype(float)
    for weighted, own in zip(auc(logits, labels, counts), counts.astype(int), strict=True):
        again = np.repeat(logits, own), np.repeat(labels, own)
        assert weighted == pytest.approx(scores(*again)["auc"].value)


def test_differences_are_paired():
    logits, labels = example()
    one, other = scores(logits, labels), scores(logits + 0.01, labels)
    difference = one["bce"] - other["bce"]
    width = lambda score: score.ci95[1] - score.ci95[0]  # noqa: E731
    assert width(difference) < 0.1 * width(one["bce"])
    assert (one["auc"] - one["auc"]).ci95 == (0.0, 0.0)


def test_extreme_logits_and_lone_classes():
    certain = scores(np.array([1e4, -1e4, 1e4, -1e4]), np.array([True, False, True, False]))
    assert certain["bce"].value == 0 and certain["f1"].value == certain["auc"].value == 1
    lone = scores(np.array([1.0, -1.0]), np.array([True, True]))
    assert np.isnan(lone["auc"].value) and lone["auc"].ci95 is None
    assert "ci95" not in to_json(lone)["auc"] and to_json(lone)["accuracy"]["value"] == 0.5
