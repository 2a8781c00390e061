import numpy as np
import pytest

from jsaeval.autointerp.explanation import Explanation, RuleSimulator
from jsaeval.autointerp.floors import Constant, floor_explanations
from jsaeval.autointerp.scores import score
from tests.autointerp.made_windows import random_evidence


def explained(n=6, failed=()):
    return [
        Explanation(10 + i, "", "x", error="refused")
        if i in failed
        else Explanation(10 + i, f"text {i}", "x", Constant())
        for i in range(n)
    ]


def by_token(explanations):
    return [Explanation(own.latent, "unigram", "lookup") for own in explanations]


def test_another_is_always_another():
    for seed in range(20):
        ours = explained()
        floor = floor_explanations(ours, by_token(ours), seed)["another"]
        assert [own.latent for own in floor.explanations] == [own.latent for own in ours]
        texts = [own.text for own in floor.explanations]
        assert sorted(texts) == sorted(own.text for own in ours)
        assert all(text != own.text for text, own in zip(texts, ours, strict=True))
        assert all(own.rule is not None for own in floor.explanations) and not floor.by_rule
    again = floor_explanations(ours, by_token(ours), seed)["another"]
    assert again.explanations == floor.explanations
    assert texts != [own.text for own in floor_explanations(ours, by_token(ours), 100)["another"].explanations]


def test_explanations_that_failed_are_nobodys():
    ours = explained(failed=(0, 3))
    floor = floor_explanations(ours, by_token(ours))["another"].explanations
    assert [own.error for own in floor] == ["refused", None, None, "refused", None, None]
    assert sorted(own.text for own in floor) == ["", "", "text 1", "text 2", "text 4", "text 5"]
    one = explained(1)
    (lone,) = floor_explanations(one, by_token(one))["another"].explanations
    assert lone.error == "no other latent is explained"
    assert floor_explanations([], [])["another"].explanations == []


def test_empty_and_constant_are_at_the_floor():
    ours = explained(1)
    floors = floor_explanations(ours, by_token(ours))
    made = random_evidence()
    for name in ("empty", "constant"):
        (simulation,) = RuleSimulator().simulate([(floors[name].explanations[0], made)])
        assert score(simulation, made).values["activation_prediction_loss"]["all"].value == pytest.approx(1, abs=0.02)
    assert floors["empty"].explanations[0].text == "" and floors["empty"].explanations[0].rule is None
    np.testing.assert_array_equal(Constant().predict(np.zeros(0, int), np.arange(3)), np.ones(3))
    assert floors["token"].by_rule and floors["token"].explanations == by_token(ours)


def test_latents_have_to_agree():
    with pytest.raises(ValueError, match="same latents"):
        floor_explanations(explained(2), by_token(explained(3)))
