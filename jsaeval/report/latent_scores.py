"""Scores of a latent beside their floors, for its page and the index."""

from collections.abc import Mapping
from typing import Any

from jsaeval.metrics.registry import REGISTRY
from jsaeval.report.numbers import number


# What a score is compared with, in the order of the columns: simulations that know nothing of the latent's explanation.
_FLOORS = {"empty": "empty", "another": "another's", "constant": "constant", "token": "token"}
# Of examples; the first that has a score is where its floors are, too. "own": scores that say what they look at.
_GROUPS = ("all", "own", "top", "interval", "random", "importance")
_HEADLINES = ("all", "own")
_ARROWS = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}


def score(value: float | None) -> str:
    """A score with three digits behind the point; one that is not defined is a dash."""
    if value is None:
        return "—"
    return f"{value:.3f}" if abs(value) < 100 else number(value)


def direction(id: str) -> str:
    """Whether "higher" or "lower" is better."""
    if id in REGISTRY and REGISTRY[id].direction in _ARROWS:
        return REGISTRY[id].direction
    return "lower" if id.endswith("_loss") else "higher"


def best_floor(record: Mapping[str, Any], id: str) -> float | None:
    """The best value that a floor reaches."""
    values = [own[id] for own in record["floors"].values() if own.get(id) is not None]
    return (min if direction(id) == "lower" else max)(values, default=None)


def beats_floors(record: Mapping[str, Any], id: str) -> bool:
    """Whether a score, where its floors are, is better than every floor of it."""
    found = [record["scores"][name][id] for name in _GROUPS if id in record["scores"].get(name, {})]
    floor = best_floor(record, id)
    if not found or found[0] is None or floor is None:
        return False
    return found[0] < floor if direction(id) == "lower" else found[0] > floor


def score_table(record: Mapping[str, Any]) -> dict[str, Any]:
    """Rows and columns of the table of scores; groups and floors that have none are left out.

    Floors stand behind the `first` groups, which they are floors of.
    """
    scores, floors = record["scores"], record["floors"]
    groups = [*(name for name in _GROUPS if scores.get(name)), *(name for name in scores if name not in _GROUPS)]
    against = [
        *(name for name in _FLOORS if floors.get(name)),
        *(name for name in floors if name not in _FLOORS),
    ]
    ids = list(dict.fromkeys(id for name in groups for id in scores[name]))
    rows = []
    for id in ids:
        arrow, meaning = _ARROWS[direction(id)]
        values = [_cell(scores[name], id) for name in groups]
        rows.append({"id": id, "arrow": arrow, "meaning": meaning, "cells": values, "best": None})
        if beats_floors(record, id):
            rows[-1]["best"] = next(i for i, name in enumerate(groups) if id in scores[name])
        rows[-1]["floors"] = [_cell(floors[name], id) for name in against]
    first = sum(name in _HEADLINES for name in groups)
    return {"groups": groups, "first": first, "against": [_FLOORS.get(name, name) for name in against], "rows": rows}


def _cell(values: Mapping[str, float | None], id: str) -> str:
    return score(values[id]) if id in values else ""
