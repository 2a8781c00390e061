import json

import numpy as np
import pytest

from jsaeval.autointerp.classes import Value
from jsaeval.autointerp.scores import NOTHING, WHERE, Scored
from jsaeval.autointerp.summary import counts, summarise


LOSS = "activation_prediction_loss"


def scored(latent, value, density=0.01, reason=None, skill=None):
    """All scores alike, but for the likelihood skill."""
    found = {id: {where: Value(value, reason) for where in places} for id, places in WHERE.items()}
    none = Value(skill, None if skill is not None else "no levels")
    found["simulation_likelihood_skill"] = dict.fromkeys(WHERE["simulation_likelihood_skill"], none)
    return Scored(latent, density, found)


def failed(latent, error="timed out after 30 s"):
    return Scored(latent, 0.01, error=error)


def many(n=200, mean=0.6, seed=0, first=0):
    rng = np.random.default_rng(seed)
    return [scored(first + i, float(x)) for i, x in enumerate(rng.normal(mean, 0.1, n))]


def test_means_medians_and_intervals():
    ours = many()
    x = np.array([own.values[LOSS]["all"].value for own in ours])
    own = summarise(ours)["scores"][LOSS]["all"]
    assert own["value"] == pytest.approx(x.mean()) and own["median"] == pytest.approx(np.median(x))
    assert own["quartiles"] == pytest.approx(np.quantile(x, [0.25, 0.75]).tolist()) and own["n"] == 200
    half = 1.96 * x.std() / np.sqrt(200)
    assert own["ci95"] == pytest.approx([x.mean() - half, x.mean() + half], abs=0.2 * half)


def test_it_is_deterministic_and_json():
    ours, floor, other = many(), many(mean=1, seed=1), many(50, 0.9, 2)
    made = [json.dumps(summarise(ours, {"empty": floor}, {"random_sae": other}), allow_nan=False) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0] != json.dumps(summarise(ours, {"empty": floor}, {"random_sae": other}, seed=1), allow_nan=False)


def test_failures_count_as_nothing_and_are_left_out_beside():
    ours = [scored(0, 0.2), scored(1, 0.4), failed(2), Scored(3, 0.0, problem="dead")]
    found = summarise(ours)["scores"]
    for id, places in WHERE.items():
        own = found[id][places[0]]
        if id == "simulation_likelihood_skill":
            # No latent has it, so one whose explanation failed does not, either.
            assert own["value"] is None and own["n"] == 0 and "ci95" not in own
            assert own["undefined"] == {"no levels": 2}
            continue
        assert own["value"] == pytest.approx((0.6 + NOTHING[id]) / 3) and own["n"] == 3
        assert own["without_failures"]["value"] == pytest.approx(0.3) and own["without_failures"]["n"] == 2
    with_levels = [scored(0, 0.2, skill=0.5), failed(1)]
    assert summarise(with_levels)["scores"]["simulation_likelihood_skill"]["all"]["value"] == 0.25
    assert summarise([failed(0), failed(1)])["scores"][LOSS]["all"]["value"] == 1


def test_undefined_values_are_counted_and_not_averaged():
    ours = [scored(0, 0.2), scored(1, None, reason="the latent does not fire here"), scored(2, 0.6)]
    own = summarise(ours)["scores"][LOSS]["random"]
    assert own["value"] == pytest.approx(0.4) and own["n"] == 2
    assert own["undefined"] == {"the latent does not fire here": 1}


def test_differences_from_floors_on_the_same_latents_are_paired():
    ours = many()
    floor = [scored(own.latent, own.values[LOSS]["all"].value + 0.1) for own in ours]
    own = summarise(ours, {"token": floor})["scores"][LOSS]["all"]["floors"]["token"]
    assert own["paired"] and own["difference"]["value"] == pytest.approx(-0.1)
    assert own["difference"]["ci95"] == pytest.approx([-0.1, -0.1])
    low, high = own["ci95"]
    assert own["value"] == pytest.approx(np.mean([f.values[LOSS]["all"].value for f in floor])) and high - low > 0.02
    with pytest.raises(ValueError, match="token"):
        summarise(ours, {"token": floor[::-1]})


