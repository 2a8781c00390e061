"""Agreement in a study: of raters with one another, with themselves on repeats, and where they differ most."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from jsaeval.rating.answers import Answers
from jsaeval.rating.estimate import Sample, agreement, mean, seed_of
from jsaeval.rating.scores import texts_of
from jsaeval.rating.study import Identity, Study
from jsaeval.rating.table import Table, table_of
from jsaeval.stats.agreement import ac1s, alphas


_DIFFERENCES = 20  # that are listed


def across_raters(study: Study, table: Table, identities: Mapping[str, Identity], seed: int) -> dict[str, Any]:
    """How well raters agree with one another, on all items and on latents alone.

    Controls widen the range of what is rated, which makes agreement look better; hence both.

    Returns:
        {"all" | "latent": {"score": {"alpha_ordinal", "alpha_interval"},
        "questions": {id: {"alpha_ordinal", "alpha_nominal": of two answers only, "ac1"}}}}; estimates, whose "n" is
        units that two raters or more have rated.
    """
    latents = np.array([identities[item].group == "latent" for item in table.items], bool)
    return {"all": _across(study, table, seed), "latent": _across(study, table.where(latents), seed)}


def _across(study: Study, table: Table, seed: int) -> dict[str, Any]:
    seed = seed_of(seed, "agreement")
    questions: dict[str, Any] = {}
    for question in study.rubric.asked(study.logits):
        ratings, n_values = table.questions[question.id], len(question.answers)
        own = {"alpha_ordinal": agreement(partial(alphas, level="ordinal"), ratings, table.items, seed)}
        if n_values == 2:
            own["alpha_nominal"] = agreement(partial(alphas, level="nominal"), ratings, table.items, seed)
        questions[question.id] = own | {"ac1": agreement(partial(ac1s, n_values=n_values), ratings, table.items, seed)}
    of_score = {
        "alpha_ordinal": agreement(partial(alphas, level="ordinal"), table.scores, table.items, seed),
        "alpha_interval": agreement(partial(alphas, level="interval"), table.scores, table.items, seed),
    }
    return {"score": of_score, "questions": questions}


def with_oneself(study: Study, table: Table, answers: Answers, seed: int) -> dict[str, Any]:
    """How well raters agree with themselves on the items that they got twice.

    Returns:
        {"pooled": own, "raters": {rater: own}}, of those who have rated a unit twice;
        own: {"mean_absolute_difference", "exact": share of units with the same score, "alpha_ordinal"}; estimates.
    """
    second = table_of(study, answers, again=True)
    row = {unit: i for i, unit in enumerate(zip(table.items, table.intervals, strict=True))}
    twice = [(i, row[unit]) for i, unit in enumerate(zip(second.items, second.intervals, strict=True)) if unit in row]
    parts: dict[str, tuple[list[str], Float[np.ndarray, "unit time"]]] = {}
    for column, rater in enumerate(table.raters):
        pairs = [(table.items[j], table.scores[j, column], second.scores[i, column]) for i, j in twice]
        pairs = [pair for pair in pairs if np.isfinite(pair[1:]).all()]
        if pairs:
            parts[rater] = [item for item, *_ in pairs], np.array([pair[1:] for pair in pairs])
    items = [item for own, _ in parts.values() for item in own]
    scores = np.concatenate([np.zeros((0, 2)), *(own for _, own in parts.values())])
    return {
        "pooled": _with_oneself(items, scores, seed_of(seed, "repeats")),
        "raters": {rater: _with_oneself(*own, seed_of(seed, "repeats", rater)) for rater, own in parts.items()},
    }


def _with_oneself(items: list[str], scores: Float[np.ndarray, "unit time"], seed: int) -> dict[str, Any]:
    apart = np.abs(scores[:, 0] - scores[:, 1])
    found = {
        "mean_absolute_difference": mean(Sample(apart, tuple(items)), seed),
        "exact": mean(Sample((apart == 0).astype(np.float64), tuple(items)), seed),
        "alpha_ordinal": agreement(partial(alphas, level="ordinal"), scores, items, seed),
    }
    if not items:
        found = {id: own | {"reason": "nobody has rated an item twice"} for id, own in found.items()}
    return found


def disagreements(table: Table, answers: Answers, identities: Mapping[str, Identity]) -> list[dict[str, Any]]:
    """The units on which raters differ most, of each item the first of them, to talk about.

    Returns:
        [{"sae", "group", "latent", "item", "interval", "spread": largest score − smallest, "scores": {rater: score},
        "texts": as in `jsaeval.rating.scores.item_lines`}], at most 20, the widest spread first.
    """
    found: dict[str, dict[str, Any]] = {}
    for item, interval, row in zip(table.items, table.intervals, table.scores, strict=True):
        scores = {rater: score for rater, score in zip(table.raters, row.tolist(), strict=True) if np.isfinite(score)}
        spread = max(scores.values()) - min(scores.values())
        if spread > found.get(item, {"spread": 0.0})["spread"]:
            identity = identities[item]
            about = {"sae": identity.sae, "group": identity.group, "latent": identity.latent, "item": item}
            found[item] = about | {"interval": interval, "spread": spread, "scores": scores}
    widest = sorted(found.values(), key=lambda own: (-own["spread"], own["item"]))[:_DIFFERENCES]
    return [own | {"texts": texts_of(answers, own["item"])} for own in widest]
