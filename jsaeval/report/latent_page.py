"""What the page of one latent shows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jsaeval.corpus.visible import clean, visible_alone
from jsaeval.report.bars import bars
from jsaeval.report.explanations import remarks
from jsaeval.report.latent_examples import example_groups
from jsaeval.report.latent_record import About
from jsaeval.report.latent_scores import best_floor, direction, score, score_table
from jsaeval.report.numbers import number


_NAMES = {None: "Latent", "random_sae": "Random SAE, latent", "neurons": "Neuron"}
_WHAT = {
    "random_sae": "A latent of an SAE with random weights. What explanations of these score is owed to the text and to "
    "the width, not to training.",
    "neurons": "A channel of the activation itself. What explanations of these score needs no dictionary.",
}
_ENOUGH = 10  # latents for a histogram over them


def page_of(
    record: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    pages: set[int],
    densities: Mapping[str, Any] | None,
    about: About,
) -> dict[str, Any]:
    """What the template shows of a latent.

    Args:
        record: of the latent.
        before: of the one whose page comes before.
        after: of the one whose page comes after.
        pages: latents that have pages in the same folder.
        densities: histogram over these, from `densities_of`.
        about: what they have in common.
    """
    groups, scores = example_groups(record), score_table(record)
    steps = {"before": before, "after": after}
    return heading(record) | {
        "title": name_of(record),
        **{step: own and f"{own['latent']}.html" for step, own in steps.items()},
        **{f"{step}_name": own and name_of(own) for step, own in steps.items()},
        "problem": record["problem"] and clean(record["problem"]),
        "explanation": {key: text and clean(text) for key, text in record["explanation"].items()},
        "simulator": clean(record["simulator"]),
        "figures": {
            "density": density(record["density"]),
            "fires at": f"{record['fires']:,} of {record['n_tokens']:,} tokens",
            "largest activation": number(record["largest"]),
            "mean where it fires": number(record["mean_active"]),
            **_first_score(record),
        },
        "largest": number(record["largest"]),
        "groups": groups,
        "has_simulated": any(own["simulated"] is not None for group in groups for own in group["open"] + group["rest"]),
        "scores": scores,
        "remarks": list(remarks(record)),
        "histograms": _histograms(record, densities),
        "logits": _logits(record),
        "neighbours": [_neighbour(own, pages) for own in record["neighbours"]],
        "foot": f"{clean(about.lm)} on {clean(about.corpus)}: {about.rows:,} rows of {about.positions:,} positions.",
    }


def name_of(record: Mapping[str, Any]) -> str:
    """What a latent is called."""
    return f"{_NAMES[record['floor']]} {record['latent']}"


def heading(record: Mapping[str, Any]) -> dict[str, Any]:
    """What pages of a dictionary say of it at their head."""
    return {"sae": clean(record["sae"]), "hook": clean(record["hook"]), "floor": _WHAT.get(record["floor"])}


def density(share: float | None) -> str:
    """A density in percent, with three significant digits however small it is."""
    return "undefined" if share is None else f"{100 * share:.3g} %"


def densities_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Histogram of log10 density over latents that fire, in quarters of a decade; None of a few of them."""
    logs = [math.log10(own["density"]) for own in records if own["density"]]
    if len(logs) < _ENOUGH:
        return None
    edges = np.arange(math.floor(min(logs)), math.floor(max(logs)) + 1.25, 0.25)
    return {"edges": edges.tolist(), "counts": np.histogram(logs, edges)[0].tolist()}


def _first_score(record: Mapping[str, Any]) -> dict[str, str]:
    for id, value in record["scores"].get("all", {}).items():
        floor = best_floor(record, id)
        return {
            f"{id}, {direction(id)} is better": score(value) + ("" if floor is None else f" (floor {score(floor)})")
        }
    return {}


def _histograms(record: Mapping[str, Any], densities: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    shown = [(bars(record["histogram"], "Histogram of its activations", log=True), "Its activations that are not 0.")]
    if densities and record["density"]:
        svg = bars(densities, "Histogram of log10 density", mark=math.log10(record["density"]))
        shown.append((svg, "log10 density of all latents here; the line is this one."))
    if record["logits"]:
        svg = bars(record["logits"]["histogram"], "Histogram of its effects on logits", log=True)
        shown.append((svg, "Its effect on the logits of all tokens."))
    return [{"svg": svg, "caption": caption} for svg, caption in shown if svg]


def _logits(record: Mapping[str, Any]) -> dict[str, Any]:
    if not record["logits"]:
        return {}
    ends = {"raises": record["logits"]["top"], "lowers": record["logits"]["bottom"]}
    return {head: [_effect(own) for own in tokens] for head, tokens in ends.items()}


def _effect(own: Mapping[str, Any]) -> dict[str, str]:
    text = visible_alone(own["text"])
    return {"text": text, "title": f"{text} (token {own['id']})", "value": number(own["value"])}


def _neighbour(own: Mapping[str, Any], pages: set[int]) -> dict[str, Any]:
    page = f"{own['latent']}.html" if own["latent"] in pages else None
    return {"latent": own["latent"], "cosine": f"{own['cosine']:.3f}", "page": page}
