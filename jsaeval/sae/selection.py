"""The k largest of what is split over devices, exactly, without a sort and without bringing it together.

Floats are mapped to unsigned integers of the same order, and the k-th largest of those is found bit by bit: for each
bit, every device counts how many of its own reach a candidate, and the counts are added. What travels is one count per
token and bit.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from jsaeval.mesh import MODEL, first_index, is_split, summed


def topk_mask(pre: Float[Array, "*batch latent"], k: int) -> Bool[Array, "*batch latent"]:
    """The k largest of each token over all devices; among equal ones at the edge, those of lowest index."""
    key = ordered(pre)
    edge = kth_largest(key, k, key.dtype.itemsize * 8)[..., None]
    above, level = key > edge, key == edge
    wanted = k - summed(jnp.sum(above, axis=-1, dtype=jnp.int32))
    n = pre.shape[-1] * (lax.axis_size(MODEL) if is_split(pre) else 1)
    index = first_index(pre, axis=-1) + lax.broadcasted_iota(jnp.int32, pre.shape, pre.ndim - 1)
    place = jnp.where(level, n - index, 0).astype(jnp.uint32)
    return above | (level & (place >= kth_largest(place, wanted, n.bit_length())[..., None]))


def ordered(x: Float[Array, "*batch"]) -> UInt[Array, "*batch"]:
    """Unsigned integers in the order of the floats."""
    x = x + jnp.zeros((), x.dtype)  # −0 is 0
    bits = lax.bitcast_convert_type(x, jnp.dtype(f"uint{x.dtype.itemsize * 8}"))
    top = jnp.asarray(1, bits.dtype) << jnp.asarray(x.dtype.itemsize * 8 - 1, bits.dtype)
    return jnp.where(bits & top != 0, ~bits, bits | top)


def kth_largest(key: UInt[Array, "*batch latent"], k: int | Int[Array, "*batch"], n_bits: int) -> UInt[Array, "*batch"]:
    """The k-th largest along the last axis, which may be split over devices; keys are below 2 ** n_bits."""

    def bit(i, edge):
        candidate = edge | (jnp.asarray(1, key.dtype) << (n_bits - 1 - i).astype(key.dtype))
        reached = summed(jnp.sum(key >= candidate[..., None], axis=-1, dtype=jnp.int32))
        return jnp.where(reached >= k, candidate, edge)

    nothing = summed(jnp.zeros_like(key[..., 0]))  # the same on every device, as the loop's result
    return lax.fori_loop(0, n_bits, bit, nothing)
