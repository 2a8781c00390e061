"""What a study found: the section `ratings` of a report, but for its settings."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jsaeval.rating.answers import Answers, ItemAnswers
from jsaeval.rating.concord import across_raters, disagreements, with_oneself
from jsaeval.rating.estimate import correlation, seed_of
from jsaeval.rating.scores import REASONS, item_lines, sae_scores
from jsaeval.rating.study import AnswerKey, Study
from jsaeval.rating.table import Table, table_of, unit_means


_LEAST_SAES = 3


def results(
    study: Study,
    key: AnswerKey,
    answers: Answers,
    losses: Mapping[str, Mapping[int, float]] | None = None,
    l0: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores, agreement and counts; a number that is not defined is None, with a reason.

    Args:
        study: what was rated.
        key: what its items are.
        answers: of all raters.
        losses: `activation_prediction_loss` by SAE and latent, where explanations were scored.
        l0: of the SAEs that were run.
        seed: of the resamples.

    Returns:
        {"maximum": of a unit, "counts", "saes": [{"sae", "groups", "minus", "correlations":
        {"activation_prediction_loss", "density"}, "latents": lines}], "agreement", "self_agreement", "l0": correlation
        over SAEs, "disagreements"}; see `counts`, `jsaeval.rating.scores` and `jsaeval.rating.concord`.
    """
    table = table_of(study, answers)
    saes = []
    for name in _names(key):
        lines = item_lines(study, table, answers, key.items, name)
        scored = sae_scores(study, table, answers, key.items, name, seed)
        own = {
            "correlations": _correlations(lines, (losses or {}).get(name, {}), seed_of(seed, name)),
            "latents": lines,
        }
        saes.append({"sae": name} | scored | own)
    return {
        "maximum": study.rubric.maximum(study.logits),
        "counts": counts(study, answers, table),
        "saes": saes,
        "agreement": across_raters(study, table, key.items, seed),
        "self_agreement": with_oneself(study, table, answers, seed),
        "l0": _with_l0(saes, l0 or {}, seed),
        "disagreements": disagreements(table, answers, key.items),
    }


def _names(key: AnswerKey) -> list[str]:
    return list(dict.fromkeys([*(own["name"] for own in key.saes), *(own.sae for own in key.items.values())]))


def _correlations(lines: list[dict[str, Any]], losses: Mapping[int, float], seed: int) -> dict[str, Any]:
    """Of the scores of latents with what else is known of them."""
    latents = [own for own in lines if own["group"] == "latent" and own["score"] is not None]
    score = np.array([own["score"] for own in latents], np.float64)
    density = np.array([own["density"] for own in latents], np.float64)
    loss = np.array([losses.get(own["latent"], np.nan) for own in latents], np.float64)
    found = {"activation_prediction_loss": correlation(score, loss, seed), "density": correlation(score, density, seed)}
    if not losses:
        why = "no explanations were scored here; jsaeval explain does"
        found["activation_prediction_loss"] |= {"reason": why}
    return found


def _with_l0(saes: list[dict[str, Any]], l0: Mapping[str, float], seed: int) -> dict[str, Any]:
    score = {own["sae"]: own["groups"]["latent"]["score"]["value"] for own in saes if "latent" in own["groups"]}
    both = [(value, l0[name]) for name, value in score.items() if value is not None and name in l0]
    pairs = np.array(both, np.float64).reshape(-1, 2)
    return correlation(pairs[:, 0], pairs[:, 1], seed_of(seed, "l0"), _LEAST_SAES)


def counts(study: Study, answers: Answers, table: Table) -> dict[str, Any]:
    """How much was rated.

    Returns:
        {"raters": who have scores, "items", "rated_items", "units", "rated_units", "ratings": of a unit by a rater,
        "incomplete": items that a rater began and did not end, "skipped", "skip_reasons": {why: times},
        "seconds_per_item": median or None, "other_rubrics": {version of the rubric that is not the study's: items with
        answers under it}, "by_rater": of all with answers, texts or skips [{"rater", "items", "ratings", "mean": score,
        "repeats", "incomplete", "skipped", "seconds_per_item"}]}. Repeats are in "repeats" alone.
    """
    raters = sorted({rater for (rater, _, _), own in answers.items() if _something(own)})
    first = {place: own for place, own in answers.items() if not place[2]}
    why = Counter(own.skipped for own in first.values() if own.skipped is not None)
    versions = Counter(
        version for own in answers.values() for version in own.rubrics if version != study.rubric.version
    )
    unfinished = [(rater, item) for (rater, item, _), own in first.items() if _incomplete(study, item, own)]
    scores = np.isfinite(table.scores)
    by_rater = []
    for rater in raters:
        there = {item: own for (who, item, _), own in first.items() if who == rater}
        given = table.scores[:, table.raters.index(rater)]
        rated = {table.items[i] for i in np.flatnonzero(np.isfinite(given))}
        by_rater.append(
            {
                "rater": rater,
                "items": len(rated),
                "ratings": int(np.isfinite(given).sum()),
                "mean": float(given[np.isfinite(given)].mean()) if rated else None,
                "repeats": sum(who == rater and again and _something(own) for (who, _, again), own in answers.items()),
                "incomplete": sum(who == rater for who, _ in unfinished),
                "skipped": sum(own.skipped is not None for own in there.values()),
                "seconds_per_item": _seconds(study, there.items()),
            }
        )
    return {
        "raters": int(scores.any(0).sum()),
        "items": len(study.items),
        "rated_items": len(set(table.items)),
        "units": sum(len(own.units) for own in study.items.values()),
        "rated_units": int(np.isfinite(unit_means(table.scores)).sum()),
        "ratings": int(scores.sum()),
        "incomplete": len(unfinished),
        "skipped": sum(why.values()),
        "skip_reasons": dict(why.most_common(REASONS)),
        "seconds_per_item": _seconds(study, [(item, own) for (_, item, _), own in first.items()]),
        "other_rubrics": dict(versions),
        "by_rater": by_rater,
    }


def _something(own: ItemAnswers) -> bool:
    """Undone answers leave nothing but the time that they took."""
    return bool(any(own.numbers.values()) or own.texts or own.skipped is not None)


def _incomplete(study: Study, item: str, own: ItemAnswers) -> bool:
    return _something(own) and not own.done(study.items[item], study.rubric, study.logits)


def _seconds(study: Study, answers: Iterable[tuple[str, ItemAnswers]]) -> float | None:
    """Median of the time on items that are done and not skipped; ratings from elsewhere may have none."""
    found = [
        own.seconds
        for item, own in answers
        if own.seconds > 0 and own.skipped is None and own.done(study.items[item], study.rubric, study.logits)
    ]
    return statistics.median(found) if found else None
