"""Sums over the tokens of a row: what each token contributes, added up under a mask.

Values are summed with `where`, not by multiplying with the mask, so that whatever a masked token holds (even NaN)
stays out. Some columns are kept apart by position bucket; their total is the sum over buckets.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jsaeval.mesh import summed
from jsaeval.numerics import wide
from jsaeval.sae.module import SAE


# (first position, one past the last) of each bucket; METRICS.md, By position.
BUCKETS = ((0, 1), (1, 4), (4, 16), (16, 64), (64, None))
BUCKET_NAMES = ("0", "1-3", "4-15", "16-63", "64+")


def over_row(values: Array, mask: Bool[Array, "row position"]) -> Array:
    """(..., row, position) → (..., row). Integers and booleans are summed as int32."""
    dtype = values.dtype if jnp.issubdtype(values.dtype, jnp.floating) else jnp.int32
    kept = jnp.where(jnp.broadcast_to(mask, values.shape), values, jnp.zeros((), values.dtype))
    return jnp.sum(kept, axis=-1, dtype=dtype)


def by_bucket(values: Array, mask: Bool[Array, "row position"]) -> Array:
    """(..., row, position) → (..., row, bucket)."""
    return jnp.stack([over_row(values[..., a:b], mask[:, a:b]) for a, b in BUCKETS], axis=-1)


def square(x: Float[Array, "*batch width"]) -> Float[Array, "*batch"]:
    """Squared norm over the last axis."""
    return jnp.sum(jnp.square(x), axis=-1)


def ratio(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, and 0 where the denominator is 0."""
    safe = jnp.where(denominator > 0, denominator, jnp.ones((), denominator.dtype))
    return jnp.where(denominator > 0, numerator / safe, jnp.zeros((), numerator.dtype))


def code_norms(sae: SAE, z: Float[Array, "*batch latent"]) -> tuple[Array, Array, Array]:
    """Per token: `l0`, `l1` and `l1_scaled` of the latents (METRICS.md)."""
    size = jnp.abs(wide(z))
    decoder_norm = jnp.linalg.norm(wide(sae.W_dec), axis=-1)
    l0, l1, l1_scaled = jnp.count_nonzero(z, axis=-1), jnp.sum(size, axis=-1), size @ decoder_norm
    return summed(l0), summed(l1), summed(l1_scaled)


def norm_sums(sae: SAE, z: Float[Array, "row position latent"], mask: Bool[Array, "row position"]) -> dict[str, Array]:
    """Per row: `l0` (by bucket), `l1`, `l1_scaled`."""
    l0, l1, l1_scaled = code_norms(sae, z)
    return {"l0": by_bucket(l0, mask), "l1": over_row(l1, mask), "l1_scaled": over_row(l1_scaled, mask)}


def no_norm_sums(mask: Bool[Array, "row position"], dtype: jnp.dtype) -> dict[str, Array]:
    """The columns of `norm_sums` for a stream without latents: zeros."""
    zeros = jnp.zeros(mask.shape, dtype)
    return {
        "l0": by_bucket(zeros.astype(jnp.int32), mask),
        "l1": over_row(zeros, mask),
        "l1_scaled": over_row(zeros, mask),
    }


def reconstruction_sums(
    x: Float[Array, "row position width"],
    reconstruction: Float[Array, "row position width"],
    mean: Float[Array, " width"] | None,
    mask: Bool[Array, "row position"],
) -> dict[str, Array]:
    """Per row, with r = x − x̂: `sse` = ‖r‖² (by bucket), `xhat_norm` = ‖x̂‖, `xhat_sq` = ‖x̂‖², `x_xhat` = x·x̂,
    `cosine`, `l2_ratio` = ‖x̂‖/‖x‖, and `legacy` = ‖r‖²/‖x − mean‖² when there is a mean."""
    x, reconstruction = wide(x), wide(reconstruction)
    error, dot = square(x - reconstruction), jnp.sum(x * reconstruction, axis=-1)
    x_norm, out_norm = jnp.sqrt(square(x)), jnp.sqrt(square(reconstruction))
    sums = {
        "sse": by_bucket(error, mask),
        "xhat_norm": over_row(out_norm, mask),
        "xhat_sq": over_row(square(reconstruction), mask),
        "x_xhat": over_row(dot, mask),
        "cosine": over_row(ratio(dot, x_norm * out_norm), mask),
        "l2_ratio": over_row(ratio(out_norm, x_norm), mask),
    }
    if mean is not None:
        sums["legacy"] = over_row(ratio(error, square(x - jnp.broadcast_to(mean, x.shape))), mask)
    return sums
