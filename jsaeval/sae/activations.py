"""Activation functions of sparse autoencoders: pure functions from pre-activations to latents."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jsaeval.mesh import is_split
from jsaeval.sae.selection import topk_mask


def relu(pre: Float[Array, "*batch latent"]) -> Float[Array, "*batch latent"]:
    """max(pre, 0)."""
    return jax.nn.relu(pre)


def topk(pre: Float[Array, "*batch latent"], k: int) -> Float[Array, "*batch latent"]:
    """Keep the k largest pre-activations of each token, then relu, so that L0 <= k.

    Gao et al. 2024 (arXiv 2406.04093, §2.3). Among equal values at the edge, those with the lowest index are kept, in
    the order of `lax.top_k`.
    """
    if is_split(pre):
        return jnp.where(topk_mask(lax.stop_gradient(pre), k), jax.nn.relu(pre), jnp.zeros((), pre.dtype))
    # Without barriers XLA sees that only the last value is used and sorts everything: 20 times slower on a CPU. One
    # barrier around both would do, but crashes the compiler of jaxlib 0.10 where the program is partitioned.
    values, indices = map(lax.optimization_barrier, lax.top_k(lax.stop_gradient(pre), k))
    edge, last = values[..., -1:], indices[..., -1:]
    index = lax.broadcasted_iota(indices.dtype, pre.shape, pre.ndim - 1)
    kept = (pre > edge) | ((pre == edge) & (index <= last))
    return jnp.where(kept, jax.nn.relu(pre), jnp.zeros((), pre.dtype))


def jumprelu(pre: Float[Array, "*batch latent"], threshold: Float[Array, " latent"]) -> Float[Array, "*batch latent"]:
    """relu(pre) where pre > threshold (strict), else 0 (Rajamanoharan et al. 2024, arXiv 2407.14435)."""
    open_ = pre > jnp.broadcast_to(threshold, pre.shape)
    return jnp.where(open_, jax.nn.relu(pre), jnp.zeros((), pre.dtype))


def gated(
    pre: Float[Array, "*batch latent"],
    b_gate: Float[Array, " latent"],
    r_mag: Float[Array, " latent"],
    b_mag: Float[Array, " latent"],
) -> Float[Array, "*batch latent"]:
    """relu(pre · exp(r_mag) + b_mag) where pre + b_gate > 0, else 0; `pre` has no bias yet.

    Rajamanoharan et al. 2024 (arXiv 2404.16014): the magnitude encoder is the gate's, scaled per latent.
    """
    b_gate, r_mag, b_mag = (jnp.broadcast_to(v, pre.shape) for v in (b_gate, r_mag, b_mag))
    magnitude = jax.nn.relu(pre * jnp.exp(r_mag) + b_mag)
    return jnp.where(pre + b_gate > 0, magnitude, jnp.zeros((), pre.dtype))
