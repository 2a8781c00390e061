"""Which features a probe on few of them may use: those whose mean differs most between yes and no."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def by_mean_difference(
    features: Float[Array, "example feature"], labels: Bool[Array, " example"], counts: Bool[Array, " example"]
) -> Int[Array, " feature"]:
    """Features in the order of |mean of yes − mean of no|, the largest first.

    Each is divided by its mean size where it is not 0, so that rare and frequent, large and small ones compare. That
    and the two small constants are those of `sae-probes` 0.4; among equal ones the lower index comes first.

    Args:
        features: activations.
        labels: of the examples.
        counts: which examples train.
    """
    kept = jnp.where(counts[:, None], features, 0.0)
    some = counts.astype(kept.dtype)
    size = some @ jnp.abs(kept) / (some @ (kept != 0).astype(kept.dtype) + 1e-6)
    yes, no = ((counts & own).astype(kept.dtype) for own in (labels, ~labels))
    difference = (yes / jnp.sum(yes) - no / jnp.sum(no)) @ kept
    return jnp.argsort(-jnp.abs(difference) / (size + 1e-6), stable=True)
