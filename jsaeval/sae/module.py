"""The sparse autoencoder in one canonical form.

    u = x − b_pre        z = act(u W_enc + b_enc)        x̂ = z W_dec + b_dec

Every on-disk format is brought into this form by its reader, so nothing after this file knows formats. `b_pre` is b_dec
for SAEs that centre their input with the decoder bias, another vector, or None.
"""

from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from jsaeval.sae import activations


Activation = Literal["relu", "topk", "jumprelu"]


@dataclass(frozen=True)
class SAECard:
    """What is known of an SAE besides its weights.

    `declared` is what its authors say of it (training data, expected L0, ...), as JSON text.
    """

    name: str = "SAE"
    hook: str | None = None
    lm: str | None = None
    source: str = ""
    format: str = ""
    sha256: str = ""
    declared: str = "{}"


class SAE(eqx.Module):
    """A sparse autoencoder; a pytree of its weights."""

    W_enc: Float[Array, "d_in latent"]
    b_enc: Float[Array, " latent"]
    W_dec: Float[Array, "latent d_out"]
    b_dec: Float[Array, " d_out"]
    b_pre: Float[Array, " d_in"] | None = None
    threshold: Float[Array, " latent"] | None = None
    activation: Activation = eqx.field(static=True, default="relu")
    k: int | None = eqx.field(static=True, default=None)
    card: SAECard = eqx.field(static=True, default=SAECard())

    def __check_init__(self):
        if (self.activation == "topk") != (self.k is not None):
            raise ValueError("k belongs to topk, and topk needs k")
        if (self.activation == "jumprelu") != (self.threshold is not None):
            raise ValueError("threshold belongs to jumprelu, and jumprelu needs threshold")
        if self.k is not None and not 1 <= self.k <= self.d_sae:
            raise ValueError(f"k = {self.k} is not in 1..{self.d_sae}")

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1]

    def encode(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch latent"]:
        """The latents z of activations x."""
        centred = x if self.b_pre is None else x - jnp.broadcast_to(self.b_pre, x.shape)
        pre = centred @ self.W_enc
        pre += jnp.broadcast_to(self.b_enc, pre.shape)
        if self.k is not None:
            return activations.topk(pre, self.k)
        if self.threshold is not None:
            return activations.jumprelu(pre, self.threshold)
        return activations.relu(pre)

    def decode(self, z: Float[Array, "*batch latent"]) -> Float[Array, "*batch d_out"]:
        """The reconstruction x̂ of latents z."""
        out = z @ self.W_dec
        return out + jnp.broadcast_to(self.b_dec, out.shape)

    def astype(self, dtype: DTypeLike) -> "SAE":
        """The same SAE with its weights in another dtype."""
        return jax.tree.map(lambda w: w.astype(dtype), self)
