"""Controls: what a number is worth. Streams that a trained SAE must beat, and one that must change nothing.

Of a run: `mean` replaces x by the calibrated mean, a fairer baseline than zero. `identity` replaces it by x̂ + (x − x̂),
which must change nothing: that proves the splice. Its x̂ is the nearest to x of all SAEs.

Of each SAE: `random_error` is x plus an error of the SAE's size in a random direction (Gurnee 2024): is the SAE's error
worse than noise? `random_sae` is a random dictionary with as many active latents: what does sparsity alone give?
`permuted_decoder` sends the SAE's latents through its decoder rows in random order: does it matter which latent fires?
`pca` keeps as many principal components as latents fire: what does a dense code of that size give?

Those of a transcoder, which reads another activation than x, are the same: its random SAE and its PCA read x itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jsaeval.forward.sums import square
from jsaeval.numerics import wide
from jsaeval.sae.module import SAE


RUN_CONTROLS = ("mean", "identity")
SAE_CONTROLS = ("random_error", "random_sae", "permuted_decoder", "pca")


class Controls(NamedTuple):
    """What calibration fixed. One entry per SAE in each tuple.

    `shuffled`: the SAE with the rows of its decoder in random order; `components`: orthonormal rows.
    """

    seed: Int[Array, ""]
    mean: Float[Array, " width"]
    random_saes: tuple[SAE, ...]
    shuffled: tuple[SAE, ...]
    components: tuple[Float[Array, "component width"], ...]


class Code(NamedTuple):
    """Latents, and the SAE that they belong to."""

    sae: SAE
    z: Float[Array, "row position latent"]


class Replacement(NamedTuple):
    """What stands in for x in one stream, and the code it came from if there is one."""

    reconstruction: Float[Array, "row position width"]
    code: Code | None = None


def control_names(n_saes: int) -> list[tuple[str, int]]:
    """(control, index of its SAE) of the control streams, in the order of `control_replacements`; -1: of the run."""
    return [(name, -1) for name in RUN_CONTROLS] + [(name, i) for i in range(n_saes) for name in SAE_CONTROLS]


def control_replacements(
    controls: Controls,
    read: Float[Array, "row position read"],
    x: Float[Array, "row position width"],
    saes: list[Replacement],
    row_ids: Int[Array, " row"],
) -> list[Replacement]:
    """The control streams of a batch.

    Args:
        controls: what calibration fixed.
        read: what the SAEs read; x itself but for transcoders.
        x: the activation at the hook, which they reconstruct.
        saes: the replacements by the SAEs themselves.
        row_ids: the number of each row in the run; random draws are keyed by it, never by batch.
    """
    mean = jnp.broadcast_to(controls.mean.astype(x.dtype), x.shape)
    near = nearest(wide(x), [wide(sae.reconstruction) for sae in saes])  # in bfloat16 the sum would not be x
    out = [Replacement(mean), Replacement((near + (wide(x) - near)).astype(x.dtype))]
    direction = random_directions(controls.seed, row_ids, x.shape[1], x.shape[2])
    for i, (reconstruction, code) in enumerate(saes):
        assert code is not None
        z = code.z
        error = jnp.sqrt(square(wide(x) - wide(reconstruction)))[..., None] * direction
        random = controls.random_saes[i]
        random_z = random.encode(wide(x))
        components = controls.components[i].astype(x.dtype)
        out += [
            Replacement((wide(x) + error).astype(x.dtype)),
            Replacement(random.decode(random_z), Code(random, random_z)),
            Replacement(controls.shuffled[i].decode(z, read)),
            Replacement(mean + (x - mean) @ components.T @ components),
        ]
    return out


def nearest(x: Float[Array, "row position width"], candidates: list[Array]) -> Float[Array, "row position width"]:
    """Token by token the candidate nearest to x, or 0 where 0 is nearer. One that is NaN or Inf is never chosen."""
    best, least = jnp.zeros_like(x), square(x)
    for candidate in candidates:
        error = square(x - candidate)
        closer = error < least
        best, least = jnp.where(closer[..., None], candidate, best), jnp.where(closer, error, least)
    return best


def random_directions(
    seed: Int[Array, ""], row_ids: Int[Array, " row"], positions: int, width: int
) -> Float[Array, "row position width"]:
    """A unit vector for every token, keyed by (seed, row, position)."""
    key = jax.random.key(seed)

    def at(row, position):
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, row), position), (width,))

    over_positions = jax.vmap(at, in_axes=(None, 0))
    drawn = jax.vmap(over_positions, in_axes=(0, None))(row_ids, jnp.arange(positions, dtype=jnp.int32))
    return drawn / jnp.linalg.norm(drawn, axis=-1, keepdims=True)


def random_sae(
    seed: int, d_sae: int, l0: Float[Array, ""], mean: Float[Array, " width"], sample: Float[Array, "token width"]
) -> SAE:
    """A dictionary of random unit vectors, tied, with one threshold that makes `l0` latents fire on average.

    It gets every help that costs no learning: it centres with the calibrated mean, and its decoder is scaled by the one
    factor that minimises its error on the sample. (An unscaled one would be easier to beat.)

    Args:
        seed: of the directions, with d_sae.
        d_sae: number of latents.
        l0: mean number of active latents on the sample.
        mean: of x.
        sample: activations that fix threshold and scale.
    """
    directions = jax.random.normal(jax.random.fold_in(jax.random.key(seed), d_sae), (d_sae, mean.shape[0]))
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    deviation = sample - jnp.broadcast_to(mean, sample.shape)
    pre = deviation @ directions.T
    share = jnp.clip(l0 / d_sae, 0.0, 1.0)
    threshold = jnp.maximum(jnp.quantile(pre, 1.0 - share), 0.0)
    z = jnp.where(pre > threshold, pre, 0.0)
    out = z @ directions
    scale = jnp.sum(out * deviation) / jnp.maximum(jnp.sum(jnp.square(out)), jnp.finfo(out.dtype).tiny)
    return SAE(
        W_enc=directions.T,
        b_enc=jnp.zeros(d_sae),
        W_dec=scale * directions,
        b_dec=mean,
        b_pre=mean,
        threshold=jnp.full(d_sae, threshold),
        activation="jumprelu",
    )
