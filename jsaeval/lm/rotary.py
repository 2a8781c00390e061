"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of Llama."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsaeval.lm.config import RopeScaling


def inverse_frequencies(dims: int, theta: float, scaling: RopeScaling | None = None) -> Float[np.ndarray, " half"]:
    """Radians per position of each of the dims / 2 planes, float64.

    With `scaling`, wavelengths longer than `original_context / low_freq_factor` are multiplied by `factor`, those
    shorter than `original_context / high_freq_factor` are kept, and those between are interpolated.
    """
    frequency = theta ** (-np.arange(0, dims, 2, dtype=np.float64) / max(dims, 1))
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
    """Turn plane (i, i + half) of each head by `position * frequency[i]`; angles in float32 or better.

    Dimensions from 2 * half on stay as they are.
    """
    half = frequency.shape[0]
    if not half:
        return x
    angle = jnp.arange(x.shape[1], dtype=frequency.dtype)[:, None] * frequency[None, :]
    cos, sin = (f(angle)[None, :, None, :].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
