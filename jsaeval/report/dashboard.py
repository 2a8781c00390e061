"""Feature data as SAEDashboard writes it for Neuronpedia: `saedashboard/batch-N.json`.

The keys and types are those of `NeuronpediaDashboardBatch`, `…Feature` and `…Activation` in SAEDashboard 0.8, and
all of them are there. Three things are as they are meant there, and not as its code makes them: `frac_nonzero` is the
density itself, and not what is left of it in a title of three decimals; the lowest interval does not hold the tokens at
which the latent is 0; ends of intervals and maxima are numbers in full. Tables that need other data than a record has
(alignment with neurons, correlations of activations) are empty lists, as SAEDashboard leaves them when it is told to.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsaeval.cache import atomic
from jsaeval.errors import InputError
from jsaeval.hooks import parse_hook
from jsaeval.report.feature_data import ends_of, grouped, middles, set_of, whole_text
from jsaeval.report.latent_record import About
from jsaeval.report.neuronpedia import uploads
from jsaeval.report.saebench import Written


AT_ONCE = 128  # features in a file
_EMPTY = (
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_pearson",
    "correlated_neurons_l1",
    "correlated_features_indices",
    "correlated_features_pearson",
    "correlated_features_l1",
    "decoder_weights_dist",
    "vector",
)


def write_dashboard(folder: Path, records: Sequence[Mapping[str, Any]], about: About) -> Written:
    """Write the feature data of latents of one SAE into a folder; floors have folders inside it.

    `batch-N.json` is SAEDashboard's, `upload-N.json` what Neuronpedia's API takes (`jsaeval.report.neuronpedia`).

    Args:
        folder: for the files.
        records: as `jsaeval.report.latent_record` makes them.
        about: what they have in common.

    Raises:
        InputError: there is no record, or files cannot be written.
    """
    if not records:
        raise InputError(f"{folder}: no latents to write feature data of")
    paths, notes = [], []
    for floor in sorted({own["floor"] for own in records}, key=lambda floor: floor or ""):
        own = [record for record in records if record["floor"] == floor]
        where = folder / (floor or "")
        batches = [batch(own[i : i + AT_ONCE], about) for i in range(0, len(own), AT_ONCE)]
        bodies, told = uploads(own, about)
        files = [*((f"batch-{i}", content) for i, content in enumerate(batches))]
        files += [(f"upload-{i}", content) for i, content in enumerate(bodies)]
        for name, content in files:
            paths.append(where / f"{name}.json")
            _write(paths[-1], content)
        notes += told
    return Written(tuple(paths), tuple(notes))


def batch(records: Sequence[Mapping[str, Any]], about: About) -> dict[str, Any]:
    """The content of one file."""
    first = records[0]
    return {
        "model_id": about.lm,
        "layer": int(parse_hook(first["hook"]).block),
        "sae_set": set_of(first),
        "sae_id_suffix": None,
        "features": [feature(own, about) for own in records],
    }


def feature(record: Mapping[str, Any], about: About) -> dict[str, Any]:
    """One feature of a batch."""
    logits = record["logits"] or {"top": [], "bottom": [], "histogram": {"edges": [], "counts": []}}
    out: dict[str, Any] = {"feature_index": int(record["latent"])} | {key: [] for key in _EMPTY}
    for key, end in (("neg", "bottom"), ("pos", "top")):
        out[f"{key}_str"] = [whole_text(own["text"]) for own in logits[end]]
        out[f"{key}_values"] = [float(own["value"]) for own in logits[end]]
    for key, histogram in (("freq", record["histogram"]), ("logits", logits["histogram"])):
        fired = any(histogram["counts"])
        out[f"{key}_hist_data_bar_values"] = middles(histogram["edges"]) if fired else []
        out[f"{key}_hist_data_bar_heights"] = [float(count) for count in histogram["counts"]] if fired else []
    return out | {
        "frac_nonzero": float(record["density"]),
        "n_prompts_total": about.rows,
        "n_tokens_in_prompt": about.positions,
        "dataset": about.corpus,
        "activations": list(_activations(record)),
    }


def _activations(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    known = {interval: ends_of(record, interval) for interval, _ in grouped(record) if interval is not None}
    for interval, own in grouped(record):
        low, high, share = (-1.0, float(record["largest"]), -1.0) if interval is None else known[interval]
        yield {
            "bin_min": low,
            "bin_max": high,
            "bin_contains": share,
            "tokens": [whole_text(token) for token in own["text"]],
            "values": [float(value) for value in own["activations"]],
            "qualifying_token_index": int(own["focus"]),
        }


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
