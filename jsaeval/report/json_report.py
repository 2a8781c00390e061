"""`Results` → the dictionary of `report.json` (schema 1). No NaN: an undefined value is null."""

import dataclasses
from typing import Any

from jsaeval.forward.sums import BUCKET_NAMES
from jsaeval.metrics.behaviour import behaviour
from jsaeval.metrics.compute import Value
from jsaeval.metrics.floors import Floor, RunControls
from jsaeval.run.evaluate import Results, SAEResult
from jsaeval.run.folder import SCHEMA, finite
from jsaeval.run.provenance import about_sae


def report(results: Results, plan: dict[str, Any]) -> dict[str, Any]:
    """The report of a run.

    Args:
        results: what was measured.
        plan: what was asked for, with its defaults.
    """
    masks, tokens = results.masks, results.rows.tokens
    counted = [result.calibration_tokens for result in results.saes]
    lm = results.lm["name"]
    saes = [_sae(e, lm) if isinstance(e, SAEResult) else {"name": e.name, "error": e.error} for e in results.entries]
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


def _sae(result: SAEResult, lm: str) -> dict[str, Any]:
    measured = {id: value.value for id, value in result.metrics.items()}
    as_declared = behaviour(result.sae, result.hook, measured, lm=lm, tokens=result.table.n_tokens)
    out = about_sae(result.sae, result.hook) | {
        "behaviour": dataclasses.asdict(as_declared),
        "metrics": _values(result.metrics),
        "by_position": result.by_position,
        "by_block": result.by_block,
    }
    if result.controls is not None:
        out["on_control_rows"] = {"metrics": _values(result.controls.on_control_rows)}
        out["floors"] = {name: _floor(floor) for name, floor in result.controls.floors.items()}
    if result.latents is not None:
        out["density_histogram"] = result.latents.density_histogram()
    return out


def _values(values: dict[str, Value]) -> dict[str, Any]:
    return {id: _value(value) for id, value in values.items()}


def _value(value: Value) -> dict[str, Any]:
    metric = value.metric
    out = {"value": value.value, "n": value.n, "axis": metric.axis, "unit": metric.unit, "direction": metric.direction}
    return out | ({"ci95": list(value.ci95)} if value.ci95 else {})


def _floor(floor: Floor) -> dict[str, Any]:
    """A control of an SAE; `difference` is SAE minus control on the same rows."""
    keep = ("value", "ci95")
    difference = {id: {k: v for k, v in _value(value).items() if k in keep} for id, value in floor.difference.items()}
    return {"metrics": _values(floor.metrics), "difference": difference}


def _controls(results: Results) -> dict[str, Any]:
    """Controls of the first hook, and of every hook where there are several."""
    hooks = {hook: _of_hook(controls) for hook, controls in results.controls.items() if controls.metrics}
    if not hooks:
        return {}
    first = next(iter(hooks.values()))
    return first | ({"by_hook": hooks} if len(hooks) > 1 else {})


def _of_hook(controls: RunControls) -> dict[str, Any]:
    out: dict[str, Any] = {"rows": controls.rows, "n": controls.n}
    out |= {name: {"metrics": _values(values)} for name, values in controls.metrics.items()}
    if "identity" in out:
        out["identity"]["holds"] = controls.identity_holds()
    return out
