"""What a latent does to the logits by itself: its decoder row through the final norm and the unembedding.

The logits are U f(r) of the last residual stream r, with f the final norm. A latent of activation a adds a d to r; what
that does depends on r, because f divides by the size of r. What is given here is the part that does not:

    effect = U J d        J: the derivative of f at a residual stream of root mean square 1 that d does not lengthen

For r of zero mean with mean(r²) = 1 and r·d = 0, J d is gain ⊙ d of an RMS norm, gain ⊙ (d − mean d) of a layer norm
and d where there is no norm; which r it is does not matter. So gain and centring are in it without a look into the LM,
and a unit of activation changes the logits by effect / rms(r), to first order, on the direct path from the hook to the
head. The soft cap of some LMs is left out: it changes no order. This is direct logit attribution (Elhage et al. 2021,
"A mathematical framework for transformer circuits"), the "logit weights" of Bricken et al. 2023.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM
from jsaeval.numerics import wide


# Sites whose activation is, or is added to, the residual stream.
_WRITES = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")
_LOGITS_AT_ONCE = 2**24


class LogitEffects(NamedTuple):
    """By latent. Ids of tokens with the largest effects, descending, and with the smallest, ascending; and a histogram
    of the effects on all tokens, in bins of equal width between the smallest and the largest."""

    top_ids: Int[np.ndarray, "latent rank"]
    top: Float[np.ndarray, "latent rank"]
    bottom_ids: Int[np.ndarray, "latent rank"]
    bottom: Float[np.ndarray, "latent rank"]
    edges: Float[np.ndarray, "latent edge"]
    counts: Int[np.ndarray, "latent bin"]


def reaches_logits(hook: Hook) -> bool:
    """Whether what an SAE gives at this hook is a part of the residual stream."""
    return hook.site in _WRITES


def logit_effects(
    lm: HostLM, directions: Float[Array, "latent d_model"], n: int = 10, bins: int = 50, chunk: int | None = None
) -> LogitEffects:
    """Effects of directions of the residual stream on the logits.

    Args:
        lm: the LM.
        directions: decoder rows; of an SAE with a scale on its input, after `SAE.with_scale`.
        n: how many tokens of either end to keep; all if there are fewer.
        bins: of the histogram.
        chunk: directions at once, which bounds the memory: there is never an array of all logits. Default: some 2^24
            logits.

    Returns:
        Per unit of activation and of 1 / rms(r), in float32.
    """
    chunk = chunk or max(1, min(len(directions), _LOGITS_AT_ONCE // lm.vocab))
    n = min(n, lm.vocab)
    parts = list(_parts(lm, directions, n, bins, chunk))
    return LogitEffects(*(np.concatenate(own) for own in zip(*parts, strict=True)))


def _parts(lm: HostLM, directions: Array, n: int, bins: int, chunk: int) -> Iterator[LogitEffects]:
    for first in range(0, max(len(directions), 1), chunk):
        own = directions[first : first + chunk]
        whole = jnp.pad(own, ((0, chunk - len(own)), (0, 0)))  # one program for all chunks
        yield LogitEffects(*(np.asarray(value)[: len(own)] for value in _effects(lm, whole, n, bins)))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _effects(lm: HostLM, directions: Float[Array, "latent d_model"], n: int, bins: int) -> tuple[Array, ...]:
    unembedding = lm.unembedding[: lm.vocab]
    normed = wide(_through_norm(lm, directions.astype(unembedding.dtype)))
    logits = jnp.einsum("ld,vd->lv", normed, wide(unembedding), precision="highest")
    top, top_ids = lax.top_k(logits, n)
    bottom, bottom_ids = lax.top_k(-logits, n)
    low, high = bottom[:, :1] * -1, top[:, :1]
    steps = jnp.linspace(0, 1, bins + 1, dtype=logits.dtype)[None]
    edges = (low * (1 - steps) + high * steps).astype(logits.dtype)
    # Values below an edge, one edge at a time: no array of logits and bins, and no scatter.
    below = lax.map(lambda edge: jnp.sum(logits < edge[:, None], axis=1, dtype=jnp.int32), edges[:, 1:-1].T)
    ends = jnp.zeros_like(below, shape=(1, len(logits)))
    counts = jnp.diff(jnp.concatenate([ends, below, ends + lm.vocab]), axis=0).T
    return top_ids, top, bottom_ids, -bottom, edges, counts


def _through_norm(lm: HostLM, d: Float[Array, "latent d_model"]) -> Float[Array, "latent d_model"]:
    """J d, at a residual stream for each direction."""
    # The same for every chunk, and in no direction that a model prefers.
    r = jax.random.normal(jax.random.key(0), (1, d.shape[1]), jnp.float32)
    flat, ones = wide(d), jnp.ones((1, d.shape[1]), jnp.float32)
    r = r - jnp.mean(r)
    centred = flat - jnp.mean(flat, axis=1, keepdims=True)
    square = jnp.sum(jnp.square(centred), axis=1, keepdims=True)
    along = jnp.where(square > 0, jnp.sum(r * centred, axis=1, keepdims=True) / jnp.where(square > 0, square, 1.0), 0.0)
    r = r - along * centred
    r = r * lax.rsqrt(jnp.mean(jnp.square(r), axis=1, keepdims=True)) * ones
    rows = (r.astype(d.dtype)[:, None], d[:, None])
    return jax.jvp(lm.final, rows[:1], rows[1:])[1][:, 0]
