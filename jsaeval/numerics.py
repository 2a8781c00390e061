"""One rule of numerics: what is summed, normalised or exponentiated is float32 or better, whatever the LM's dtype."""

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """float32, or the floating dtype itself where it is wider."""
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def wide(x: Array) -> Array:
    """`x` in float32 or better."""
    return x.astype(wide_dtype(x.dtype))
