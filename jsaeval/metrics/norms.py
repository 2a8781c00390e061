"""Norms of the latents: how sparse the code is. Tier 1, interpretability."""

from jsaeval.metrics.metric import Metric


METRICS = (
    Metric(
        id="l0",
        axis="interpretability",
        tier=1,
        unit="latents",
        direction="lower",
        differentiable=False,
        formula="mean_t #{i : z_ti ≠ 0}",
        source="Bricken et al. 2023; Cunningham et al. 2023 (arXiv 2309.08600)",
        needs="norms",
        value=lambda t: t["l0"] / t["n"],
        by_position=True,
    ),
    Metric(
        id="l1",
        axis="interpretability",
        tier=1,
        unit="activation",
        direction="lower",
        differentiable=True,
        formula="mean_t Σ_i |z_ti|",
        source="Bricken et al. 2023",
        needs="norms",
        value=lambda t: t["l1"] / t["n"],
    ),
    Metric(
        id="l1_scaled",
        axis="interpretability",
        tier=1,
        unit="activation",
        direction="lower",
        differentiable=True,
        formula="mean_t Σ_i |z_ti| ‖W_dec,i‖",
        source="Conerly et al. 2024 (Circuits Updates, April); invariant to folding the decoder norm",
        needs="norms",
        value=lambda t: t["l1_scaled"] / t["n"],
    ),
)
