"""What the index of latents shows: one line for each, for people to search, sort and filter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jsaeval.corpus.visible import clean
from jsaeval.report.bars import bars
from jsaeval.report.explanations import first_in_a_text
from jsaeval.report.latent_examples import largest_tokens
from jsaeval.report.latent_page import density, heading
from jsaeval.report.latent_record import About
from jsaeval.report.latent_scores import best_floor, direction, score
from jsaeval.report.numbers import number


_TITLES = {None: "Latents", "random_sae": "Random SAE: latents", "neurons": "Neurons"}
_SHOWN_SCORES = 4
_MOST_TEXT = 280  # characters of an explanation


def index_of(
    records: Sequence[Mapping[str, Any]],
    about: About,
    others: Mapping[str, str | None],
    densities: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the template shows of the latents of one dictionary.

    Args:
        records: of the latents.
        about: what they have in common.
        others: indices of other dictionaries by name; None: this one.
        densities: their histogram.
    """
    ids = list(dict.fromkeys(id for own in records for id in own["scores"].get("all", {})))[:_SHOWN_SCORES]
    cells = [_cells(own, ids) for own in records]
    columns = [{"name": "latent", "number": True}, {"name": "explanation", "number": False}]
    columns += [{"name": cell["name"], "number": True} for cell in cells[0]]
    return heading(records[0]) | {
        "title": _TITLES[records[0]["floor"]],
        "lm": clean(about.lm),
        "others": others,
        "words": first_in_a_text((own["explanation"]["explainer"] for own in records), about.positions),
        "explained": sum(bool(own["explanation"]["text"]) for own in records),
        "problems": sum(_has_problem(own) for own in records),
        "columns": [column | {"place": i} for i, column in enumerate(columns)],
        "rows": [_row(own, of) for own, of in zip(records, cells, strict=True)],
        "histograms": _overview(records, ids, densities),
        "note": "; ".join(f"{id}: {direction(id)} is better" for id in ids),
        "facts": {
            "LM": clean(about.lm),
            "corpus": f"{clean(about.corpus)}: {about.rows:,} rows of {about.positions:,} positions",
            **{clean(term): clean(text) for term, text in about.facts.items()},
        },
    }


def _cells(record: Mapping[str, Any], ids: Sequence[str]) -> list[dict[str, str]]:
    """The numbers of a line, as text and as what they are sorted by."""
    scores = record["scores"].get("all", {})
    share = record["density"]
    values = [("density, %", None if share is None else 100 * share, density(share).removesuffix(" %"))]
    for i, id in enumerate(ids):
        values.append((id, scores.get(id), score(scores[id]) if id in scores else ""))
        if i == 0:
            values.append(("its best floor", best := best_floor(record, id), "" if best is None else score(best)))
    return [
        {"name": name, "value": "" if value is None else f"{value:.5g}", "text": text} for name, value, text in values
    ]


def _row(record: Mapping[str, Any], cells: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    explanation = record["explanation"]
    text = clean(explanation["text"])
    kinds = ["explained"] * bool(text) + ["problem"] * _has_problem(record)
    said = explanation["error"] or ("says nothing" if explanation["explainer"] else "not explained")
    return {
        "latent": record["latent"],
        "kinds": " ".join(kinds),
        "problem": record["problem"] and clean(record["problem"]),
        "text": text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…",
        "why": clean(said),
        "tokens": largest_tokens(record),
        "cells": cells,
    }


def _has_problem(record: Mapping[str, Any]) -> bool:
    return bool(record["problem"] or record["explanation"]["error"])


def _overview(
    records: Sequence[Mapping[str, Any]], ids: Sequence[str], densities: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Figures over all latents; none of a few of them."""
    if densities is None:
        return []
    shown = [(bars(densities, "Histogram of log10 density"), "log10 density: how many latents fire how often.")]
    for id in ids[:1]:
        pairs = [(own["scores"].get("all", {}).get(id), best_floor(own, id)) for own in records]
        values, floors = ([value for value in own if value is not None] for own in zip(*pairs, strict=True))
        if values:
            edges = np.linspace(min(0.0, min(values)), max(1.0, max(values)), 31)
            histogram = {"edges": edges.tolist(), "counts": np.histogram(values, edges)[0].tolist()}
            mean = float(np.mean(floors)) if floors else None
            line = f" The line is the mean of their best floors, {number(mean)}." if floors else ""
            mark = mean if mean is not None and edges[0] <= mean <= edges[-1] else None
            shown.append((bars(histogram, f"Histogram of {id}", mark=mark), f"{id} of latents.{line}"))
    return [{"svg": svg, "caption": caption} for svg, caption in shown if svg]
