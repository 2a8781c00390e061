"""Which features a probe on few of them may use: those whose mean differs most between yes and no."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


def by_mean_difference(
    features: Float[Array, "example feature"],
    labels: Bool[Array, " example"],
    counts: Bool[Array, "fold example"],
    most: int | None = None,
) -> Int[Array, "fold best"]:
    """Features in the order of |mean of yes − mean of no|, the largest first; by the examples of each fold.

    Each is divided by its mean size where it is not 0, so that rare and frequent, large and small ones compare. That
    and the two small constants are those of `sae-probes` 0.4; among equal ones the lower index comes first.

    Args:
        features: activations.
        labels: of the examples.
        counts: which examples train.
        most: how many features at most; None: all.
    """
    dtype = features.dtype
    some, (yes, no) = counts.astype(dtype), ((counts & own[None]).astype(dtype) for own in (labels, ~labels))
    size = some @ jnp.abs(features) / (some @ (features != 0).astype(dtype) + 1e-6)
    weights = yes / jnp.sum(yes, axis=1, keepdims=True) - no / jnp.sum(no, axis=1, keepdims=True)
    distance = jnp.abs(weights @ features) / (size + 1e-6)
    return lax.top_k(distance, min(most or distance.shape[1], distance.shape[1]))[1]
