"""The floors that are other dictionaries at the same hook: a random SAE, and the coordinates of the activation itself.

A latent of a trained SAE has to be explained better than one of these, which fire as often and never learned anything.
They go through the same pass, explainers, simulators and scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jsaeval.corpus.masks import Masks
from jsaeval.corpus.rows import Rows
from jsaeval.errors import InputError
from jsaeval.forward.controls import random_sae
from jsaeval.forward.splice import prefix, read_at_hook
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import make_mesh, map_rows, on_host, replicate
from jsaeval.numerics import wide
from jsaeval.run.batches import Batches, default_batch
from jsaeval.run.placed import Model
from jsaeval.sae.module import SAE


SAMPLE_TOKENS = 2048
RANDOM, NEURONS, DIRECTIONS = "random_sae", "neurons", "random_directions"


@dataclass(frozen=True)
class Sample:
    """What SAEs read at the counted tokens of the leading rows, and E‖·‖ of it."""

    read: Float[np.ndarray, "token d_in"]
    mean_norm: float


def leading_sample(
    lm: HostLM, hook: Hook, rows: Rows, masks: Masks, *, mesh: Mesh | None = None, precision: str = "highest"
) -> Sample:
    """The sample that fixes scales and thresholds: the first `SAMPLE_TOKENS` counted tokens, or all if there are fewer.

    Args:
        lm: the language model.
        hook: where SAEs read.
        rows: the corpus.
        masks: `metric` says which tokens count.
        mesh: devices; default all.
        precision: of matrix products.

    Raises:
        InputError: no token counts, or the LM gives NaN or Inf at the hook.
    """
    mesh = make_mesh() if mesh is None else mesh
    counted = np.cumsum(masks.metric.sum(axis=1))
    if not counted[-1]:
        raise InputError(f"{rows.name}: no token counts, so there is nothing to look at")
    n_rows = int(np.searchsorted(counted, min(SAMPLE_TOKENS, counted[-1]))) + 1
    model, block = Model.place(lm, mesh), replicate(jnp.int32(hook.block), mesh)

    def run(shared, tokens: Int[jax.Array, "row position"]):
        arrays, block = shared
        with jax.default_matmul_precision(precision):
            whole, at = model.whole(arrays), hook.at(block)
            return wide(read_at_hook(whole, at, prefix(whole, at, tokens))[0])

    step: Callable = jax.jit(map_rows(run, mesh))
    batches = Batches(np.asarray(rows.tokens), masks, default_batch(rows.tokens.shape[1], mesh), mesh).leading(n_rows)
    read = [on_host(step((model.arrays, block), batch.tokens))[: batch.n_rows] for batch in batches]
    sample = np.concatenate(read).astype(np.float32)[masks.metric[:n_rows]][:SAMPLE_TOKENS]
    if not np.isfinite(sample).all():
        raise InputError(f"the LM gives NaN or Inf at {hook.name}; try --dtype float32")
    return Sample(sample, float(np.linalg.norm(sample.astype(np.float64), axis=1).mean()))


def look_alikes(
    sae: SAE, sample: Sample, seed: int = 0, precision: str = "highest", names: Sequence[str] = (RANDOM, NEURONS)
) -> dict[str, SAE]:
    """The random SAE and the coordinates that fire as often as an SAE does on the sample, by name.

    Args:
        sae: the SAE, with its scale.
        sample: from `leading_sample`.
        seed: of the random directions.
        precision: of matrix products.
        names: which; `DIRECTIONS` too, coordinates in an orthonormal basis that is drawn at random.
    """
    x = jnp.asarray(sample.read)
    mean = jnp.mean(x, axis=0)
    with jax.default_matmul_precision(precision):
        z = sae.encode(x.astype(sae.W_enc.dtype))
        l0 = jnp.mean(jnp.sum(z != 0, axis=-1).astype(x.dtype))
        made: dict[str, Callable[[], SAE]] = {
            RANDOM: lambda: random_sae(seed, sae.d_sae, l0, mean, x),
            NEURONS: lambda: coordinates(l0, mean, x),
            DIRECTIONS: lambda: coordinates(l0, mean, x, random_basis(seed, x.shape[1])),
        }
        return {name: made[name]().renamed(f"{sae.card.name}: {name}") for name in names}


def random_basis(seed: int, width: int) -> Float[jax.Array, "width width"]:
    """Orthonormal rows, uniformly distributed (Mezzadri 2007, arXiv math-ph/0609050, §5)."""
    q, r = jnp.linalg.qr(jax.random.normal(jax.random.fold_in(jax.random.key(seed), width), (width, width)))
    return (q * jnp.sign(jnp.diagonal(r))[None]).T


def coordinates(
    l0: Float[jax.Array, ""],
    mean: Float[jax.Array, " d_in"],
    sample: Float[jax.Array, "token d_in"],
    basis: Float[jax.Array, "d_in d_in"] | None = None,
) -> SAE:
    """The coordinates of x − mean, where they are above the one threshold that makes `l0` of them fire on average.

    At most those that are positive fire.

    Args:
        l0: how many fire on average.
        mean: of x.
        sample: activations that fix the threshold.
        basis: orthonormal rows, in which the coordinates are; default those of x itself.
    """
    width = mean.shape[0]
    basis = jnp.eye(width) if basis is None else basis
    deviation = (sample - jnp.broadcast_to(mean, sample.shape)) @ basis.T
    threshold = jnp.maximum(jnp.quantile(deviation, 1.0 - jnp.clip(l0 / width, 0.0, 1.0)), 0.0)
    return SAE(
        W_enc=basis.T,
        b_enc=jnp.zeros(width),
        W_dec=basis,
        b_dec=mean,
        b_pre=mean,
        threshold=jnp.full(width, threshold),
        activation="jumprelu",
    )


def scaled(saes: Sequence[SAE], sample: Sample) -> list[SAE]:
    """SAEs with the scale that `expected_average` ones need."""
    return [sae.with_scale(sample.mean_norm) for sae in saes]
