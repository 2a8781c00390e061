"""Every score of an explanation, on windows made by hand."""

import dataclasses

import numpy as np
import pytest

from jsaeval.autointerp import measures
from jsaeval.autointerp.explanation import Simulation
from jsaeval.autointerp.populations import POPULATIONS
from jsaeval.autointerp.scores import NOTHING, OWN, WHERE, score
from jsaeval.metrics.registry import REGISTRY
from tests.autointerp.made_windows import evidence, example, random_evidence, simulate


def values(scored, where):
    return {id: own[where].value for id, own in scored.values.items() if where in own}


def tokens(evidence, split, *kinds):
    return np.concatenate([e.activations for e in evidence.of(split, *kinds)]).astype(np.float64)


def test_every_score_is_declared_and_given():
    declared = {id: metric for id, metric in REGISTRY.items() if metric.needs == "explanations"}
    assert set(WHERE) == set(NOTHING) == set(declared)
    found = score(simulate(made := random_evidence(), lambda e: e.activations, lambda e: np.eye(11)[[0] * 8]), made)
    assert {id: set(own) for id, own in found.values.items()} == {id: set(own) for id, own in WHERE.items()}
    assert all(own.value is not None and own.reason is None for by in found.values.values() for own in by.values())


def test_a_perfect_simulation():
    made = random_evidence()
    found = score(simulate(made, lambda e: 7 * e.activations + 1), made)
    for where in POPULATIONS:
        own = values(found, where)
        assert own["simulation_pearson"] == pytest.approx(1) and own["simulation_spearman"] == pytest.approx(1)
        # Knots of the calibration lie between those of the score split.
        assert own["activation_prediction_loss"] < 1e-2 and own["simulation_r2_uncentred"] > 0.99
    own = values(score(simulate(made, lambda e: e.activations), made), OWN)
    assert own == {id: 1 for id in own}


def test_populations_by_hand():
    """The scores of each population are the formulas on its tokens, calibrated on the same population."""
    made, rng = random_evidence(1), np.random.default_rng(2)
    said = {id(e): np.round(e.activations + rng.normal(0, 0.3, len(e.activations)), 1) for e in made.of("score")}
    said |= {id(e): np.round(e.activations + rng.normal(0, 0.3, len(e.activations)), 1) for e in made.of("calibrate")}
    found = score(simulate(made, lambda e: said[id(e)]), made)
    for where, kinds in list(POPULATIONS.items())[:4]:
        a = tokens(made, "score", *kinds)
        s = np.concatenate([said[id(e)].astype(np.float32) for e in made.of("score", *kinds)]).astype(np.float64)
        own, one = values(found, where), np.ones(len(a))
        assert own["simulation_pearson"] == pytest.approx(np.corrcoef(a, s)[0, 1], abs=1e-6)
        there = tokens(made, "calibrate", *kinds)
        knots = np.concatenate([said[id(e)].astype(np.float32) for e in made.of("calibrate", *kinds)])
        best = _isotonic(knots, there, s)
        assert own["activation_prediction_loss"] == pytest.approx(np.mean((a - best) ** 2) / a.var(), abs=1e-6)
        assert own["simulation_r2_uncentred"] == pytest.approx(measures.r2_uncentred(a, best, one), abs=1e-6)
        explained = 1 - np.abs(a - best).mean() / a.mean()
        assert own["simulation_absolute_deviation_explained"] == pytest.approx(explained, abs=1e-6)


def _isotonic(x, y, at):
    """max over i ≤ k of min over j ≥ k of the mean of i..j (Barlow et al. 1972, §1.4)."""
    knots = np.unique(x)
    n, total = np.array([(x == k).sum() for k in knots]), np.array([y[x == k].sum() for k in knots])
    fitted = [
        max(min(total[i : j + 1].sum() / n[i : j + 1].sum() for j in range(k, len(knots))) for i in range(k + 1))
        for k in range(len(knots))
    ]
    return np.interp(at, knots, fitted)


