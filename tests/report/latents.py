"""Evidence of made-up latents, and records of them."""

import numpy as np

from jsaeval.autointerp.evidence import INTERVALS, Evidence, Example, Statistics, TokenTable
from jsaeval.autointerp.explanation import Explanation
from jsaeval.forward.decoder_neighbours import Neighbours
from jsaeval.forward.logit_effects import LogitEffects
from jsaeval.report.latent_record import About, record


ABOUT = About("tiny-LM", "news", 12, 64, {"command": "jsaeval explain"})
SCORES = {
    "all": {"activation_prediction_loss": 0.4, "pearson": 0.75, "likelihood_skill": None},
    "top": {"activation_prediction_loss": 0.3, "pearson": 0.8, "likelihood_skill": 0.1},
    "random": {"activation_prediction_loss": 0.9, "pearson": None, "likelihood_skill": None},
}
LOSSES = {"empty": 1.0, "another": 0.99, "constant": 1.0, "token": 0.6}
FLOORS = {name: {"activation_prediction_loss": loss, "pearson": 0.8} for name, loss in LOSSES.items()}


def example(rng, kind, document, length=8, vocab=30, scale=1.0):
    activations = (rng.random(length) * (rng.random(length) < 0.4) * scale * 4).astype(np.float32)
    focus = int(activations.argmax())
    if kind == "random":
        activations[:] = 0
    if kind == "top":
        activations[focus] = 4.0 * scale
    largest = activations.max()
    interval = int(np.clip(np.ceil(INTERVALS * largest / 4), 0, INTERVALS))
    tokens = rng.integers(0, vocab, length).astype(np.int32)
    return Example(kind, interval, document, document, 3, tokens[:2], tokens, activations, focus, True)


def evidence(latent=7, seed=0, each=3, vocab=30, problem=None):
    rng = np.random.default_rng(seed)
    kinds = ("top", "interval", "active", "random")
    examples = {
        split: tuple(example(rng, kind, 100 * i + j, vocab=vocab) for kind in kinds for j in range(each))
        for i, split in enumerate(("explain", "calibrate", "score"))
    }
    statistics = Statistics(1000, 40, 4.0, 1.5, np.linspace(0, 4, 41), np.arange(40) % 3)
    nothing = np.zeros(0, np.int32)
    tokens = TokenTable(nothing, nothing, nothing, np.zeros(0, np.float32), 0.0, 0)
    return Evidence(latent, statistics, tokens, examples, problem=problem)


def effects(latents=1, n=10, bins=5, vocab=30):
    logits = np.random.default_rng(9).standard_normal((latents, vocab)).astype(np.float32)
    order = np.argsort(logits, axis=1).astype(np.int32)
    top, bottom = order[:, ::-1][:, :n], order[:, :n]
    edges = np.linspace(logits.min(1), logits.max(1), bins + 1).T
    counts = np.full((latents, bins), vocab // bins)
    return LogitEffects(
        top, np.take_along_axis(logits, top, 1), bottom, np.take_along_axis(logits, bottom, 1), edges, counts
    )


def make(latent=7, token_text=lambda id: f" w{id}", text="fires on words", **changes):
    """A record with everything in it."""
    own = evidence(latent, seed=latent)
    known = {
        "sae": "an-SAE",
        "hook": "blocks.1.hook_resid_post",
        "simulator": "rule",
        "simulated": [e.activations * 0.5 + 0.01 for e in own.examples["score"]],
        "scores": SCORES,
        "floors": FLOORS,
        "logits": effects(),
        "neighbours": Neighbours(np.array([[3, 8, 900]]), np.array([[0.5, 0.25, -0.125]], np.float32)),
    }
    return record(own, Explanation(latent, text, "n2g"), token_text=token_text, **(known | changes))
