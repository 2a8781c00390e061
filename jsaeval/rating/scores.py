"""`human_score`: mean rubric scores by group, interval, density and latent, and latents beside their controls.

A unit's score is the mean over its raters; a group's is the mean over its units. Controls are
not as their own dictionaries have them but matched with latents, see `jsaeval.rating.prepare.matched`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jsaeval.autointerp.choice import DENSITY_STRATA, density_stratum
from jsaeval.rating.answers import Answers
from jsaeval.rating.estimate import Sample, difference, mean, median, seed_of, within_raters
from jsaeval.rating.store import NOTE
from jsaeval.rating.study import GROUPS, INTERVALS, Identity, Study
from jsaeval.rating.table import Table, of_item, unit_means


REASONS = 20  # for skips that are listed
# Bricken et al. 2023 call an interval with more than 8 of 14 points quite interpretable.
_BRICKEN, _QUITE, _OF = "bricken2023", 8, 14


def sae_scores(
    study: Study, table: Table, answers: Answers, identities: Mapping[str, Identity], sae: str, seed: int
) -> dict[str, Any]:
    """Scores of an SAE's latents and of its controls.

    Args:
        study: the study.
        table: its ratings.
        answers: of all raters, for what was skipped.
        identities: what its items are.
        sae: name of the SAE.
        seed: of the resamples.

    Returns:
        {"groups": {group: {"asked": items of the study, "raters", "score", "median", "above": {"bound": 8} and an
        estimate of a share, or null where the rubric says nothing of the kind, "by_interval": {"1": estimate},
        "by_density": {stratum: estimate}, "questions": {id: estimate}, "items_by_rater": {rater: items with a score},
        "skips": see `_skips`}}, "minus": {control: latents − it, with "within_raters": the same of each rater, see
        `jsaeval.rating.estimate.within_raters`}}, for the groups that the study has. An estimate is as in
        `jsaeval.rating.estimate`; "n" is units.
    """
    asked = {group: _count(identities, sae, group) for group in GROUPS}
    groups = [group for group in GROUPS if asked[group]]
    seeds = {group: seed_of(seed, sae, group) for group in groups}
    own = {
        group: table.where(np.array([_is(identities[item], sae, group) for item in table.items], bool))
        for group in groups
    }
    found = {
        group: {"asked": asked[group]}
        | _group(study, own[group], identities, seeds[group])
        | _skips(own[group], {place: one for place, one in answers.items() if _is(identities[place[1]], sae, group)})
        for group in groups
    }
    samples = {group: Sample(unit_means(own[group].scores), own[group].items) for group in groups}
    minus = {
        group: difference(samples["latent"], samples[group], (seeds["latent"], seeds[group]))
        | {"within_raters": _within(own["latent"], own[group], (seeds["latent"], seeds[group]))}
        for group in groups
        if group != "latent" and "latent" in groups
    }
    return {"groups": found, "minus": minus}


def _group(study: Study, table: Table, identities: Mapping[str, Identity], seed: int) -> dict[str, Any]:
    scores = unit_means(table.scores)
    interval = np.array(table.intervals, int)
    stratum = np.array([density_stratum(identities[item].density) for item in table.items], str)

    def of(keep: Bool[np.ndarray, " unit"], values: Float[np.ndarray, " unit"] = scores) -> dict[str, Any]:
        return mean(Sample(np.where(keep, values, np.nan), table.items), seed)

    everything = np.ones(len(scores), bool)
    above = None
    if study.rubric.id == _BRICKEN and study.rubric.maximum(study.logits) == _OF:
        above = {"bound": _QUITE} | of(everything, np.where(np.isfinite(scores), scores > _QUITE, np.nan))
    return {
        "raters": int(np.isfinite(table.scores).any(0).sum()),
        "score": of(everything),
        "median": median(Sample(scores, table.items), seed),
        "above": above,
        "by_interval": {str(i): of(interval == i) for i in range(1, INTERVALS + 1) if (interval == i).any()},
        "by_density": {name: of(stratum == name) for name in DENSITY_STRATA if (stratum == name).any()},
        "questions": {id: of(everything, unit_means(own)) for id, own in table.questions.items()},
    }


def _within(latents: Table, control: Table, seeds: tuple[int, int]) -> dict[str, Any]:
    return within_raters(latents.scores, control.scores, (latents.items, control.items), seeds)


def _skips(table: Table, answers: Answers) -> dict[str, Any]:
    """How many items of a group each rater scored, and how many were skipped at their first time: {"items_by_rater",
    "skips": {"n": times that a rater skipped an item, "given": n + times that one scored one, "reasons": {why: n}}}."""
    scored = {
        rater: len({table.items[i] for i in np.flatnonzero(np.isfinite(table.scores[:, column]))})
        for column, rater in enumerate(table.raters)
    }
    scored = {rater: n for rater, n in scored.items() if n}
    why = Counter(own.skipped for (_, _, again), own in answers.items() if own.skipped is not None and not again)
    n = sum(why.values())
    skips = {"n": n, "given": n + sum(scored.values()), "reasons": dict(why.most_common(REASONS))}
    return {"items_by_rater": scored, "skips": skips}


def item_lines(
    study: Study, table: Table, answers: Answers, identities: Mapping[str, Identity], sae: str
) -> list[dict[str, Any]]:
    """The items of an SAE, latents first, each {"group", "latent", "item", "density", "stratum", "largest", "score",
    "n": units, "raters", "low" and "high": means of the raters who gave least and most, "questions": {id: mean},
    "skipped": by how many raters, "texts": [{"rater", "id", "text"}]}."""
    names = [id for id in study.items if identities[id].sae == sae]
    names.sort(key=lambda id: (GROUPS.index(identities[id].group), identities[id].latent))
    return [_line(table, answers, id, identities[id]) for id in names]


def _line(table: Table, answers: Answers, item: str, identity: Identity) -> dict[str, Any]:
    own = table.where(np.array([one == item for one in table.items], bool))
    given, there = unit_means(own.scores.T), of_item(answers, item)
    given = given[np.isfinite(given)]
    return {
        "group": identity.group,
        "latent": identity.latent,
        "item": item,
        "density": identity.density,
        "stratum": density_stratum(identity.density),
        "largest": identity.largest,
        "score": _mean(unit_means(own.scores)),
        "n": len(own.items),
        "raters": len(given),
        "low": float(given.min()) if len(given) else None,
        "high": float(given.max()) if len(given) else None,
        "questions": {id: _mean(unit_means(values)) for id, values in own.questions.items()},
        "skipped": sum(one.skipped is not None for one in there.values()),
        "texts": texts_of(answers, item),
    }


def texts_of(answers: Answers, item: str) -> list[dict[str, str]]:
    """What raters wrote about an item, notes last."""
    found = of_item(answers, item)
    lines = [(id == NOTE, rater, id, text) for rater, own in found.items() for id, text in own.texts.items()]
    return [{"rater": rater, "id": id, "text": text} for _, rater, id, text in sorted(lines)]


def _is(identity: Identity, sae: str, group: str) -> bool:
    return (identity.sae, identity.group) == (sae, group)


def _count(identities: Mapping[str, Identity], sae: str, group: str) -> int:
    return sum(_is(own, sae, group) for own in identities.values())


def _mean(values: Float[np.ndarray, " n"]) -> float | None:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None
