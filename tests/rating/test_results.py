"""What a study found: closed forms, controls that simulated raters tell from latents, and what is missing."""

import dataclasses
import json
import math

import numpy as np
import pytest

from jsaeval.rating.answers import answers_of
from jsaeval.rating.estimate import LEAST_ITEMS, Sample, correlation, difference, mean, median
from jsaeval.rating.results import results
from jsaeval.rating.study import GROUPS
from jsaeval.rating.table import table_of, unit_means
from jsaeval.run.folder import finite
from jsaeval.stats.agreement import krippendorff_alpha
from tests.rating.made import answer, events_of, made_study, simulated


FULL = {"confidence": 3, "activation_consistency": 5, "logit_consistency": 3, "specificity": 3}  # 14, without the gap
POOR = {"confidence": 1, "activation_consistency": 0, "logit_consistency": 0, "effect_size_gap": 1, "specificity": 0}


def rate(study, rater, item, unit, given, again=False):
    return [answer(study, rater, item, unit, id, value, again) for id, value in given.items()]


def of_group(key, group):
    return [id for id, own in key.items.items() if own.group == group]


def found(study, key, events, **more):
    made = results(study, key, answers_of(events_of(*events), study), **more)
    assert json.loads(json.dumps(finite(made), allow_nan=False)) == json.loads(json.dumps(made))  # nothing is NaN
    return made


@pytest.fixture(scope="module")
def study_key():
    return made_study()


@pytest.fixture(scope="module")
def rated(study_key):
    """Three raters of 12 latents and 3 × 6 controls, with repeats."""
    study, key = study_key
    raters = {"ann": 0.08, "ben": 0.12, "eve": 0.16}
    return [own for i, (name, noise) in enumerate(raters.items()) for own in simulated(study, key, name, noise, i)]


@pytest.fixture(scope="module")
def whole(study_key, rated):
    return found(*study_key, rated)


def test_the_score_is_a_mean_of_means(study_key):
    study, key = study_key
    a, b = of_group(key, "latent")[:2]
    events = rate(study, "ann", a, 3, FULL) + rate(study, "ben", a, 3, POOR)  # (14 + 2) / 2 = 8
    events += rate(study, "ann", a, 7, FULL) + rate(study, "ann", b, 11, POOR)  # 14, 2
    events += rate(study, "ben", b, 3, {"confidence": 3})  # not a score
    (own,) = (made := found(study, key, events))["saes"]
    latents = own["groups"]["latent"]
    assert latents["score"] == {"value": 8.0, "n": 3, "items": 2}  # too few items for an interval
    assert latents["median"]["value"] == 8.0 and latents["above"] == {"bound": 8, "value": 1 / 3, "n": 3, "items": 2}
    assert {i: one["value"] for i, one in latents["by_interval"].items()} == {"3": 8.0, "7": 14.0, "11": 2.0}
    questions = {id: one["value"] for id, one in latents["questions"].items()}
    assert questions["confidence"] == pytest.approx((2 + 3 + 1) / 3)
    assert questions["effect_size_gap"] == 1.0 and latents["questions"]["effect_size_gap"]["n"] == 2  # where asked
    assert latents["asked"] == 12 and latents["raters"] == 2 and made["maximum"] == 14
    line = next(one for one in own["latents"] if one["item"] == a)
    assert (line["score"], line["n"], line["raters"], line["low"], line["high"]) == (11.0, 2, 2, 2.0, 14.0)
    assert own["groups"]["neurons"]["score"] == {"value": None, "reason": "no ratings", "n": 0, "items": 0}
    assert own["minus"]["neurons"]["value"] is None and own["minus"]["neurons"]["clear"] is None
    widest = made["disagreements"][0]
    assert (widest["item"], widest["interval"], widest["spread"]) == (a, 3, 12.0)
    assert widest["scores"] == {"ann": 14.0, "ben": 2.0} and len(made["disagreements"]) == 1
    count = made["counts"]
    assert (count["raters"], count["rated_items"], count["rated_units"], count["ratings"]) == (2, 2, 3, 4)
    assert count["incomplete"] == 4 and count["skipped"] == 0 and count["units"] == 3 * 30


