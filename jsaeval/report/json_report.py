"""`Results` → the dictionary of `report.json` (schema 1). No NaN: an undefined value is null."""

import math
from typing import Any

from jsaeval.forward.sums import BUCKET_NAMES
from jsaeval.metrics.compute import Value
from jsaeval.run.evaluate import Results, SAEResult


SCHEMA = 1


def report(results: Results, plan: dict[str, Any]) -> dict[str, Any]:
    """The report of a run.

    Args:
        results: what was measured.
        plan: what was asked for, with its defaults.
    """
    masks, tokens = results.masks, results.rows.tokens
    counted = [result.calibration_tokens for result in results.saes]
    saes = [_sae(e) if isinstance(e, SAEResult) else {"name": e.name, "error": e.error} for e in results.entries]
    out = {
        "schema": SCHEMA,
        "provenance": {"plan": plan} | results.provenance,
        "lm": results.lm,
        "corpus": {
            "name": results.rows.name,
            "rows": tokens.shape[0],
            "positions": tokens.shape[1],
            "tokens": int(masks.valid.sum()),
            "documents": None if results.rows.documents is None else int(results.rows.documents.max()) + 1,
            "sha256": results.provenance["corpus_sha256"],
        },
        "masks": results.mask_names
        | {
            "metric_tokens": int(masks.metric.sum()),
            "spliced_tokens": int(masks.splice.sum()),
            "padding_tokens": int((~masks.valid).sum()),
            "position_buckets": list(BUCKET_NAMES),
        },
        "calibration": {"tokens": min(counted, default=0)},
        "saes": saes,
        "controls": _controls(results),
    }
    return finite(out)


def _sae(result: SAEResult) -> dict[str, Any]:
    sae, card = result.sae, result.sae.card
    out = {
        "name": result.name,
        "hook": result.hook.name,
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "source": {"format": card.format, "path": card.source, "sha256": card.sha256},
        "metrics": {name: _value(value) for name, value in result.metrics.items()},
        "by_position": result.by_position,
        "by_block": result.by_block,
    }
    if result.latents is not None:
        out["density_histogram"] = result.latents.density_histogram()
    return out


def _value(value: Value) -> dict[str, Any]:
    metric = value.metric
    out = {"value": value.value, "n": value.n, "axis": metric.axis, "unit": metric.unit, "direction": metric.direction}
    return out | ({"ci95": list(value.ci95)} if value.ci95 else {})


def _controls(results: Results) -> dict[str, Any]:
    """Zero ablation per hook; it does not depend on the SAE."""
    zero = {result.hook.name: result for result in results.saes if result.zero}
    if not zero:
        return {}
    first = next(iter(zero.values()))
    out = {"rows": first.table.n_rows, "n": first.table.n_tokens, "zero": {"metrics": first.zero}}
    if len(zero) > 1:
        out["zero"]["by_hook"] = {name: result.zero for name, result in zero.items()}
    return out


def finite(tree: Any) -> Any:
    """The same structure with NaN and infinities replaced by None."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
