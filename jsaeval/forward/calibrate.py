"""Sums for calibration, and the zero ablation where it is the same in every row."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Integer

from jsaeval.corpus.masks import Masks
from jsaeval.forward.splice import at_hook, prefix, read_at_hook, splice, suffix
from jsaeval.forward.sums import over_row, square
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import DATA, padded, specs, summed
from jsaeval.numerics import wide
from jsaeval.sae.module import SAE


def hook_sums(
    lm: HostLM,
    hook: Hook,
    tokens: Int[Array, "row position"],
    mask: Bool[Array, "row position"],
    residual: Float[Array, "row position d_model"] | None = None,
) -> tuple[Float[Array, "row position d_model"], Float[Array, "row width"], Float[Array, " row"]]:
    """The prefix of a batch (`residual`, where it is known), and per row Σ x and Σ ‖what SAEs read‖ over the counted
    tokens."""
    residual = prefix(lm, hook, tokens) if residual is None else residual
    read, x = map(wide, read_at_hook(lm, hook, residual))
    kept = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
    return residual, jnp.sum(kept, axis=1), over_row(jnp.sqrt(square(read)), mask)


def code_moments(
    saes: tuple[SAE, ...],
    mean: Float[Array, " width"],
    read: Float[Array, "row position read"],
    x: Float[Array, "row position width"],
    mask: Bool[Array, "row position"],
    mesh: Mesh,
) -> tuple[Int[Array, " sae"], Float[Array, "width width"]]:
    """Over the counted tokens of all rows: active latents of each SAE, and Σ (x − mean)(x − mean)ᵀ."""

    def local(shared, read, x, mask):
        saes, mean = shared
        counts = [jnp.sum(over_row(summed(jnp.count_nonzero(sae.encode(read), axis=-1)), mask)) for sae in saes]
        deviation = wide(x) - jnp.broadcast_to(mean, x.shape)
        deviation = jnp.where(mask[..., None], deviation, jnp.zeros((), deviation.dtype))
        products = jnp.einsum("btd,bte->de", deviation, deviation)
        return lax.psum((jnp.stack(counts), products), DATA)

    shared = padded((saes, mean), mesh)
    run = jax.shard_map(local, mesh=mesh, in_specs=(specs(shared), P(DATA), P(DATA), P(DATA)), out_specs=P())
    return run(shared, read, x, mask)


def zero_is_constant(hook: Hook, tokens: Integer[np.ndarray, "row position"], masks: Masks) -> bool:
    """Whether zero ablation leaves the same thing in every row.

    It does when the hook is a whole residual stream (a zeroed stream does not know its tokens) and all tokens but
    padding are ablated, or all but a first token that is the same in every row.
    """
    if not hook.whole_residual:
        return False
    if np.array_equal(masks.splice, masks.valid):
        return True
    after_first = masks.valid.copy()
    after_first[:, 0] = False
    return bool(np.array_equal(masks.splice, after_first) and (tokens[:, 0] == tokens[0, 0]).all())


def zero_final(
    lm: HostLM, hook: Hook, tokens: Int[Array, "row position"], splice_mask: Bool[Array, "row position"]
) -> Float[Array, "row position d_model"]:
    """The final normed residual stream after zero ablation of these rows."""
    residual = prefix(lm, hook, tokens)
    x = at_hook(lm, hook, residual)
    streams = splice(x, jnp.zeros_like(x), splice_mask)[None]
    return suffix(lm, hook, residual, streams)[0][0]
