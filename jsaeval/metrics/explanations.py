"""Can the activations of a latent be predicted from an explanation? Tier 4, interpretability; see `jsaeval.autointerp`.

Ids and directions are those of `jsaeval.autointerp.scores`. a: activations; s: simulated ones. Values are means over
latents.
"""

from jsaeval.metrics.metric import Direction, Metric


_BILLS = "Bills et al. 2023"
_GAO = "Gao et al. 2024 (arXiv 2406.04093), §4.3"
_PAULO = "Paulo et al. 2024 (arXiv 2410.13928), judged by the simulator"


def _metric(id: str, unit: str, direction: Direction, formula: str, source: str) -> Metric:
    return Metric(
        id=id,
        axis="interpretability",
        tier=4,
        unit=unit,
        direction=direction,
        differentiable=False,
        formula=formula,
        source=source,
        needs="explanations",
        value=lambda t: t[id],
    )


METRICS = (
    _metric(
        "activation_prediction_loss",
        "share",
        "lower",
        "E[(a − s)²] / E[(a − E a)²], s calibrated by a non-decreasing map on other documents; 1 − it is the skill; "
        "mean over latents",
        "proposal of this package, after Bills et al. 2023",
    ),
    _metric(
        "simulation_pearson", "correlation", "higher", "corr(a, s) over all tokens together, s uncalibrated", _BILLS
    ),
    _metric(
        "simulation_spearman",
        "correlation",
        "higher",
        "the same of ranks; 0 where s is constant",
        "Bricken et al. 2023",
    ),
    _metric("simulation_r2_uncentred", "share", "higher", "1 − E[(a − s)²] / E[a²], s calibrated", _BILLS),
    _metric("simulation_absolute_deviation_explained", "share", "higher", "1 − E|a − s| / E|a|, s calibrated", _BILLS),
    _metric(
        "simulation_likelihood_skill",
        "share",
        "higher",
        "1 − NLL / NLL₀ of levels min(h, ⌊10 a / max a⌋), h = 10, or 9 where the simulator knows no 10: under the "
        "simulator, and under how often each level is seen",
        "proposal of this package",
    ),
    _metric("firing_precision", "share", "higher", "P(a ≠ 0 given that s fires) on random text", _GAO),
    _metric("firing_recall", "share", "higher", "P(s fires) at activations drawn uniformly from a ≠ 0", _GAO),
    _metric("firing_f1", "share", "higher", "2 precision · recall / (precision + recall)", "Foote et al. 2023"),
    _metric(
        "detection_accuracy",
        "share",
        "higher",
        "balanced: does the latent fire in a window? yes if max s > t, the best t on other documents",
        _PAULO,
    ),
    _metric("detection_auc", "share", "higher", "the same over all t", _PAULO),
    _metric(
        "fuzzing_accuracy",
        "share",
        "higher",
        "balanced: does the latent fire at the marked token of a window? yes if s > t, the best t on other documents",
        _PAULO,
    ),
    _metric("fuzzing_auc", "share", "higher", "the same over all t", _PAULO),
)
