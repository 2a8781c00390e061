"""The `core` evaluation of SAEBench 0.6 from what a run has measured.

What SAEBench computes by a right formula is our exact metric. Three of its formulas are not right; under their keys
stands what SAEBench would print, and `eval_result_unstructured` says so and has the right values beside it:

| key | what SAEBench prints |
|---|---|
| explained_variance | metric `explained_variance_saebench_0_6` (SAELens issue 659) |
| explained_variance_legacy | metric of that name, about the mean of the calibration |
| mse | mean_t ‖x_t − x̂_t‖² / (tokens in the batch of t), in batches of 16 rows |

The first two, and the ratio `relative_reconstruction_bias`, are of the whole run where SAEBench averages over batches:
the same for a run of one batch. SAEBench leaves out BOS, EOS and PAD, and so does the metric mask `no-special`, which
also leaves out position 0. What a run did not measure is −1, which is how SAEBench writes what is undefined.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jsaeval.metrics.latents import DENSE, encoder_decoder_cosines, largest_cosines, unit
from jsaeval.metrics.registry import REGISTRY
from jsaeval.sae.module import SAE


MISSING = -1.0
# SAEBench's default; it has no part in any value but `mse`.
BATCH_ROWS = 16
# Category → key → id of ours.
_METRICS = {
    "model_behavior_preservation": {"kl_div_score": "kl_recovered_zero", "kl_div_with_sae": "downstream_loss"},
    "model_performance_preservation": {
        "ce_loss_score": "ce_recovered_zero",
        "ce_loss_with_sae": "ce_spliced",
        "ce_loss_without_sae": "ce_clean",
    },
    "reconstruction_quality": {
        "explained_variance": "explained_variance_saebench_0_6",
        "explained_variance_legacy": "explained_variance_legacy",
        "cossim": "cosine",
    },
    "shrinkage": {"l2_ratio": "l2_ratio", "relative_reconstruction_bias": "relative_bias"},
    "sparsity": {"l0": "l0", "l1": "l1"},
    "misc_metrics": {"frac_alive": "alive", "freq_over_10_percent": "dense"},
}
# Key → column of the statistics table whose mean over tokens it is. Runs of the first versions do not have it.
_NORMS = {"l2_norm_in": "x_norm", "l2_norm_out": "xhat_norm"}
_OF_WEIGHTS = (
    "encoder_bias",
    "encoder_norm",
    "encoder_decoder_cosine_sim",
    "max_decoder_cosine_sim",
    "max_encoder_cosine_sim",
)
_REPRODUCED = {
    "reconstruction_quality.explained_variance": "known wrong, as SAEBench 0.6 prints it: subtracts the square of the "
    "mean of squares where the squared norm of the mean belongs; right: explained_variance below",
    "reconstruction_quality.explained_variance_legacy": "a mean of ratios, as SAEBench 0.6 prints it",
    "reconstruction_quality.mse": "known wrong, as SAEBench 0.6 prints it: divided by the tokens of a batch of "
    "batch_size_prompts rows; right: mse below",
}


@dataclass(frozen=True)
class Part:
    """What one evaluation says of an SAE: the parts of SAEBench's file that differ between evaluations."""

    config: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    details: list[dict[str, Any]]
    unstructured: dict[str, Any]


def missing_groups(sae: dict[str, Any]) -> list[str]:
    """Metric groups that a core file needs and that the run of an SAE left out."""
    needed = [id for keys in _METRICS.values() for id in keys.values()]
    return list(dict.fromkeys(REGISTRY[id].needs for id in needed if id not in sae["metrics"]))


def core(
    report: dict[str, Any],
    sae: dict[str, Any],
    rows: pd.DataFrame,
    latents: pd.DataFrame,
    weights: dict[str, np.ndarray],
) -> Part:
    """The core evaluation of an SAE.

    Args:
        report: of the run.
        sae: its entry; `missing_groups` of it is empty.
        rows: its lines of the statistics table.
        latents: its lines of the table of latents.
        weights: `weight_measures` of it; without them their keys are `MISSING`.
    """
    norms = {key: name for key, name in _NORMS.items() if name in rows}
    columns = {name: _per_row(rows, name) for name in ("n", "n_ce", "ce_zero", "kl_zero", "sse", *norms.values())}
    metrics = {
        category: {key: number(sae["metrics"][id]["value"]) for key, id in keys.items()}
        for category, keys in _METRICS.items()
    }
    metrics["model_behavior_preservation"]["kl_div_with_ablation"] = _ratio(columns, "kl_zero", "n")
    metrics["model_performance_preservation"]["ce_loss_with_ablation"] = _ratio(columns, "ce_zero", "n_ce")
    metrics["reconstruction_quality"]["mse"] = _mse(columns)
    metrics["shrinkage"] |= {key: _ratio(columns, norms[key], "n") if key in norms else MISSING for key in _NORMS}
    metrics["misc_metrics"] |= _shares(latents["density"].to_numpy()) | {
        f"average_max_{side}_cosine_sim": number(weights[f"max_{side}_cosine_sim"].mean() if weights else None)
        for side in ("encoder", "decoder")
    }
    seen = report["corpus"]["rows"] * report["corpus"]["positions"]
    tokens = {"total_tokens_eval_reconstruction": seen, "total_tokens_eval_sparsity_variance": seen}
    return Part(
        config=_config(report, bool(weights)),
        metrics=metrics | {"token_stats": tokens},
        details=_details(latents, weights),
        unstructured=_notes(report, _not_measured(rows, latents, weights)) | {"metrics": sae["metrics"]},
    )


