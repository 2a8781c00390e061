"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of Llama."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsaeval.lm.config import RopeScaling


def inverse_frequencies(d_head: int, theta: float, scaling: RopeScaling | None = None) -> Float[np.ndarray, " half"]:
    """Radians per position of each of the d_head / 2 planes, float64.

    With `scaling`, wavelengths longer than `original_context / low_freq_factor` are multiplied by `factor`, those
    shorter than `original_context / high_freq_factor` are kept, and those between are interpolated.
    """
    frequency = theta ** (-np.arange(0, d_head, 2, dtype=np.float64) / d_head)
    if scaling is None:
        return frequency
    turns = scaling.original_context * frequency / (2 * np.pi)
    keep = np.clip(
        (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor),
        0.0,
        1.0,
    )
    return keep * frequency + (1 - keep) * frequency / scaling.factor


def rotate(
    x: Float[Array, "row position head d_head"], frequency: Float[Array, " half"]
) -> Float[Array, "row position head d_head"]:
    """Turn plane (i, i + d_head / 2) of each head by `position * frequency[i]`; angles in float32 or better."""
    angle = jnp.arange(x.shape[1], dtype=frequency.dtype)[:, None] * frequency[None, :]
    cos, sin = (f(angle)[None, :, None, :].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
