"""How well x̂ stands for x at the hook. Tier 1, faithfulness."""

from jsaeval.metrics.metric import Metric, Totals


def _metric(id: str, unit: str, direction, formula: str, source: str, value, **rest) -> Metric:
    return Metric(
        id=id,
        axis="faithfulness",
        tier=1,
        unit=unit,
        direction=direction,
        differentiable=True,
        formula=formula,
        source=source,
        needs="reconstruction",
        value=value,
        **rest,
    )


def _saebench_variance(t: Totals):
    """E‖x‖² − (E‖x‖²/d)²: a square of the mean of squares where the squared norm of the mean belongs."""
    mean_square = t["x_sq"] / t["n"]
    return mean_square - (mean_square / t.width) ** 2


METRICS = (
    _metric(
        "mse",
        "activation²",
        "lower",
        "mean_t ‖x_t − x̂_t‖²",
        "Bricken et al. 2023",
        lambda t: t["sse"] / t["n"],
        by_position=True,
    ),
    _metric(
        "mse_element",
        "activation²",
        "lower",
        "mse / d",
        "Braun et al. 2024 (arXiv 2405.12241), code",
        lambda t: t["sse"] / t["n"] / t.width,
    ),
    _metric(
        "explained_variance",
        "share",
        "higher",
        "1 − Σ_t ‖x_t − x̂_t‖² / Σ_t ‖x_t − mu‖²",
        "Gao et al. 2024 (arXiv 2406.04093), 1 − normalised MSE",
        lambda t: 1 - t["sse"] / t["sst"],
        by_position=True,
    ),
    _metric(
        "fvu",
        "share",
        "lower",
        "1 − explained_variance",
        "Gao et al. 2024 (arXiv 2406.04093)",
        lambda t: t["sse"] / t["sst"],
    ),
    _metric(
        "explained_variance_legacy",
        "share",
        "higher",
        "mean_t [1 − ‖x_t − x̂_t‖² / ‖x_t − mu_cal‖²]",
        "SAEBench paper and Neuronpedia numbers; there with the mean of each batch",
        lambda t: 1 - t["legacy"] / t["n"],
    ),
    _metric(
        "explained_variance_uncentred",
        "share",
        "higher",
        "1 − Σ_t ‖x_t − x̂_t‖² / Σ_t ‖x_t‖²",
        "jsaeval; what a forgotten mean gives",
        lambda t: 1 - t["sse"] / t["x_sq"],
    ),
    _metric(
        "explained_variance_saebench_0_6",
        "known wrong",
        "neither",
        "1 − E‖x − x̂‖² / (E‖x‖² − (E‖x‖²/d)²)",
        "SAEBench 0.6 `explained_variance`; known wrong, for comparison only",
        lambda t: 1 - t["sse"] / t["n"] / _saebench_variance(t),
    ),
    _metric(
        "cosine",
        "cosine",
        "higher",
        "mean_t cos(x_t, x̂_t)",
        "SAELens, SAEBench, dictionary_learning",
        lambda t: t["cosine"] / t["n"],
    ),
    _metric(
        "l2_ratio",
        "ratio",
        "neither",
        "mean_t ‖x̂_t‖ / ‖x_t‖; 1 is no shrinkage",
        "Braun et al. 2024 (arXiv 2405.12241)",
        lambda t: t["l2_ratio"] / t["n"],
    ),
    _metric(
        "relative_bias",
        "ratio",
        "neither",
        "Σ_t ‖x̂_t‖² / Σ_t x_t·x̂_t; 1 is no bias",
        "Rajamanoharan et al. 2024 (arXiv 2404.16014), eq. 10",
        lambda t: t["xhat_sq"] / t["x_xhat"],
    ),
)