def weight_measures(sae: SAE) -> dict[str, np.ndarray]:
    """What SAEBench says of the weights of each latent, under its keys; arrays (latent,).

    The largest cosines are with any other latent, alive or not. NaN: undefined.
    """
    encoder, decoder = np.asarray(sae.W_enc, np.float32).T, np.asarray(sae.W_dec, np.float32)
    everyone = np.ones(sae.d_sae, bool)
    return {
        "encoder_bias": np.asarray(sae.b_enc, np.float64),
        "encoder_norm": np.linalg.norm(encoder, axis=1),
        "encoder_decoder_cosine_sim": encoder_decoder_cosines(sae),
        "max_decoder_cosine_sim": largest_cosines(unit(decoder), everyone),
        "max_encoder_cosine_sim": largest_cosines(unit(encoder), everyone),
    }


def number(value: float | None) -> float:
    """A value as SAEBench writes it: `MISSING` where it is undefined."""
    return MISSING if value is None or not math.isfinite(value) else float(value)


def _config(report: dict[str, Any], has_weights: bool) -> dict[str, Any]:
    corpus = report["corpus"]
    batch = min(BATCH_ROWS, corpus["rows"])
    n_batches = -(-corpus["rows"] // batch)
    measured = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics", "featurewise_density_statistics")
    return {
        "model_name": report["lm"]["name"],
        "llm_dtype": report["provenance"]["dtype"],
        "batch_size_prompts": batch,
        "n_eval_reconstruction_batches": n_batches,
        "n_eval_sparsity_variance_batches": n_batches,
        "dataset": corpus["name"],
        "context_size": corpus["positions"],
        **{f"compute_{name}": True for name in measured},
        "compute_featurewise_weight_based_metrics": has_weights,
        "exclude_special_tokens_from_reconstruction": report["masks"]["splice"] == "no-special",
        "verbose": False,
    }


def _per_row(rows: pd.DataFrame, name: str) -> np.ndarray:
    """A column of the statistics table, summed over position buckets where it has them."""
    return np.array([np.sum(value) for value in rows[name]])


def _ratio(columns: dict[str, np.ndarray], name: str, count: str) -> float:
    total = columns[count].sum()
    return number(columns[name].sum() / total if total else None)


def _mse(columns: dict[str, np.ndarray]) -> float:
    """SAEBench's `mse`: each squared error is divided by the tokens of its batch before the mean over tokens."""
    starts = range(0, len(columns["n"]), BATCH_ROWS)
    n, sse = (np.add.reduceat(columns[name], starts) for name in ("n", "sse"))
    return number((sse[n > 0] / n[n > 0]).sum() / n.sum() if n.any() else None)


def _shares(density: np.ndarray) -> dict[str, float]:
    total = density.sum()
    return {
        "freq_over_1_percent": number((density > 0.01).mean()),
        **{
            f"normalized_freq_over_{percent}_percent": number(density[density > least].sum() / total if total else 0.0)
            for percent, least in ((1, 0.01), (10, DENSE))
        },
    }


def _details(latents: pd.DataFrame, weights: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One entry a latent."""
    nothing = np.full(len(latents), MISSING)
    measured = {
        "feature_density": latents["density"].to_numpy(),
        "consistent_activation_heuristic": _tokens_per_row(latents) if "rows" in latents else nothing,
    }
    measured |= {key: weights.get(key, nothing) for key in _OF_WEIGHTS}
    columns = {key: map(number, values.tolist()) for key, values in measured.items()}
    lines = zip(latents["latent"].tolist(), *columns.values(), strict=True)
    return [dict(zip(("index", *columns), line, strict=True)) for line in lines]


def _tokens_per_row(latents: pd.DataFrame) -> np.ndarray:
    """At how many tokens each latent fires in a row in which it fires; NaN where it never does."""
    fires, rows = latents["fires"].to_numpy(float), latents["rows"].to_numpy(float)
    return np.divide(fires, rows, out=np.full(len(rows), np.nan), where=rows > 0)


def _not_measured(rows: pd.DataFrame, latents: pd.DataFrame, weights: dict[str, np.ndarray]) -> list[str]:
    """Keys that are `MISSING` of every SAE and latent."""
    missing = [f"shrinkage.{key}" for key, name in _NORMS.items() if name not in rows]
    if "rows" not in latents:
        missing.append("details.consistent_activation_heuristic")
    if not weights:
        missing += [f"misc_metrics.average_max_{side}_cosine_sim" for side in ("encoder", "decoder")]
        missing += [f"details.{key}" for key in _OF_WEIGHTS]
    return missing


def _notes(report: dict[str, Any], not_measured: list[str]) -> dict[str, Any]:
    """What a reader has to know of the values."""
    differences = [
        "sparsity.l1 is of the latents as they are; into those of SAELens's SAEs SAEBench folds the decoder's norms "
        "first (l1_scaled below)"
    ]
    if report["corpus"]["rows"] > BATCH_ROWS:
        differences.append(
            "explained_variance, explained_variance_legacy and relative_reconstruction_bias are of the whole run; "
            "SAEBench averages them, or what they are made of, over batches"
        )
    if report["masks"]["splice"] != "all":
        differences.append(
            "zero ablation, which enters both scores, is at the spliced tokens; SAEBench ablates every token, as a run "
            "with --splice-mask all does"
        )
    if report["masks"]["metric"] != "no-special":
        differences.append("BOS, EOS and PAD enter the means; SAEBench leaves them out")
    return {"reproduced": _REPRODUCED, "not_measured": not_measured, "differences": differences}