def test_simulated_raters_see_what_is_there(study_key, rated, whole):
    study, key = study_key
    made, (own,) = whole, whole["saes"]
    scores = {group: own["groups"][group]["score"] for group in GROUPS}
    values = [scores[group]["value"] for group in GROUPS]
    assert values == sorted(values, reverse=True) and values[0] > 9 > 6 > values[1]
    table = table_of(study, answers_of(events_of(*rated), study))
    assert values[0] == np.mean(
        [unit_means(table.scores)[i] for i, id in enumerate(table.items) if id in of_group(key, "latent")]
    )
    for group in GROUPS:
        assert scores[group]["ci95"][0] < scores[group]["value"] < scores[group]["ci95"][1]
        assert scores[group]["n"] == 3 * scores[group]["items"] == 3 * own["groups"][group]["asked"]
    for group in GROUPS[1:]:
        minus = own["minus"][group]
        assert (
            minus["clear"]
            and minus["ci95"][0] > 0
            and minus["value"] == pytest.approx(values[0] - scores[group]["value"])
        )
    by_interval = [own["groups"]["latent"]["by_interval"][i]["value"] for i in ("3", "7", "11")]
    assert by_interval == sorted(by_interval)
    assert sum(one["n"] for one in own["groups"]["latent"]["by_density"].values()) == 36
    agreed = made["agreement"]
    assert agreed["all"]["score"]["alpha_ordinal"]["value"] == krippendorff_alpha(table.scores, "ordinal")
    assert agreed["all"]["score"]["alpha_interval"]["ci95"][0] > 0.7
    assert agreed["latent"]["score"]["alpha_interval"]["value"] < agreed["all"]["score"]["alpha_interval"]["value"]
    assert set(agreed["all"]["questions"]["effect_size_gap"]) == {"alpha_ordinal", "alpha_nominal", "ac1"}
    assert set(agreed["all"]["questions"]["confidence"]) == {"alpha_ordinal", "ac1"}
    assert agreed["all"]["questions"]["confidence"]["ac1"]["n"] == 90
    repeats = made["self_agreement"]
    assert set(repeats["raters"]) == {"ann", "ben", "eve"} and repeats["pooled"]["exact"]["n"] == 3 * 3 * 3
    assert repeats["pooled"]["alpha_ordinal"]["value"] > 0.6
    counted = made["counts"]
    assert counted["raters"] == 3 and counted["ratings"] == 270 and counted["incomplete"] == 0
    assert [one["repeats"] for one in counted["by_rater"]] == [3, 3, 3] and 10 < counted["seconds_per_item"] < 20


def test_results_do_not_depend_on_the_order_of_raters(study_key, rated, whole):
    study, key = study_key
    mixed = sorted(rated, key=lambda own: (own.item, own.again, own.rater))
    assert found(study, key, mixed) == whole


def test_repeats_never_enter_the_score(study_key, rated, whole):
    study, key = study_key
    without = [own for own in rated if not own.again]
    wild = [
        answer(study, own.rater, own.item, own.interval, own.question, 0, True) for own in rated if own.kind == "answer"
    ]
    made = found(study, key, without + wild)
    assert made["saes"] == whole["saes"] and made["agreement"] == whole["agreement"]
    assert made["self_agreement"]["pooled"]["mean_absolute_difference"]["value"] > 4


def test_agreement_with_oneself(study_key):
    study, key = study_key
    events = []
    for item, second in zip(of_group(key, "latent")[:4], (FULL, FULL, POOR, POOR), strict=True):
        events += rate(study, "ann", item, 3, FULL) + rate(study, "ann", item, 3, second, again=True)
    events += rate(study, "ben", of_group(key, "neurons")[0], 3, FULL)
    made = found(study, key, events)["self_agreement"]
    assert set(made["raters"]) == {"ann"}
    assert made["raters"]["ann"]["mean_absolute_difference"] == {"value": 6.0, "n": 4, "items": 4}
    assert made["pooled"]["exact"]["value"] == 0.5
    pairs = np.array([[14.0, 14], [14, 14], [14, 2], [14, 2]])
    assert made["pooled"]["alpha_ordinal"]["value"] == krippendorff_alpha(pairs, "ordinal")


def test_one_rater_has_no_agreement(study_key):
    study, key = study_key
    made = found(study, key, list(simulated(study, key, "ann", 0.1, 0)))
    for part in made["agreement"].values():
        assert part["score"]["alpha_ordinal"] == {
            "value": None,
            "reason": "no unit was rated by two raters",
            "n": 0,
            "items": 0,
        }
    assert made["saes"][0]["groups"]["latent"]["score"]["ci95"] and made["disagreements"] == []


def test_raters_who_always_say_the_same(study_key):
    study, key = study_key
    events = [own for name in ("ann", "ben") for item in key.items for own in rate(study, name, item, 3, FULL)]
    made = found(study, key, events)["agreement"]["all"]
    assert made["score"]["alpha_ordinal"]["value"] is None
    assert (
        made["score"]["alpha_ordinal"]["reason"] == "all ratings are the same"
        and made["score"]["alpha_ordinal"]["n"] == 30
    )
    assert made["questions"]["confidence"]["ac1"] == {"value": 1.0, "ci95": [1.0, 1.0], "n": 30, "items": 30}
    assert made["questions"]["effect_size_gap"]["ac1"]["value"] is None  # never asked