def test_whoever_says_nothing_is_at_the_floor():
    """A constant simulation: the mean of the calibration, everywhere; its correlations are 0, and count."""
    made = random_evidence()
    found = score(simulate(made, lambda e: np.full(8, 3.0)), made)
    assert found.constant
    for where, kinds in list(POPULATIONS.items())[:4]:
        own, a, there = values(found, where), tokens(made, "score", *kinds), tokens(made, "calibrate", *kinds)
        exact = 1 + (a.mean() - there.mean()) ** 2 / a.var()
        assert own["activation_prediction_loss"] == pytest.approx(exact, abs=1e-9) and exact < 1.1
        assert own["simulation_pearson"] == own["simulation_spearman"] == 0
        assert "constant" in found.values["simulation_pearson"][where].reason
    own = values(found, OWN)
    assert own["detection_accuracy"] == own["detection_auc"] == own["fuzzing_accuracy"] == own["fuzzing_auc"] == 0.5


def test_importance_stands_for_the_corpus():
    """A population of windows, sampled by stratum: the weighted loss is that of the whole population."""
    rng = np.random.default_rng(5)
    n = 4000
    fires = rng.random(n) < 0.1
    population = np.where(fires[:, None] & (rng.random((n, 6)) < 0.5), rng.random((n, 6)), 0).astype(np.float32)
    said = (population + rng.normal(0, 0.15, population.shape)).astype(np.float32)
    interval = np.ceil(population.max(axis=1) * 10).astype(int)
    chosen = [i for k in range(1, 11) for i in np.flatnonzero(interval == k)[:25]]
    chosen = [("interval", i) for i in chosen] + [("random", i) for i in rng.permutation(n)[:400]]
    examples = [example(population[i], kind, int(i), interval=int(interval[i])) for kind, i in chosen]
    strata = dict.fromkeys(("calibrate", "score"), np.bincount(interval, minlength=11))
    made = evidence(examples, strata=strata)
    found = score(simulate(made, lambda e: said[e.document]), made)
    a, s = population.ravel().astype(np.float64), said.ravel().astype(np.float64)
    own = values(found, "importance")
    assert own["simulation_pearson"] == pytest.approx(np.corrcoef(a, s)[0, 1], abs=0.03)
    # Sampled as they are, windows that fire are far too many.
    assert abs(values(found, "interval")["simulation_pearson"] - np.corrcoef(a, s)[0, 1]) > 0.1
    above = said.ravel() > 0
    assert own["firing_precision"] == pytest.approx((a[above] != 0).mean(), abs=0.01)
    assert own["firing_recall"] == pytest.approx(above[a != 0].mean(), abs=0.02)
    assert found.uncovered == 0


def test_strata_without_a_window_are_said():
    made = evidence([example([0, 1, 0, 0], "random", i, interval=3) for i in range(4)])
    counts = np.zeros(11, int)
    counts[[0, 3]] = 30, 10
    made = dataclasses.replace(made, strata={"calibrate": counts, "score": counts})
    assert score(simulate(made, lambda e: e.activations), made).uncovered == 0.75
    unknown = dataclasses.replace(made, strata={})
    found = score(simulate(unknown, lambda e: e.activations), unknown)
    assert found.uncovered is None and found.values["activation_prediction_loss"]["importance"].value is None


def test_a_window_counts_once():
    one, other = example([0, 1, 0], "top", 1), example([2, 0, 0], "random", 2)
    again = dataclasses.replace(one, kind="interval")
    twice, once = evidence([one, again, other]), evidence([one, other])
    said = lambda e: np.arange(3.0) + e.document  # noqa: E731
    a, b = (values(score(simulate(made, said), made), "all") for made in (twice, once))
    assert a == b and a["simulation_pearson"] != 0


