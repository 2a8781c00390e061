"""What a report says of ratings in sentences. One whose numbers are not there is left out, or says why."""

from collections.abc import Iterator, Mapping
from typing import Any

from jsaeval.corpus.visible import clean
from jsaeval.rating.estimate import LEAST_ITEMS
from jsaeval.report.numbers import interval, number, percent


# Fewer, and a score is that of these people.
FEW_RATERS = 2
# A rater's shares of two groups that are further apart are named; of 5 controls it is 2.
_APART = 0.4
_NAMED = 3  # raters in a warning
_MANY_SKIPS = 0.1
MATCHED = (
    "Controls are matched: each control's threshold is raised until it fires at as many tokens as a latent, and its "
    "strongest token gets the latent's largest share, and so on down."
)
_CONTROLS = {"random_sae": "a random SAE", "neurons": "neurons", "random_directions": "random directions"}


def of_sae(section: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """What was found of an SAE; None where nobody has rated a latent of it."""
    own = next((own for own in section["saes"] if own["sae"] == name), None)
    scored = own is not None and own["groups"].get("latent", {}).get("score", {}).get("value") is not None
    return own if scored else None


def said_of_score(section: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    """What people give the latents of an SAE."""
    latents = own["groups"]["latent"]
    score, median = latents["score"], latents["median"]
    by_interval = section["study"]["rubric"]["unit"] == "interval"
    intervals = f"{_several(score['n'], 'interval')} of " if by_interval else ""
    yield (
        f"People give its latents {_shown(score)} of {section['maximum']} points on average (human_score; {intervals}"
        f"{_several(score['items'], 'latent')}, {_several(latents['raters'], 'rater')})."
    )
    if latents["above"]:
        share = latents["above"]
        yield (
            f"The median is {_shown(median)}; {_percents(share)} have more than {share['bound']} points, which Bricken "
            "et al. 2023 call quite interpretable."
        )
    else:
        yield f"The median is {_shown(median)}."


def said_of_controls(own: Mapping[str, Any]) -> Iterator[str]:
    """Latents beside each control."""
    for group, found in own["minus"].items():
        name, score = _CONTROLS[group], own["groups"][group]["score"]
        if found["value"] is None:
            yield f"Not compared with {name}: {found['reason']}."
            continue
        shown = f"{_shown(score)} on {_several(score['items'], 'item')}; difference {_shown(found)}"
        low, high = found.get("ci95") or (None, None)
        if low is None or high is None:
            yield f"Beside {name}: {shown}; too few items for an interval."
        elif found["clear"]:
            yield f"{'Better than' if low > 0 else 'WORSE than'} {name} ({shown})."
        else:
            yield f"Not clearly better or worse than {name} ({shown})."
    if not own["minus"]:
        yield "The study had no controls, so nothing says what raters would give to anything else."


def said_of_kinds(own: Mapping[str, Any]) -> Iterator[str]:
    """Scores by interval and by density of latents; kinds of few items are in the tables alone."""
    latents = own["groups"]["latent"]
    for i, found in latents["by_interval"].items():
        if found["items"] >= LEAST_ITEMS:
            yield f"Interval {i} of 11: {_shown(found)} ({_several(found['n'], 'unit')})."
    for name, found in latents["by_density"].items():
        if found["items"] >= LEAST_ITEMS:
            yield f"Density {name}: {_shown(found)} ({_several(found['items'], 'latent')})."


def said_of_agreement(section: Mapping[str, Any]) -> Iterator[str]:
    """How far raters agree with one another and with themselves."""
    both, latents = (section["agreement"][of]["score"]["alpha_ordinal"] for of in ("all", "latent"))
    if both["value"] is None:
        yield f"How far raters agree is not known: {both['reason']}."
    else:
        yield (
            f"Agreement of raters on the score: Krippendorff's α {_shown(both)} (ordinal; "
            f"{_several(both['n'], 'unit')} of {_several(both['items'], 'item')})"
            + ("." if latents["value"] is None else f"; on latents alone {_shown(latents)}.")
        )
    own = section["self_agreement"]["pooled"]
    apart, same = own["mean_absolute_difference"], own["exact"]
    if apart["value"] is None:
        yield f"How far raters agree with themselves is not known: {apart['reason']}."
    else:
        yield (
            f"On repeats a rater's two scores differ by {_shown(apart)} points on average and are the same in "
            f"{_percents(same)} of {_several(same['n'], 'unit')}."
        )


def said_of_counts(counts: Mapping[str, Any]) -> str:
    """On how much it all rests, in a line."""
    said = f"{_several(counts['raters'], 'rater')}, {counts['rated_items']:,} of {_several(counts['items'], 'item')}, "
    said += f"{counts['ratings']:,} ratings of {counts['rated_units']:,} of {_several(counts['units'], 'unit')}"
    more = [f"{counts[name]:,} {name}" for name in ("incomplete", "skipped") if counts[name]]
    if counts["seconds_per_item"] is not None:
        more.append(f"{counts['seconds_per_item']:.0f} s an item")
    return "; ".join([said, *more])


def warnings(section: Mapping[str, Any]) -> Iterator[str]:
    """What should keep a reader from taking the numbers as they are."""
    counts = section["counts"]
    for version, items in counts["other_rubrics"].items():
        yield (
            f"answers to {_several(items, 'item')} were given under another version of the rubric "
            f"({clean(version)}, not {section['study']['rubric']['version']}); they are counted all the same"
        )
    if 0 < counts["raters"] < FEW_RATERS:
        yield "one rater alone: the scores are that person's, and intervals say nothing of what others would give"
    if section["without"]:
        yield f"left out with --without: {', '.join(clean(name) for name in section['without'])}"
    for own in section["saes"]:
        of = f" of {clean(own['sae'])}" if len(section["saes"]) > 1 else ""
        yield from _unequal_shares(own, of)
        for group, found in own["groups"].items():
            n, given = found["skips"]["n"], found["skips"]["given"]
            if n > _MANY_SKIPS * given:
                name = _CONTROLS.get(group, "latents")
                yield (
                    f"{n:,} of {given:,} times ({percent(n / given)}) a rater skipped an item of the group {name}{of}; "
                    "its score is of what was left"
                )


def _unequal_shares(own: Mapping[str, Any], of: str) -> Iterator[str]:
    """Raters who scored clearly different shares of latents and of a control; one alone has nobody to differ from."""
    groups = own["groups"]
    raters = sorted({rater for found in groups.values() for rater in found["items_by_rater"]})
    apart = []
    for rater in raters if len(raters) > 1 else []:
        share = {group: found["items_by_rater"].get(rater, 0) / found["asked"] for group, found in groups.items()}
        gaps = {group: abs(share["latent"] - share[group]) for group in own["minus"]}
        if gaps and (widest := max(gaps, key=lambda group: gaps[group])) and gaps[widest] >= _APART:
            shown = f"{percent(share['latent'])} of the latents, {percent(share[widest])} of {_CONTROLS[widest]}"
            apart.append(f"{clean(rater)}: {shown}")
    if apart:
        more = f"; and {len(apart) - _NAMED} more" if len(apart) > _NAMED else ""
        yield (
            f"raters scored unequal shares of the groups{of} ({'; '.join(apart[:_NAMED])}{more}), so that a difference "
            "between groups may be one between raters; the difference within raters is not"
        )


def said_in_short(section: Mapping[str, Any], name: str) -> Iterator[str]:
    """Human score, controls and agreement, for the Interpretability half of a report."""
    own = of_sae(section, name)
    if own is None:
        return
    first, *_ = said_of_score(section, own)
    yield first
    known = {group: found for group, found in own["minus"].items() if found["value"] is not None}
    if known:
        shown = ", ".join(
            f"{_CONTROLS[group]} {_shown(own['groups'][group]['score'])} (latents − it: {_shown(found)})"
            for group, found in known.items()
        )
        worse = [_CONTROLS[group] for group, found in known.items() if found["clear"] and found["value"] < 0]
        yield f"Controls, mixed in blind: {shown}." + (f" It is WORSE than {' and '.join(worse)}." if worse else "")
    agreed, *_ = said_of_agreement(section)
    yield f"{agreed} What stands beside it is under Human ratings."


def _shown(found: Mapping[str, Any]) -> str:
    return f"{number(found['value'])} {interval(dict(found))}".strip()


def share_and_ends(found: Mapping[str, Any]) -> tuple[str, str]:
    """A share in percent, and its interval or nothing."""
    low, high = found.get("ci95") or (None, None)
    return percent(found["value"]), "" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"


def _percents(found: Mapping[str, Any]) -> str:
    return " ".join(share_and_ends(found)).strip()


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