def test_nothing_is_no_crash(study_key):
    study, key = study_key
    made = found(study, key, [])
    assert made["counts"]["raters"] == 0 and made["saes"][0]["groups"]["latent"]["score"]["value"] is None
    assert made["counts"]["seconds_per_item"] is None
    assert made["self_agreement"]["pooled"]["exact"]["reason"] == "nobody has rated an item twice"


def test_skips_notes_and_undone_answers(study_key):
    study, key = study_key
    a, b, c = of_group(key, "latent")[:3]
    events = [*rate(study, "ann", a, 3, FULL), answer(study, "ann", a, 0, "", "too <odd>", kind="skip")]
    events += [answer(study, "ann", b, 0, "note", "hm", kind="text"), *rate(study, "ann", b, 3, FULL)]
    once = answer(study, "ben", c, 3, "confidence", 2)
    events += [once, answer(study, "ben", c, 3, "", len(events) + 1, kind="undo")]
    made = found(study, key, events)
    assert made["counts"]["skip_reasons"] == {"too <odd>": 1} and made["counts"]["rated_items"] == 1
    assert [own["rater"] for own in made["counts"]["by_rater"]] == ["ann"]  # ben took back all that he did
    lines = {own["item"]: own for own in made["saes"][0]["latents"]}
    assert lines[a]["score"] is None and lines[a]["skipped"] == 1
    assert lines[b]["texts"] == [{"rater": "ann", "id": "note", "text": "hm"}]


def test_differences_within_raters(study_key):
    """Ann gives everything the most and mostly gets latents, ben gives little and mostly gets controls."""
    study, key = study_key
    latents, neurons = of_group(key, "latent"), of_group(key, "neurons")
    events = [own for item in latents for own in rate(study, "ann", item, 3, FULL)]
    events += [own for item in [latents[0], *neurons[1:]] for own in rate(study, "ben", item, 3, POOR)]
    events += rate(study, "ann", neurons[0], 3, FULL)
    events += rate(study, "eve", neurons[1], 3, POOR)  # who scored one of the groups alone
    (own,) = found(study, key, events)["saes"]
    minus = own["minus"]["neurons"]
    assert minus["value"] == pytest.approx((11 * 14 + 8) / 12 - (14 + 5 * 2) / 6)
    within = minus["within_raters"]
    # No interval: of resamples (5/6)⁶ (11/12)¹² = 12 % have neither the neuron that ann scored nor the latent of ben.
    assert within == {"value": 0.0, "n": 6, "items": 6, "raters": 2}
    assert own["minus"]["random_sae"]["within_raters"]["reason"] == "nobody has scored both groups"
    assert own["groups"]["latent"]["items_by_rater"] == {"ann": 12, "ben": 1}
    assert own["groups"]["neurons"]["items_by_rater"] == {"ann": 1, "ben": 5, "eve": 1}


def test_where_all_rate_all_it_is_the_plain_difference(whole):
    for minus in whole["saes"][0]["minus"].values():
        within = minus["within_raters"]
        assert within["value"] == pytest.approx(minus["value"]) and within["raters"] == 3
        assert within["ci95"] == pytest.approx(minus["ci95"])


def test_skips_by_group(study_key):
    study, key = study_key
    latents, neurons = of_group(key, "latent"), of_group(key, "neurons")
    skips = [("ann", latents[0], "odd"), ("ben", latents[0], "odd"), ("ben", latents[1], "")]
    skips += [("ann", neurons[0], "noise"), ("eve", neurons[0], "noise")]
    events = [answer(study, who, item, 0, "", why, kind="skip") for who, item, why in skips]
    events += [answer(study, "ann", latents[2], 0, "", "again", True, "skip")]  # a repeat
    events += rate(study, "ann", latents[1], 3, FULL)
    made = found(study, key, events)
    groups = made["saes"][0]["groups"]
    assert groups["latent"]["skips"] == {"n": 3, "given": 4, "reasons": {"odd": 2, "": 1}}
    assert groups["neurons"]["skips"] == {"n": 2, "given": 2, "reasons": {"noise": 2}}
    assert groups["random_sae"]["skips"] == {"n": 0, "given": 0, "reasons": {}}
    # Ben and eve have scored nothing.
    assert made["counts"]["raters"] == 1 and len(made["counts"]["by_rater"]) == 3