def test_firing_by_hand():
    windows = [
        example([0, 2, 0], "active", 1),
        example([0, 3, 3], "active", 2, focus=2),
        example([1, 0, 0], "active", 3),
        example([0, 0, 4], "random", 4),
        example([0, 0, 0], "random", 5),
    ]
    said = {1: [0, 1, 0], 2: [9, 9, 0], 3: [0.1, 0, 0], 4: [1, 0, 1], 5: [0, 0, -1]}
    made = evidence(windows)
    own = values(score(simulate(made, lambda e: said[e.document]), made), OWN)
    assert own["firing_recall"] == pytest.approx(2 / 3) and own["firing_precision"] == 1 / 2
    assert own["firing_f1"] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))


def test_an_explanation_that_never_fires():
    made = random_evidence()
    found = score(simulate(made, lambda e: np.zeros(8)), made)
    for where in (OWN, "importance"):
        assert found.values["firing_precision"][where].value is None
        assert found.values["firing_precision"][where].reason == "the explanation fires nowhere"
        assert values(found, where)["firing_recall"] == values(found, where)["firing_f1"] == 0


def test_simulators_with_levels_fire_from_half_a_level():
    made = evidence([example([0, 1, 0, 0], kind, i) for i, kind in enumerate(("active", "random", "top"))])
    p = np.zeros((4, 11))
    p[:, 0], p[1, 0], p[1, 1] = 1, 0.4, 0.6
    p[2, 0], p[2, 1] = 0.6, 0.4
    found = values(score(simulate(made, lambda e: measures.expected_levels(p), lambda e: p), made), OWN)
    assert found["firing_precision"] == found["firing_recall"] == 1


