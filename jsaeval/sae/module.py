"""The sparse autoencoder in one canonical form.

    u = N(x) − b_pre        z = act(u W_enc + b_enc)        x̂ = N⁻¹(z W_dec + b_dec) + x W_skip

Every on-disk format is brought into this form by its reader, so nothing after this file knows formats. `b_pre` is b_dec
for SAEs that centre their input with the decoder bias, another vector, or None. N is in `jsaeval.sae.normalise`. A
transcoder reads x at one hook and predicts the activation at another; some add an affine skip, `W_skip` (Dunefsky et
al. 2024, arXiv 2406.11944; Paulo et al. 2025, arXiv 2501.18823).
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from jsaeval.mesh import splits_by_name, summed
from jsaeval.sae import activations
from jsaeval.sae.normalise import InputNorm, normalise, restore


Activation = Literal["relu", "topk", "jumprelu", "batch_topk", "gated"]


_LAYER_NORM_LMS = (
    "gpt2",
    "gpt-2",
    "pythia",
    "gpt-neo",
    "gpt-j",
    "opt-",
    "tiny-stories",
    "tinystories",
    "gelu-",
    "solu-",
)


def has_layer_norm(lm: str | None) -> bool:
    """Whether an LM, as authors of SAEs call it, is of a family with layer norm; unknown ones are not."""
    return lm is not None and lm.rpartition("/")[2].lower().startswith(_LAYER_NORM_LMS)


@dataclass(frozen=True)
class SAECard:
    """What is known of an SAE besides its weights.

    It reads at `hook`, and what it gives stands for the activation at `hook_out`; None: at the same hook. `declared` is
    what its authors say of it, as JSON text; `l0` is the number of latents that they expect to fire. `why` is what in
    its file made the reader called `format` take it.
    """

    name: str = "SAE"
    hook: str | None = None
    lm: str | None = None
    source: str = ""
    format: str = ""
    sha256: str = ""
    declared: str = "{}"
    hook_out: str | None = None
    why: str = ""

    @property
    def hooks(self) -> str | None:
        """Where it reads and what it gives, in the form of `jsaeval.hooks.parse_hook`."""
        return self.hook if self.hook_out is None else f"{self.hook}:{self.hook_out}"


@splits_by_name
class SAE(eqx.Module):
    """A sparse autoencoder; a pytree of its weights.

    `threshold` belongs to jumprelu and to batch_topk, which at inference is a threshold, too; `k` to topk;
    `b_gate` and `r_mag` to gated, whose `b_enc` is the bias of the magnitudes.
    """

    W_enc: Float[Array, "d_in latent"]
    b_enc: Float[Array, " latent"]
    W_dec: Float[Array, "latent d_out"]
    b_dec: Float[Array, " d_out"]
    b_pre: Float[Array, " d_in"] | None = None
    threshold: Float[Array, " latent"] | None = None
    b_gate: Float[Array, " latent"] | None = None
    r_mag: Float[Array, " latent"] | None = None
    W_skip: Float[Array, "d_in d_out"] | None = None
    activation: Activation = eqx.field(static=True, default="relu")
    k: int | None = eqx.field(static=True, default=None)
    input_norm: InputNorm = eqx.field(static=True, default="none")
    card: SAECard = eqx.field(static=True, default=SAECard())

    def __check_init__(self):
        owners = {"k": ("topk",), "threshold": ("jumprelu", "batch_topk"), "b_gate": ("gated",), "r_mag": ("gated",)}
        for name, kinds in owners.items():
            if (self.activation in kinds) != (getattr(self, name) is not None):
                raise ValueError(f"{name} belongs to {' and '.join(kinds)}, which need it; this is {self.activation}")
        if self.k is not None and (isinstance(self.k, bool) or self.k not in range(1, self.d_sae + 1)):
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

    @property
    def architecture(self) -> str:
        return self.activation if self.k is None else f"{self.activation}-{self.k}"

    def encode(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch latent"]:
        """The latents z of activations x."""
        u = normalise(x, self.input_norm)
        if self.b_pre is not None:
            u -= jnp.broadcast_to(self.b_pre, u.shape)
        pre = u @ self.W_enc
        if self.b_gate is not None and self.r_mag is not None:
            return activations.gated(pre, self.b_gate, self.r_mag, self.b_enc)
        pre += jnp.broadcast_to(self.b_enc, pre.shape)
        if self.k is not None:
            return activations.topk(pre, self.k)
        if self.threshold is not None:
            return activations.jumprelu(pre, self.threshold)
        return activations.relu(pre)

    def decode(self, z: Float[Array, "*batch latent"], x: Array | None = None) -> Float[Array, "*batch d_out"]:
        """The reconstruction x̂ of latents z. With an input norm that depends on x, or with a skip, it needs x, too.

        Raises:
            ValueError: x is needed and not given.
        """
        y = summed(z @ self.W_dec)
        y = restore(y + jnp.broadcast_to(self.b_dec, y.shape), x, self.input_norm)
        if self.W_skip is None:
            return y
        if x is None:
            raise ValueError("an SAE with an affine skip adds x W_skip to what it decodes; give decode(z, x)")
        return y + x.astype(y.dtype) @ self.W_skip

    def renamed(self, name: str | None) -> "SAE":
        """The same SAE with another name on its card, if one is given."""
        return self if name is None else dataclasses.replace(self, card=dataclasses.replace(self.card, name=name))

    def astype(self, dtype: DTypeLike) -> "SAE":
        """The same SAE with its weights in another dtype."""
        return jax.tree.map(lambda w: w.astype(dtype), self)

    def with_scale(self, mean_norm: Float[Array, ""] | float) -> "SAE":
        """An `expected_average` SAE with its scale folded into the weights; any other SAE unchanged.

        x · s with s = sqrt(d_in) / E‖x‖ goes into the encoder, and out of decoder and biases, so that the SAE reads x
        as it is and its latents keep their values. A skip is in units of x already.

        Args:
            mean_norm: E‖x‖ over the tokens the SAE is for.
        """
        if self.input_norm != "expected_average":
            return self
        scale = self.d_in**0.5 / mean_norm
        return dataclasses.replace(
            self,
            W_enc=self.W_enc * scale,
            W_dec=self.W_dec / scale,
            b_dec=self.b_dec / scale,
            b_pre=None if self.b_pre is None else self.b_pre / scale,
            input_norm="none",
        )

    def with_centred_input(self) -> "SAE":
        """An SAE of activations without a mean over their width, for activations with one; exact.

        TransformerLens centres what a layer-norm LM writes to its residual stream, which no later block can see. Such
        an SAE gets x − mean(x) here, by its encoder, and the mean passes by, as an affine skip. One with layer norm
        does that by itself.

        Raises:
            ValueError: it normalises its input otherwise, is a transcoder, or has a skip already.
        """
        if self.input_norm == "layer_norm":
            return self
        if self.input_norm != "none" or self.card.hook_out is not None or self.W_skip is not None:
            raise ValueError("only an SAE without input norm, second hook and skip can get its input centred")
        shift = jnp.zeros(()) if self.b_pre is None else self.b_pre @ self.W_enc
        scaled = shift if self.r_mag is None else shift * jnp.exp(self.r_mag)
        return dataclasses.replace(
            self,
            W_enc=self.W_enc - jnp.mean(self.W_enc, axis=0, keepdims=True),
            b_enc=self.b_enc - scaled,
            b_gate=None if self.b_gate is None else self.b_gate - shift,
            b_pre=None,
            W_skip=jnp.full((self.d_in, self.d_in), 1 / self.d_in, self.W_dec.dtype),
        )

    def with_unit_decoder(self) -> "SAE":
        """The decoder's norms folded into the latents: rows of W_dec are unit vectors, x̂ is the same.

        Not the same selection for topk, which compares latents with each other.
        """
        norm = jnp.linalg.norm(self.W_dec, axis=-1)
        norm = jnp.where(norm > 0, norm, jnp.ones_like(norm))
        return dataclasses.replace(
            self,
            W_enc=self.W_enc * norm[None],
            b_enc=self.b_enc * norm,
            W_dec=self.W_dec / norm[:, None],
            threshold=None if self.threshold is None else self.threshold * norm,
            b_gate=None if self.b_gate is None else self.b_gate * norm,
        )
