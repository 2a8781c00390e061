"""Per-latent counters: the only thing as long as the dictionary that is kept between batches."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jsaeval.numerics import wide


class LatentCounts(NamedTuple):
    """Over the counted tokens, for each latent: how often it fired (z ≠ 0), in how many rows it fired at all, the sum
    of z, and the largest z."""

    fires: Int[Array, " latent"]
    rows: Int[Array, " latent"]
    total: Float[Array, " latent"]
    largest: Float[Array, " latent"]


def count_latents(z: Float[Array, "row position latent"], mask: Bool[Array, "row position"]) -> LatentCounts:
    """Counters of one batch."""
    z = jnp.where(mask[..., None], wide(z), jnp.zeros((), wide(z).dtype))
    fires = jnp.sum(z != 0, axis=1, dtype=jnp.int32)
    return LatentCounts(
        fires=jnp.sum(fires, axis=0),
        rows=jnp.sum(fires > 0, axis=0, dtype=jnp.int32),
        total=jnp.sum(z, axis=(0, 1)),
        largest=jnp.max(z, axis=(0, 1)),
    )


def merge_counts(a: LatentCounts, b: LatentCounts) -> LatentCounts:
    """Counters of two disjoint sets of rows."""
    return LatentCounts(a.fires + b.fires, a.rows + b.rows, a.total + b.total, jnp.maximum(a.largest, b.largest))


def all_devices(counts: LatentCounts, axis: str) -> LatentCounts:
    """Merge over a mesh axis, inside a mapped function."""
    fires, rows, total = (lax.psum(value, axis) for value in (counts.fires, counts.rows, counts.total))
    return LatentCounts(fires, rows, total, lax.pmax(counts.largest, axis))


def first_latents(counts: LatentCounts, n: int) -> LatentCounts:
    """Without those that only fill up the devices."""
    return LatentCounts(*(value[:n] for value in counts))


def no_counts(d_sae: int) -> LatentCounts:
    """The neutral element of `merge_counts` for non-negative latents."""
    return LatentCounts(*(jnp.zeros((d_sae,), dtype) for dtype in (jnp.int32, jnp.int32, jnp.float32, jnp.float32)))
