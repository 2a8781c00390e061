"""What do people say of a latent? Tier 5, interpretability; see `jsaeval.rating`."""

from jsaeval.metrics.metric import Metric


METRICS = (
    Metric(
        id="human_score",
        axis="interpretability",
        tier=5,
        unit="points",
        direction="higher",
        differentiable=False,
        formula="mean over the rated units of latents of the mean rubric score of their raters; a unit is an interval "
        "of activation, with 0–14 points, or the latent as a whole, as the rubric says",
        source="Bricken et al. 2023, human analysis",
        needs="ratings",
        value=lambda t: t["human_score"],
    ),
)
