"""The latents whose decoder rows point most nearly where a latent's own does."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int


_COSINES_AT_ONCE = 2**24


class Neighbours(NamedTuple):
    """By latent: the nearest others, nearest first, and their cosines."""

    latents: Int[np.ndarray, "latent rank"]
    cosines: Float[np.ndarray, "latent rank"]


def decoder_neighbours(
    W_dec: Float[Array, "dictionary d_out"], latents: Int[np.ndarray, " latent"], n: int = 10, chunk: int | None = None
) -> Neighbours:
    """Nearest latents by the cosine of decoder rows. A row of zeros has the cosine 0 with every other.

    Args:
        W_dec: the decoder.
        latents: whose neighbours.
        n: how many; all others if there are fewer.
        chunk: latents at once; there is never an array of all cosines. Default: some 2^24 cosines.
    """
    d_sae = len(W_dec)
    n, chunk = min(n, d_sae - 1), chunk or max(1, min(len(latents), _COSINES_AT_ONCE // d_sae))

    @jax.jit
    def run(W_dec, own):
        norm = jnp.linalg.norm(W_dec, axis=1, keepdims=True)
        unit = W_dec / jnp.where(norm > 0, norm, jnp.ones_like(norm))
        cosines = jnp.einsum("ld,sd->ls", unit[own], unit, precision="highest")
        return lax.top_k(cosines.at[jnp.arange(len(own)), own].set(-jnp.inf), n)

    found = []
    for first in range(0, len(latents), chunk):
        own = np.asarray(latents[first : first + chunk], np.int32)
        cosines, ids = run(W_dec.astype(jnp.float32), np.pad(own, (0, chunk - len(own))))
        found.append((np.asarray(ids)[: len(own)], np.asarray(cosines)[: len(own)]))
    empty = (np.zeros((0, n), np.int32), np.zeros((0, n), np.float32))
    return Neighbours(*(np.concatenate(own) for own in zip(*(found or [empty]), strict=True)))
