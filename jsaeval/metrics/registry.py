"""All metrics of the package, in the order of the report."""

from jsaeval.metrics import downstream, explanations, latents, norms, probes, ratings, reconstruction
from jsaeval.metrics.metric import Metric


REGISTRY: dict[str, Metric] = {
    metric.id: metric
    for family in (reconstruction, downstream, norms, latents, probes, explanations, ratings)
    for metric in family.METRICS
}
