import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

import jsaeval
from jsaeval.autointerp.explanation import Explanation
from jsaeval.lm.tokenizer import TextTokenizer
from jsaeval.report.latent_record import digits, record, token_texts
from tests.report.latents import SCORES, effects, evidence, make


def test_everything_is_in_it_as_json():
    own, found = evidence(7, seed=7), make(7)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [found[key] for key in ("latent", "fires", "n_tokens", "density")] == [7, 40, 1000, 0.04]
    assert sum(found["histogram"]["counts"]) == int(own.statistics.counts.sum())
    assert len(found["histogram"]["edges"]) == len(found["histogram"]["counts"]) + 1
    for split, examples in found["examples"].items():
        assert len(examples) == len(own.examples[split])
        for shown, real in zip(examples, own.examples[split], strict=True):
            np.testing.assert_allclose(shown["activations"], real.activations, rtol=1e-5)
            assert shown["ids"] == real.tokens.tolist() and shown["text"] == [f" w{id}" for id in real.tokens]
            assert (shown["kind"], shown["interval"], shown["focus"]) == (real.kind, real.interval, real.focus)
            if split == "score":
                np.testing.assert_allclose(shown["simulated"], real.activations * 0.5 + 0.01, rtol=1e-5)
            else:
                assert shown["simulated"] is None
    logits = effects()
    assert [own["id"] for own in found["logits"]["top"]] == logits.top_ids[0].tolist()
    assert [own["text"] for own in found["logits"]["bottom"]] == [f" w{id}" for id in logits.bottom_ids[0]]
    assert found["neighbours"][1] == {"latent": 8, "cosine": 0.25}
    assert found["scores"] == SCORES and found["floors"]["token"]["activation_prediction_loss"] == 0.6


def test_what_is_not_known_is_null():
    found = record(
        evidence(2, problem="dead"),
        Explanation(2, "", "llm", error="refused"),
        sae="s",
        hook="blocks.0.attn.hook_z",
        token_text=str,
    )
    assert found["logits"] is None and found["neighbours"] == [] and found["scores"] == {} and found["floors"] == {}
    assert found["problem"] == "dead" and found["explanation"]["error"] == "refused" and found["floor"] is None


def test_what_does_not_belong_together():
    with pytest.raises(ValueError, match="latent 3 beside evidence of latent 2"):
        record(evidence(2), Explanation(3, "", ""), sae="s", hook="h", token_text=str)
    with pytest.raises(ValueError, match="1 simulated activations for 8 tokens"):
        make(2, simulated=[np.zeros(1)] * 12)
    with pytest.raises(ValueError):
        make(2, simulated=[np.zeros(8)])


def test_examples_that_the_simulator_failed_on():
    simulated = [e.activations * 1.0 for e in evidence(7, seed=7).examples["score"]]
    simulated[2] = np.full(8, np.nan, np.float32)
    found = make(7, simulated=simulated)["examples"]["score"]
    assert [own["simulated"] is None for own in found] == [i == 2 for i in range(12)]


@pytest.mark.parametrize(
    ("value", "text"), [(1 / 3, 0.333333), (np.float32(2.5), 2.5), (None, None), (np.nan, None), (-np.inf, None)]
)
def test_digits(value, text):
    assert digits(value) == text


def test_tokens_are_text_as_it_stands_in_a_text():
    """Joined they are the text that was encoded."""
    tokenizer = jsaeval.load_tokenizer(jsaeval.load_lm("tiny"))
    text = " A man, 42, went\n\nto the market."
    token_text = token_texts(tokenizer)
    assert "".join(map(token_text, tokenizer.encode([text])[0])) == text
    assert token_texts(None)(12) == "⟨12⟩"


def test_a_decoder_that_drops_the_first_space():
    """As SentencePiece's does."""
    backend = Tokenizer(models.WordLevel({"a": 0, "▁the": 1, "x": 2}, "x"))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = TextTokenizer(backend, None, None, None, "")
    assert tokenizer.token(1) == "the"
    assert list(map(token_texts(tokenizer), (0, 1, 2))) == ["a", " the", "x"]
