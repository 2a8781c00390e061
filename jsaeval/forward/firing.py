"""The latents of a batch that fire, token by token: what is not 0 of something of size latents × tokens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from jsaeval.mesh import first_index, own_part
from jsaeval.numerics import wide


_WORD = 32  # latents whose bits are packed together


class Firing(NamedTuple):
    """The latents that fire in each row, in the order of position, then latent.

    `count`: how many there are, whether or not they fit; of every device of the model axis one column, followed in the
    others by its slots. Slots from `count` on hold nothing that means anything.
    """

    count: Int[Array, "row device"]
    position: Int[Array, "row slot"]
    latent: Int[Array, "row slot"]
    value: Float[Array, "row slot"]


def firing(
    z: Float[Array, "row position latent"],
    mask: Bool[Array, "row position"],
    chosen: Bool[Array, " all_latents"],
    capacity: int,
) -> Firing:
    """The latents that fire (z ≠ 0) at counted tokens, out of those that are chosen.

    Args:
        z: latents; inside a mapped function those of this device.
        mask: which tokens count.
        chosen: which latents, of the whole dictionary.
        capacity: slots of a row; where there are more, the rest is left out, and `count` says so.
    """
    n_latents = z.shape[-1]
    chosen = own_part(chosen, jnp.moveaxis(z, -1, 0), 0)
    fires = (z != 0) & mask[..., None] & jnp.broadcast_to(chosen, z.shape)
    # The slots look for their latents by the number of bits before each word: a scatter of all latents to their slots
    # would write once for every 0, too, which on a CPU takes longer than the LM.
    words, per_token = _packed(fires)
    bits = lax.population_count(words).astype(jnp.int32)
    ends = jnp.cumsum(bits, axis=1)
    slots = jnp.arange(capacity, dtype=jnp.int32)
    word = jax.vmap(lambda own: jnp.searchsorted(own, slots, side="right"))(ends).astype(jnp.int32)
    word = jnp.minimum(word, words.shape[1] - 1)

    def at(table: Array) -> Array:
        return jnp.take_along_axis(table, word, axis=1)

    bit = _nth_bit(at(words), slots[None] - (at(ends) - at(bits)))
    position, latent = word // per_token, jnp.minimum(word % per_token * _WORD + bit, n_latents - 1)
    value = wide(z[jnp.arange(len(z))[:, None], position, latent])
    return Firing(ends[:, -1:], position, latent + first_index(z, 2), value)


def _packed(bits: Bool[Array, "row position latent"]) -> tuple[UInt[Array, "row word"], int]:
    """Bits as words of 32, and how many words a token has."""
    row, position, latent = bits.shape
    per_token = -(-latent // _WORD)
    bits = jnp.pad(bits, ((0, 0), (0, 0), (0, per_token * _WORD - latent)))
    bits = bits.reshape(row, position * per_token, _WORD).astype(jnp.uint32)
    shifts = jnp.broadcast_to(jnp.arange(_WORD, dtype=jnp.uint32), bits.shape)
    return jnp.sum(bits << shifts, axis=-1, dtype=jnp.uint32), per_token


def _nth_bit(word: UInt[Array, "row slot"], n: Int[Array, "row slot"]) -> Int[Array, "row slot"]:
    """Where the bit of a word is that has n set bits below it and is set itself."""
    at = jnp.zeros_like(n)
    for width in (16, 8, 4, 2, 1):
        below = lax.population_count(word & jnp.uint32((1 << width) - 1)).astype(n.dtype)
        beyond = n >= below
        n = jnp.where(beyond, n - below, n)
        word = jnp.where(beyond, word >> jnp.uint32(width), word)
        at = jnp.where(beyond, at + width, at)
    return at
