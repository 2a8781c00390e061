"""Everything that a page shows of a latent, as one dictionary of JSON. Pages are made of these and of nothing else.

{
  "latent": int, "sae": str, "hook": str, "floor": null | "random_sae" | "neurons",
  "density", "fires", "n_tokens", "largest", "mean_active",
  "histogram": {"edges", "counts"},                              of the activations that are not 0, in (0, largest]
  "logits": null | {"top": [{"id", "text", "value"}], "bottom": [...], "histogram": {"edges", "counts"}},
  "neighbours": [{"latent", "cosine"}],                          by decoder cosine
  "explanation": {"text", "explainer", "error"}, "simulator": str, "problem": null | str,
  "examples": {"explain" | "calibrate" | "score": [{"kind", "interval", "document", "row", "start", "focus", "ids",
               "text": one string a token, "activations", "simulated": null | in the unit of activations}]},
  "scores": {"all" | "own" | "top" | "interval" | "random" | "importance": {id: value | null}},
  "floors": {"empty" | "another" | "constant" | "token": {id: value, of the first of these groups that has the score}},
  "mass_on_levels": null | mean probability that the simulator put on levels at all,
  "uncovered": null | share of the windows of the split `score` that no example of "importance" stands for
}

Numbers have six significant digits. What is undefined is null.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from jsaeval.autointerp.evidence import SPLITS, Evidence, Example
from jsaeval.autointerp.explanation import Explanation
from jsaeval.forward.decoder_neighbours import Neighbours
from jsaeval.forward.logit_effects import LogitEffects
from jsaeval.lm.tokenizer import TextTokenizer


FLOORS = {"random_sae": "random SAE", "neurons": "neurons"}
KEYS = frozenset(
    (
        "latent",
        "sae",
        "hook",
        "floor",
        "density",
        "fires",
        "n_tokens",
        "largest",
        "mean_active",
        "histogram",
        "logits",
        "neighbours",
        "explanation",
        "simulator",
        "problem",
        "examples",
        "scores",
        "floors",
    )
)
Scores = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class About:
    """What latents of one folder have in common.

    Attributes:
        lm: the LM's name.
        corpus: its name.
        rows: how many of it.
        positions: of a row.
        facts: anything else that readers should know, by a word for it.
    """

    lm: str
    corpus: str
    rows: int
    positions: int
    facts: Mapping[str, str] = field(default_factory=dict)


def record(
    evidence: Evidence,
    explanation: Explanation,
    *,
    sae: str,
    hook: str,
    token_text: Callable[[int], str],
    simulator: str = "",
    simulated: Sequence[Float[np.ndarray, "_"]] | None = None,
    scores: Scores | None = None,
    floors: Scores | None = None,
    logits: LogitEffects | None = None,
    neighbours: Neighbours | None = None,
    floor: str | None = None,
    mass: float | None = None,
    uncovered: float | None = None,
    problem: str | None = None,
    index: int = 0,
) -> dict[str, Any]:
    """The record of a latent.

    Args:
        evidence: of the latent.
        explanation: of the same latent.
        sae: name of its SAE.
        hook: where that reads, and writes.
        token_text: the text of a token id, see `token_texts`.
        simulator: who simulated.
        simulated: calibrated activations on the examples of the split `score`, in their order; NaN where the simulator
            failed; None: there are none.
        scores: by group of examples and id.
        floors: by floor and id, of the group "all", or of "own" for scores that are given there.
        logits: effects on the logits, of latents among which this one is the `index`-th; None: it has none.
        neighbours: nearest latents, of latents among which this one is the `index`-th.
        floor: what the latent is a floor of, a key of `FLOORS`; None: it is one of the SAE in question.
        mass: see `jsaeval.autointerp.scores.Scored`.
        uncovered: see the same.
        problem: why it was not explained or scored, where that is more than `evidence` knows.
        index: where the latent is in `logits` and `neighbours`.

    Raises:
        ValueError: explanation and evidence are of different latents, or `simulated` is not as long as the split.
    """
    if explanation.latent != evidence.latent:
        raise ValueError(f"an explanation of latent {explanation.latent} beside evidence of latent {evidence.latent}")
    statistics = evidence.statistics
    simulations: dict[str, Sequence[np.ndarray | None]] = {
        split: [None] * len(evidence.examples.get(split, ())) for split in SPLITS
    }
    if simulated is not None:
        simulations["score"] = simulated
    return {
        "latent": evidence.latent,
        "sae": sae,
        "hook": hook,
        "floor": floor,
        "density": digits(statistics.density),
        "fires": int(statistics.fires),
        "n_tokens": int(statistics.n_tokens),
        "largest": digits(statistics.largest),
        "mean_active": digits(statistics.mean_active),
        "histogram": _histogram(statistics.edges, statistics.counts),
        "logits": None if logits is None else _logits(logits, index, token_text),
        "neighbours": [] if neighbours is None else _neighbours(neighbours, index),
        "explanation": {"text": explanation.text, "explainer": explanation.explainer, "error": explanation.error},
        "simulator": simulator,
        "problem": evidence.problem if problem is None else problem,
        "examples": {
            split: [
                _example(own, simulation, token_text)
                for own, simulation in zip(evidence.examples.get(split, ()), simulations[split], strict=True)
            ]
            for split in SPLITS
        },
        "scores": _scores(scores),
        "floors": _scores(floors),
        "mass_on_levels": digits(mass),
        "uncovered": digits(uncovered),
    }


def token_texts(tokenizer: TextTokenizer | None) -> Callable[[int], str]:
    """The text of single tokens as it stands inside a text, with the space that begins it; each is decoded once.

    Some decoders drop a space at the beginning of a text, so a token is decoded behind another one. Bytes that are no
    whole character are U+FFFD. Without a tokenizer: the id in angle brackets.
    """
    if tokenizer is None:
        return lambda id: f"⟨{id}⟩"
    known: dict[int, str] = {}
    letter = tokenizer.encode(["a"])[0]
    before = tokenizer.decode(letter)

    def text(id: int) -> str:
        if id not in known:
            both = tokenizer.decode([*letter, id])
            known[id] = both[len(before) :] if both.startswith(before) else tokenizer.token(id)
        return known[id]

    return text


def digits(value: Any) -> float | None:
    """Six significant digits of a number; None where it is not finite or missing."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.6g}")


