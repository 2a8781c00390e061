"""Input normalisation of SAEs: what is done to an activation before encoding, and undone after decoding.

`constant_norm`: every activation is scaled to norm sqrt(d). `layer_norm`: zero mean and unit standard deviation over
the width, as OpenAI and SAELens do it: the deviation is the unbiased one (ddof 1); 1e-5 is added to it, not to the
variance, and only on the way in. `expected_average`: one fixed scale that makes the *average* norm sqrt(d). It is part
of the SAE but often not stored with it, see `SAE.with_scale`.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jsaeval.numerics import wide


InputNorm = Literal["none", "constant_norm", "layer_norm", "expected_average"]


def normalise(x: Float[Array, "*batch d_in"], kind: InputNorm) -> Float[Array, "*batch d_in"]:
    """The activation as the encoder wants it."""
    if kind == "none":
        return x
    shift, size = _shift_and_size(x, kind)
    return ((wide(x) - shift) / (size + 1e-5 if kind == "layer_norm" else size)).astype(x.dtype)


def restore(y: Float[Array, "*batch d_out"], x: Array | None, kind: InputNorm) -> Float[Array, "*batch d_out"]:
    """A decoded activation in the units of x.

    Raises:
        ValueError: the normalisation depends on x, which is not given.
    """
    if kind == "none":
        return y
    if x is None:
        raise ValueError(f"an SAE with {kind} normalisation decodes in the units of x; give decode(z, x)")
    shift, size = _shift_and_size(x, kind)
    return (wide(y) * size + shift).astype(y.dtype)


def _shift_and_size(x, kind):
    x = wide(x)
    if kind == "constant_norm":
        norm = jnp.linalg.norm(x, axis=-1, keepdims=True) / x.shape[-1] ** 0.5
        return jnp.zeros_like(norm), jnp.where(norm > 0, norm, jnp.ones_like(norm))
    if kind == "layer_norm":
        return jnp.mean(x, axis=-1, keepdims=True), jnp.std(x, axis=-1, keepdims=True, ddof=1)
    raise ValueError("the scale of this SAE is not known yet: SAE.with_scale sets it from the mean norm of x")
