"""SAEs in training: their weights, what each architecture adds to the loss, and the `jsaeval.SAE` they become.

Training happens in units where the activation has an average norm of sqrt(d): x · `scale`. Decoder rows are unit
vectors, kept so after every step, so an L1 penalty cannot be dodged by small latents with a large decoder.
Everything here is about one SAE; the trainer maps it over many.
"""

import dataclasses
import itertools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.training import sparsify
from experiments.training.recipe import Recipe
from jsaeval.forward.sums import square
from jsaeval.sae.module import SAE


# In units of the scaled activation. Bandwidth and first threshold of jumprelu.
BANDWIDTH, FIRST_THRESHOLD = 0.1, 0.1
# Share of the latents in each nested dictionary of matryoshka.
NESTED = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
# The threshold of batch_topk is averaged over about so many steps.
MEMORY = 50
# How many dead latents are asked to explain what is left over (Gao et al. 2024, §2.4).
AUX_K = 128


class Dictionary(eqx.Module):
    """Weights of one SAE, in scaled units. `log_threshold`: jumprelu. `b_gate`, `r_mag`: gated."""

    W_enc: Float[Array, "d_in latent"]
    b_enc: Float[Array, " latent"]
    W_dec: Float[Array, "latent d_in"]
    b_dec: Float[Array, " d_in"]
    log_threshold: Float[Array, " latent"] | None = None
    b_gate: Float[Array, " latent"] | None = None
    r_mag: Float[Array, " latent"] | None = None

    @property
    def threshold(self) -> Array:
        """Of jumprelu."""
        assert self.log_threshold is not None
        return jnp.exp(self.log_threshold)


class Coded(NamedTuple):
    """What encoding leaves.

    `z`: latents. `penalty`: what the architecture's λ multiplies, a mean over tokens, in scaled units. `extra`: an
    auxiliary loss, in scaled units squared. `threshold`: of batch_topk in this batch, else 0.
    """

    z: Float[Array, "row position latent"]
    penalty: Float[Array, ""]
    extra: Float[Array, ""]
    threshold: Float[Array, ""]