def test_detection_and_fuzzing_by_hand():
    def windows(first):
        return [
            example([0, 1, 0, 0], "top", first),
            example([1, 1, 0, 0], "interval", first + 1),
            example([0, 0, 0, 0], "random", first + 2),
            example([0, 0, 0, 0], "random", first + 3),
        ]

    said = {0: [0, 5, 0, 0], 1: [4, 1, 0, 0], 2: [0, 0, 0, 0], 3: [0, 3, 0, 0]}
    said |= {10: [0, 5, 0, 0], 11: [2, 4, 3, 0], 12: [0, 3.5, 0, 0], 13: [0, 0, 0, 0]}
    made = evidence(windows(0), windows(10))
    own = values(score(simulate(made, lambda e: said[e.document]), made), OWN)
    # Windows: yes 5, 4 and no 0, 3 in `calibrate`, so t = 3; then yes 5, 4 and no 3.5, 0.
    assert own["detection_accuracy"] == 0.75 and own["detection_auc"] == 1
    # Tokens of the windows that fire: yes 5, 4, 1 and no 0, so t = 0. Then yes 5; 2, 4 and no 0, 0, 0 (⅓ each); 3, 0.
    assert own["fuzzing_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert own["fuzzing_auc"] == pytest.approx(1 - (1 / 3) * (1 / 3))


def test_likelihood_skill_by_hand():
    made = evidence([example([0, 0, 0.5, 1], "top", 0)], [example([0, 0.3, 0, 2], "top", 10)])
    p = np.full((4, 11), 1 / 11)
    found = score(simulate(made, measures_of(p), lambda e: p), made)
    # Levels 0 0 5 10 in `calibrate`: 3/15, 1/15, ...; 0 1 0 10 in `score`, of its own largest activation.
    floor = -np.log([3 / 15, 1 / 15, 3 / 15, 2 / 15]).mean()
    assert values(found, "all")["simulation_likelihood_skill"] == pytest.approx(1 - np.log(11) / floor, abs=1e-9)


def test_levels_of_a_simulator_that_knows_no_ten():
    """A tokenizer that splits "10": ten levels, of which the last is everything above 0.9 of the largest."""
    made = evidence([example([0, 0, 0.5, 1], "top", 0)], [example([0, 0.3, 0, 2], "top", 10)])
    p = np.pad(np.eye(10)[[0, 1, 0, 9]], [(0, 0), (0, 1)])
    found = score(simulate(made, measures_of(p), lambda e: p, highest=9), made)
    floor = -np.log([3 / 14, 1 / 14, 3 / 14, 2 / 14]).mean()
    said = -np.log(1 - measures.SMOOTHING * 0.9)
    assert values(found, "all")["simulation_likelihood_skill"] == pytest.approx(1 - said / floor, abs=1e-9)


def test_a_simulator_that_knows_ten_and_never_says_it_is_wrong_about_it():
    made = evidence([example([0, 0, 0.5, 1], "top", 0)], [example([0, 0.3, 0, 2], "top", 10)])
    p = np.eye(11)[[0, 1, 0, 9]]
    found = score(simulate(made, measures_of(p), lambda e: p), made)
    floor = -np.log([3 / 15, 1 / 15, 3 / 15, 2 / 15]).mean()
    rest = measures.SMOOTHING / 11
    said = -np.log([1 - 10 * rest] * 3 + [rest]).mean()
    assert values(found, "all")["simulation_likelihood_skill"] == pytest.approx(1 - said / floor, abs=1e-9)


def measures_of(p):
    return lambda e: measures.expected_levels(p)


def test_a_latent_that_is_constant_is_not_scored():
    fires = [example([0, 1, 0], "top", 1), example([0, 1, 2], "active", 3)]
    made = evidence([*fires, example([0, 0, 0], "random", 2)])
    found = score(simulate(made, lambda e: np.arange(3.0)), made)
    own = found.values["activation_prediction_loss"]
    assert own["random"].value is None and own["random"].reason == "the latent does not fire here"
    assert own["interval"].reason == "no examples" and own["top"].value is not None
    silent = evidence([example([0, 0, 0], "random", 2)])
    found = score(simulate(silent, lambda e: np.arange(3.0)), silent)
    assert {own.value for own in found.values.pop("firing_precision").values()} == {0}
    assert all(own.value is None and own.reason for by in found.values.values() for own in by.values())


def test_failed_examples_are_left_out_and_counted():
    made = random_evidence()
    gone = {1, 1001, 1012}
    found = score(simulate(made, lambda e: np.full(8, np.nan) if e.document in gone else e.activations), made)
    kept = {split: tuple(e for e in own if e.document not in gone) for split, own in made.examples.items()}
    rest = dataclasses.replace(made, examples=kept)
    assert found.failed_examples == 3
    assert found.values == score(simulate(rest, lambda e: e.activations), rest).values
    nan = [bool(np.isnan(own).all()) for own in found.calibrated]
    assert nan == [e.document in gone for e in made.of("score")]
    none = score(simulate(made, lambda e: np.full(8, np.nan)), made)
    assert none.error == "the simulator failed on every example" and none.failed_examples == 96


@pytest.mark.parametrize("split", ["calibrate", "score"])
def test_a_split_without_an_example_left_is_a_failure(split):
    """Else the latent would leave the mean, for want of something to calibrate on."""
    made = random_evidence()
    gone = {e.document for e in made.of(split)}
    found = score(simulate(made, lambda e: np.full(8, np.nan) if e.document in gone else e.activations), made)
    assert found.error == f"the simulator failed on every example of the split {split}"
    assert not found.values and found.failed_examples == 48


def test_problems_and_errors_are_told_apart():
    dead = dataclasses.replace(evidence([]), problem="dead")
    found = score(Simulation(error="not asked"), dead)
    assert (found.problem, found.error, found.values) == ("dead", None, {})
    failed = score(Simulation(error="timed out"), random_evidence())
    assert (failed.problem, failed.error, failed.values) == (None, "timed out", {})
    assert score(simulate(made := random_evidence(), lambda e: e.activations), made, "refused").error == "refused"


def test_calibrated_predictions_are_in_the_unit_of_the_latent():
    made = random_evidence()
    found = score(simulate(made, lambda e: 100 * e.activations), made)
    for own, e in zip(found.calibrated, made.of("score"), strict=True):
        np.testing.assert_allclose(own, e.activations, atol=0.06)