def _scores(scores: Scores | None) -> dict[str, dict[str, float | None]]:
    return {name: {id: digits(value) for id, value in own.items()} for name, own in (scores or {}).items()}


def _histogram(edges: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    return {"edges": [digits(edge) for edge in edges], "counts": [int(count) for count in counts]}


def _logits(logits: LogitEffects, index: int, token_text: Callable[[int], str]) -> dict[str, Any]:
    def tokens(ids: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
        pairs = zip(ids[index], values[index], strict=True)
        return [{"id": int(id), "text": token_text(int(id)), "value": digits(value)} for id, value in pairs]

    ends = {"top": tokens(logits.top_ids, logits.top), "bottom": tokens(logits.bottom_ids, logits.bottom)}
    return ends | {"histogram": _histogram(logits.edges[index], logits.counts[index])}


def _neighbours(neighbours: Neighbours, index: int) -> list[dict[str, Any]]:
    pairs = zip(neighbours.latents[index], neighbours.cosines[index], strict=True)
    return [{"latent": int(latent), "cosine": digits(cosine)} for latent, cosine in pairs]


def _example(example: Example, simulated: np.ndarray | None, token_text: Callable[[int], str]) -> dict[str, Any]:
    if simulated is not None and len(simulated) != len(example.tokens):
        raise ValueError(f"{len(simulated)} simulated activations for {len(example.tokens)} tokens")
    if simulated is not None and not np.isfinite(simulated).any():
        simulated = None  # of an example that the simulator failed on
    ids = [int(id) for id in example.tokens]
    return {
        "kind": example.kind,
        "interval": int(example.interval),
        "document": int(example.document),
        "row": int(example.row),
        "start": int(example.start),
        "focus": int(example.focus),
        "ids": ids,
        "text": [token_text(id) for id in ids],
        "activations": [digits(value) for value in example.activations],
        "simulated": None if simulated is None else [digits(value) for value in simulated],
    }