def initial(recipe: Recipe, mean: Float[np.ndarray, " d_in"]) -> Dictionary:
    """Random unit decoder rows, the encoder their transpose, the bias at the mean activation."""
    d, m = len(mean), recipe.width
    rows = np.random.default_rng(recipe.seed).standard_normal((m, d)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    zeros = jnp.zeros(m)
    gated, jump = recipe.architecture == "gated", recipe.architecture == "jumprelu"
    return Dictionary(
        W_enc=jnp.asarray(rows.T.copy()),
        b_enc=zeros,
        W_dec=jnp.asarray(rows),
        b_dec=jnp.asarray(mean, jnp.float32),
        log_threshold=jnp.full(m, np.log(FIRST_THRESHOLD), jnp.float32) if jump else None,
        b_gate=zeros if gated else None,
        r_mag=zeros if gated else None,
    )


def encode(
    p: Dictionary,
    recipe: Recipe,
    sparsity: Float[Array, ""],
    x: Float[Array, "row position d_in"],
    mask: Bool[Array, "row position"],
) -> Coded:
    """Latents of scaled activations, as in training."""
    zero = jnp.zeros(())
    pre = (x - p.b_dec) @ p.W_enc
    if p.b_gate is not None and p.r_mag is not None:
        gate = jax.nn.relu(pre + p.b_gate)
        z = jnp.where(gate > 0, jax.nn.relu(pre * jnp.exp(p.r_mag) + p.b_enc), 0.0)
        # The gate's own reconstruction, through a decoder that does not learn from it (arXiv 2404.16014, eq. 8).
        through = gate @ jax.lax.stop_gradient(p.W_dec) + jax.lax.stop_gradient(p.b_dec)
        return Coded(z, mean_over(gate.sum(-1), mask), mean_over(square(x - through), mask), zero)
    pre += p.b_enc
    match recipe.architecture:
        case "relu":
            z = jax.nn.relu(pre)
            return Coded(z, mean_over(z.sum(-1), mask), zero, zero)
        case "jumprelu":
            z: Array = sparsify.jumprelu(pre, p.threshold, BANDWIDTH)
            fires: Array = sparsify.step(pre, p.threshold, BANDWIDTH)
            return Coded(z, mean_over(fires.sum(-1), mask), zero, zero)
        case "topk":
            return Coded(sparsify.topk(pre, sparsity, int(max(recipe.sparsity))), zero, zero, zero)
    z, threshold = sparsify.batch_topk(pre, sparsity, mask)
    return Coded(z, zero, zero, threshold)


def decode(p: Dictionary, z: Float[Array, "... latent"]) -> Float[Array, "... d_in"]:
    return z @ p.W_dec + p.b_dec


def squared_error(
    p: Dictionary, recipe: Recipe, z: Float[Array, "row position latent"], x: Float[Array, "row position d_in"]
) -> tuple[Float[Array, "row position"], Float[Array, "row position"]]:
    """‖x − x̂‖² of each token, and what is trained on: that, or for matryoshka its mean over nested dictionaries."""
    if recipe.architecture != "matryoshka":
        error = square(x - decode(p, z))
        return error, error
    edges = [0, *(max(1, int(share * recipe.width)) for share in NESTED)]
    reconstruction, total = jnp.broadcast_to(p.b_dec, x.shape), jnp.zeros(x.shape[:-1])
    error = total
    for a, b in itertools.pairwise(edges):
        reconstruction += z[..., a:b] @ p.W_dec[a:b]
        error = square(x - reconstruction)
        total += error
    return error, total / len(NESTED)


def revive(
    p: Dictionary,
    z: Float[Array, "row position latent"],
    x: Float[Array, "row position d_in"],
    mask: Bool[Array, "row position"],
    dead: Bool[Array, " latent"],
) -> Float[Array, ""]:
    """How badly the dead latents explain what the live ones leave over, as a share of it (Gao et al. 2024, §2.4)."""
    rest = jax.lax.stop_gradient(x - decode(p, z))
    pre = (x - jax.lax.stop_gradient(p.b_dec)) @ p.W_enc + p.b_enc
    best = sparsify.topk(jnp.where(dead, pre, -1e9), jnp.asarray(AUX_K), min(AUX_K, p.W_enc.shape[1]))
    share = mean_over(square(rest - best @ p.W_dec), mask) / mean_over(square(rest), mask)
    return jnp.where(dead.any() & jnp.isfinite(share), share, 0.0)


def unit_rows(p: Dictionary) -> Dictionary:
    """The decoder's rows as unit vectors."""
    return dataclasses.replace(p, W_dec=p.W_dec / jnp.linalg.norm(p.W_dec, axis=-1, keepdims=True))


def export(p: Dictionary, recipe: Recipe, sparsity: float, threshold: float, scale: float) -> SAE:
    """The SAE in the units of the LM: latents too are in units of x."""
    b_dec, b_enc = p.b_dec / scale, p.b_enc / scale
    shared: Any = {"W_enc": p.W_enc, "b_enc": b_enc, "W_dec": p.W_dec, "b_dec": b_dec, "b_pre": b_dec}
    match recipe.architecture:
        case "topk":
            return SAE(**shared, activation="topk", k=int(sparsity))
        case "relu":
            return SAE(**shared, activation="relu")
        case "jumprelu":
            return SAE(**shared, activation="jumprelu", threshold=p.threshold / scale)
        case "gated":
            assert p.b_gate is not None
            return SAE(**shared, activation="gated", b_gate=p.b_gate / scale, r_mag=p.r_mag)
    return SAE(**shared, activation="batch_topk", threshold=jnp.full(p.b_enc.shape, threshold / scale))


def mean_over(values: Float[Array, "row position"], mask: Bool[Array, "row position"]) -> Float[Array, ""]:
    """Mean over the masked tokens."""
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.sum(mask)


def fired(z: Float[Array, "row position latent"], mask: Bool[Array, "row position"]) -> Int[Array, " latent"]:
    """On how many masked tokens each latent fired."""
    return jnp.sum((z != 0) & mask[..., None], axis=(0, 1))
