"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of Llama."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsaeval.lm.config import LinearRope, Llama3Rope, RopeScaling, YarnRope


def inverse_frequencies(dims: int, theta: float, scaling: RopeScaling | None = None) -> Float[np.ndarray, " half"]:
    """Radians per position of each of the dims / 2 planes, float64; what `scaling` does is said at its class."""
    frequency = theta ** (-np.arange(0, dims, 2, dtype=np.float64) / max(dims, 1))
    if scaling is None:
        return frequency
    kept = _kept(scaling, dims, theta, frequency)
    return kept * frequency + (1 - kept) * frequency / scaling.factor


def _kept(
    scaling: RopeScaling, dims: int, theta: float, frequency: Float[np.ndarray, " half"]
) -> Float[np.ndarray, " half"]:
    """The share of each plane's frequency that is not stretched."""
    if isinstance(scaling, LinearRope):
        return np.zeros_like(frequency)
    if isinstance(scaling, Llama3Rope):
        turns = scaling.original_context * frequency / (2 * np.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        return np.clip((turns - low) / (high - low), 0.0, 1.0)
    first, last = (_plane(scaling, turns, dims, theta) for turns in (scaling.beta_fast, scaling.beta_slow))
    if scaling.truncate:
        first, last = np.floor(first), np.ceil(last)
    first, last = max(first, 0.0), min(last, dims - 1.0)
    return 1 - np.clip((np.arange(dims // 2) - first) / (last - first if last != first else 1e-3), 0.0, 1.0)


def _plane(scaling: YarnRope, turns: float, dims: int, theta: float) -> float:
    """The plane, in general not a whole number, that turns so often in the original context."""
    return dims * np.log(scaling.original_context / (turns * 2 * np.pi)) / (2 * np.log(theta))


def rotate(
    x: Float[Array, "row position head d_head"], frequency: Float[Array, " half"], factor: float = 1.0
) -> Float[Array, "row position head d_head"]:
    """Turn plane (i, i + half) of each head by `position * frequency[i]`; angles in float32 or better.

    Rotated dimensions are multiplied by `factor` (of `YarnRope`); those from 2 * half on stay as they are.
    """
    half = frequency.shape[0]
    if not half:
        return x
    angle = jnp.arange(x.shape[1], dtype=frequency.dtype)[:, None] * frequency[None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if factor != 1.0:
        cos, sin = cos * factor, sin * factor
    cos, sin = (turn[None, :, None, :].astype(x.dtype) for turn in (cos, sin))
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