def test_a_pair_needs_both():
    """A floor that failed has no loss: with one of 1 it would be beaten by whatever was said of the latent."""
    ours, floor = [scored(0, 0.2), scored(1, 0.4), failed(2)], [scored(0, 1.0), failed(1), scored(2, 0.5)]
    own = summarise(ours, {"empty": floor})["scores"][LOSS]["all"]["floors"]["empty"]
    assert own["difference"]["n"] == 2 and own["difference"]["value"] == pytest.approx((-0.8 + 0.5) / 2)
    assert own["n"] == 2 and own["value"] == pytest.approx(0.75) and own["undefined"] == {"timed out after 30 s": 1}
    floor[0] = scored(0, None, reason="no examples")
    own = summarise(ours, {"empty": floor})["scores"][LOSS]["all"]["floors"]["empty"]
    assert own["difference"]["n"] == 1 and own["difference"]["value"] == pytest.approx(0.5)
    assert own["undefined"] == {"no examples": 1, "timed out after 30 s": 1}
    # Look-alikes are explained as the SAE is, and their failures count as its own do.
    alike = summarise(ours, others={"random_sae": floor})["scores"][LOSS]["all"]["floors"]["random_sae"]
    assert alike["n"] == 2 and alike["value"] == pytest.approx(0.75) and alike["undefined"] == {"no examples": 1}


def test_other_dictionaries_are_resampled_independently():
    ours, other = many(), many(100, 0.9, seed=7, first=5000)
    own = summarise(ours, others={"random_sae": other})["scores"][LOSS]["all"]["floors"]["random_sae"]
    x, y = (np.array([s.values[LOSS]["all"].value for s in group]) for group in (ours, other))
    assert not own["paired"] and own["difference"]["value"] == pytest.approx(x.mean() - y.mean())
    half = 1.96 * np.sqrt(x.var() / 200 + y.var() / 100)
    low, high = own["difference"]["ci95"]
    assert (high - low) / 2 == pytest.approx(half, rel=0.2)
    # The same numbers as another dictionary: as far apart as independent samples are.
    same = summarise(ours, others={"neurons": ours})["scores"][LOSS]["all"]["floors"]["neurons"]["difference"]
    assert same["value"] == 0 and same["ci95"][1] - same["ci95"][0] > 0.02


def test_few_latents_have_no_intervals():
    few, enough = [scored(i, 0.1 * i) for i in range(4)], [scored(i, 0.1 * i) for i in range(5)]
    for ours, floor, there in ((few, few, False), (enough, enough, True)):
        own = summarise(ours, {"token": floor})["scores"][LOSS]["all"]
        assert ("ci95" in own) == ("ci95" in own["floors"]["token"]["difference"]) == there
    for ours, other, there in ((few, enough, False), (enough, few, False), (enough, enough, True)):
        own = summarise(ours, others={"neurons": other})["scores"][LOSS]["all"]["floors"]["neurons"]
        assert own["difference"]["n"] == min(len(ours), len(other)) and ("ci95" in own["difference"]) == there


def test_strata_by_density():
    ours = [scored(0, 0.1, 2e-3), scored(1, 0.3, 9e-3), scored(2, 0.7, 0.5), scored(3, 0.9, 1.0)]
    found = summarise(ours)["scores"][LOSS]["all"]["by_density"]
    assert list(found) == ["1e-3–1e-2", "≥1e-1"]
    assert found["1e-3–1e-2"]["value"] == pytest.approx(0.2) and found["1e-3–1e-2"]["n"] == 2
    assert found["≥1e-1"]["value"] == pytest.approx(0.8)


def test_counts():
    ours = [
        scored(0, 0.2),
        failed(1, "timed out after 30 s"),
        failed(2, "timed out after 31.5 s"),
        failed(3, "refused"),
        Scored(4, 0.0, problem="dead"),
        Scored(5, 1e-5, problem="12 examples, at least 20 are needed"),
    ]
    assert counts(ours) == {
        "asked": 6,
        "scored": 1,
        "dead": 1,
        "too_few_examples": 1,
        "failed": 3,
        "reasons": {
            "dead": 1,
            "12 examples, at least 20 are needed": 1,
            "timed out after 30 s": 2,  # or 31.5
            "refused": 1,
        },
        "constant_simulations": 0,
        "failed_examples": 0,
    }


def test_nothing_at_all():
    own = summarise([])["scores"][LOSS]["all"]
    assert own["value"] is None and own["n"] == 0 and own["median"] is None and "ci95" not in own
    one = summarise([scored(0, 0.5)])["scores"][LOSS]["all"]
    assert one["value"] == 0.5 and "ci95" not in one
