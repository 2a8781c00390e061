"""Probe loss: can a known concept be read off a single latent? Tier 2, interpretability; see `jsaeval.probes`."""

from jsaeval.metrics.metric import Metric


def _metric(id: str, formula: str) -> Metric:
    return Metric(
        id=id,
        axis="interpretability",
        tier=2,
        unit="nats",
        direction="lower",
        differentiable=False,
        formula=formula,
        source="Gao et al. 2024 (arXiv 2406.04093), §4.2",
        needs="probes",
        value=lambda t: t[id],
    )


METRICS = (
    _metric(
        "probe_loss",
        "mean over tasks of the BCE, on held-out texts, of σ(w f_i + b) on the latent i that is best in training",
    ),
    _metric("probe_loss_in_sample", "the same on the training texts"),
)
