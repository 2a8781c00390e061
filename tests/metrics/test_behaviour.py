"""What was measured of an SAE beside what is declared of it."""

import dataclasses
import json

import pytest

from jsaeval.hooks import Hook
from jsaeval.metrics.behaviour import behaviour
from tests.tiny import tiny_sae


HOOK = Hook(1, "hook_resid_post")
SOUND = {"l0": 20.0, "fvu": 0.3, "alive": 0.8, "l2_ratio": 0.95}


def declaring(sae, lm="tiny", **declared):
    return dataclasses.replace(sae, card=dataclasses.replace(sae.card, lm=lm, declared=json.dumps(declared)))


def test_an_sae_that_behaves():
    made = behaviour(declaring(tiny_sae("relu"), l0=14), HOOK, SOUND)
    assert made.warnings == () and made.declared_l0 == 14 and made.input_bias == "b_dec"
    assert behaviour(tiny_sae("topk"), HOOK, SOUND | {"l0": 5.0}).declared_l0 == 5
    assert behaviour(tiny_sae("relu"), HOOK, {}).warnings == ()  # nothing declared, nothing measured


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"l0": 664.0}, "664 latents fire for a token, 12 are declared; is this its LM and hook?"),
        ({"l0": 0.5}, "0.5 latents fire for a token, 12 are declared"),
        ({"l0": 0.0}, "no latent ever fires"),
        ({"fvu": 68000.0, "l2_ratio": 200.0}, "FVU 6.8e+04), and it is 200 times as large as x, so look at the scale"),
        ({"fvu": 1.2}, "worse than the mean of x (FVU 1.2); is this its LM and hook; was it trained on normalised"),
    ],
)
def test_one_that_does_not(measured, words):
    (warning,) = behaviour(declaring(tiny_sae("relu"), l0=12), HOOK, SOUND | {"l0": 12.0} | measured).warnings
    assert words.removesuffix("?") in warning and warning.endswith("?")


def test_another_hook_than_its_own():
    (warning,) = behaviour(tiny_sae("relu"), Hook(0, "hook_resid_post"), SOUND).warnings
    assert warning == "it ran at blocks.0.hook_resid_post, its file says blocks.1.hook_resid_post"


@pytest.mark.parametrize(
    ("declared", "lm", "words"),
    [
        ("gemma-2-2b", "google/gemma-2-9b", "it ran in google/gemma-2-9b, its file says gemma-2-2b"),
        ("gpt2-small", "smollm2-135m", "it ran in smollm2-135m, its file says gpt2-small"),
        ("google/gemma-2-2b", "models/gemma-2-2b-it", ""),
        ("somebody/their-own-2b", "smollm2-135m", ""),
        (None, "smollm2-135m", ""),
    ],
)
def test_another_lm_than_its_own(declared, lm, words):
    sae = declaring(tiny_sae("relu"), lm=declared)
    assert "; ".join(behaviour(sae, HOOK, SOUND, lm=lm).warnings) == words


@pytest.mark.parametrize(
    ("alive", "l0", "tokens", "warned"),
    [
        (0.02, 20.0, 1000, True),
        (0.02, 20.0, 10, False),  # each of 96 latents could have fired twice
        (0.02, 0.1, 1000, False),
        (0.2, 20.0, 1000, False),
        (None, 20.0, 1000, False),
    ],
)
def test_latents_that_never_fire(alive, l0, tokens, warned):
    sae = tiny_sae("relu", d_sae=96)
    measured = {id: value for id, value in (SOUND | {"alive": alive, "l0": l0}).items() if value is not None}
    warnings = behaviour(sae, HOOK, measured, tokens=tokens).warnings
    assert len(warnings) == warned
    if warned:
        assert warnings[0].startswith("2 % of its latents fired at all in 1,000 tokens, though 208 activations came")
        assert "did the others die in training; is this its LM and hook" in warnings[0]


def test_likely_causes_depend_on_the_sae():
    sae = declaring(tiny_sae("relu"), lm="gpt2-small", l0=1)
    assert "trained on centred weights" in behaviour(sae, HOOK, SOUND).warnings[0]
    transcoder = Hook(1, "hook_mlp_out", "hook_resid_mid")
    assert "the norm's gain" not in behaviour(sae, transcoder, SOUND).warnings[1]
    gain = dataclasses.replace(transcoder, reads="ln2.hook_normalized")
    assert behaviour(sae, gain, SOUND).warnings[1].partition("; ")[2].startswith("does it read mlp.hook_in")
    assert "trained on centred" not in behaviour(sae.with_centred_input(), HOOK, SOUND).warnings[0]