def test_answers_under_another_rubric_are_counted(study_key):
    study, key = study_key
    events = rate(study, "ann", of_group(key, "latent")[0], 3, FULL)
    old = [dataclasses.replace(own, rubric="0123456789ab") for own in events]
    assert found(study, key, old)["counts"]["other_rubrics"] == {"0123456789ab": 1}
    assert found(study, key, events)["counts"]["other_rubrics"] == {}


def test_rubric_of_items_and_no_logits():
    study, key = made_study(rubric="interpretability", logits=False)
    made = found(study, key, [own for i, name in enumerate("ab") for own in simulated(study, key, name, 0.1, i)])
    latents = made["saes"][0]["groups"]["latent"]
    assert latents["by_interval"] == {} and latents["above"] is None and latents["score"]["n"] == 12
    assert made["maximum"] == 13
    study, key = made_study(logits=False)
    made = found(study, key, list(simulated(study, key, "a", 0.1, 0)))
    latents = made["saes"][0]["groups"]["latent"]
    assert made["maximum"] == 11 and latents["above"] is None and "logit_consistency" not in latents["questions"]


def test_correlations():
    study, key = made_study(latents=8, controls=1, saes=("one", "two", "three"))
    events = list(simulated(study, key, "ann", 0.3, 0))
    score = {
        own["latent"]: own["score"]
        for own in found(study, key, events)["saes"][0]["latents"]
        if own["group"] == "latent"
    }
    losses = {"one": {latent: 20 - value for latent, value in score.items()}}
    made = found(study, key, events, losses=losses, l0={"one": 10.0, "two": 20.0, "three": 5.0})
    one = made["saes"][0]["correlations"]
    assert (
        one["activation_prediction_loss"]["value"] == pytest.approx(-1.0)
        and one["activation_prediction_loss"]["n"] == 8
    )
    assert one["density"]["n"] == 8 and -1 <= one["density"]["ci95"][0] < one["density"]["ci95"][1] <= 1
    two = made["saes"][1]["correlations"]["activation_prediction_loss"]
    assert two["value"] is None and "jsaeval explain" in two["reason"]
    assert made["l0"]["n"] == 3 and "ci95" not in made["l0"] and abs(made["l0"]["value"]) <= 1
    assert found(study, key, events, l0={"one": 1.0})["l0"]["reason"] == "1 with both, at least 3 are needed"


def test_estimates_by_hand():
    sample = Sample(np.array([1.0, 3, math.nan, 5, 7]), ("a", "a", "b", "c", "c"))
    assert mean(sample, 0) == {"value": 4.0, "n": 4, "items": 2} == median(sample, 0)
    many = Sample(np.arange(20.0), tuple("abcdefghijklmnopqrst"))
    ends = mean(many, 0)["ci95"]
    assert ends[0] < 9.5 < ends[1] and ends[1] - ends[0] == pytest.approx(
        2 * 1.96 * many.values.std() / 20**0.5, rel=0.1
    )
    # Twice as many units that say the same as another of their item tell nothing more.
    twice = Sample(np.repeat(many.values, 2), tuple(np.repeat(list(many.items), 2).tolist()))
    assert mean(twice, 0)["ci95"] == pytest.approx(ends)
    gap = difference(many, Sample(many.values - 100, many.items), (0, 1))
    assert gap["value"] == 100 and gap["clear"] and gap["ci95"][1] - gap["ci95"][0] > 1.2 * (ends[1] - ends[0])
    assert not difference(many, many, (0, 1))["clear"]
    few = Sample(many.values[: LEAST_ITEMS - 1], many.items[: LEAST_ITEMS - 1])
    assert difference(many, few, (0, 1))["clear"] is None
    assert correlation(np.ones(5), np.arange(5.0), 0)["reason"] == "one of the two is the same everywhere"


def test_medians_of_resamples_are_medians():
    from jsaeval.rating.estimate import _medians

    rng = np.random.default_rng(0)
    values, counts = rng.integers(0, 9, 7).astype(np.float64), rng.integers(0, 3, (30, 7)).astype(np.float64)
    counts[:, 0] += 1
    expected = [np.median(np.repeat(values, own.astype(int))) for own in counts]
    assert np.array_equal(_medians(values, counts), expected)


def test_intervals_of_scores_cover():
    """Of 200 studies of 30 items, about 19 in 20 intervals hold the truth: chance of fewer than 176 is 1e-4."""
    rng = np.random.default_rng(2)
    items = tuple(np.repeat([f"i{i}" for i in range(30)], 3).tolist())
    hit = 0
    for i in range(200):
        values = np.repeat(rng.standard_normal(30), 3) + 0.3 * rng.standard_normal(90)
        low, high = mean(Sample(values, items), i)["ci95"]
        hit += low <= 0 <= high
    assert 176 <= hit <= 198
