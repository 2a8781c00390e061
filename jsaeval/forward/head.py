"""Cross-entropy, KL divergence, top-1 agreement and total variation of many streams, without an array of logits.

The head takes a few positions at a time, and there one stream after the other: the logits of the clean distribution p
and of one spliced distribution q exist for a moment, however many the streams. Logits and sums over the vocabulary are
float32 or better. Exponentials are taken of differences from the largest logit, and log p, log q
are never logarithms of softmax values: those are NaN where both underflow.

Where the vocabulary is split over devices, each has its part of the logits, and only sums and maxima over the
vocabulary cross between them.

Logits are (vocabulary, token), one array a stream: a reduction over the vocabulary then runs along rows of tokens,
which a CPU vectorises. On 2 x86 cores this order, with chunks whose logits stay in the cache, took 0.4 of the time
of (row, position, vocabulary).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jsaeval.mesh import first_index, is_split, largest, looked_up, summed
from jsaeval.numerics import wide_dtype


# A logit whose exponential is 0, but whose differences are finite.
NEVER = -1e30


class Against(NamedTuple):
    """Streams compared with the clean one, per token. CE and KL in nats; KL is KL(clean ‖ stream)."""

    ce: Float[Array, "*stream position"]
    kl: Float[Array, "*stream position"]
    top1: Bool[Array, "*stream position"]
    total_variation: Float[Array, "*stream position"]


def head(
    unembedding: Float[Array, "vocab d_model"],
    streams: Float[Array, "stream row position d_model"],
    constant: Float[Array, "fixed position d_model"],
    targets: Int[Array, "row position"],
    vocab: int | None = None,
    chunk: tuple[int, int] | None = None,
    reverse_kl: bool = False,
    logit_cap: float | None = None,
) -> tuple[Float[Array, "row position"], Against, Against]:
    """Compare the next-token distributions of streams with the clean one.

    Args:
        unembedding: the LM's output matrix, or the rows of it that this device holds.
        streams: final normed residual streams; the first is the clean pass.
        constant: streams that are the same in every row (none: an array of length 0). Their logits are computed once.
        targets: the token that follows each position; what stands where there is none is the caller's to mask.
        vocab: rows of the whole matrix; those beyond only fill up the devices. Default: all are tokens.
        chunk: positions of a row, and rows, that go through at once; bounds memory, changes nothing else. Default: what
            suits the default backend.
        reverse_kl: give KL(stream ‖ clean) as `kl`.
        logit_cap: c of the LM's soft cap: logits are c tanh(z / c) of z = unembedding · stream (Gemma 2, arXiv
            2408.00118, §2). None: they are z.

    Returns:
        CE of the clean stream; `Against` for the other streams, then for the constant ones, with axes (stream, row,
        position).
    """
    positions = streams.shape[2]
    size, rows = chunk_of(positions, jax.default_backend() == "cpu") if chunk is None else chunk
    size = min(positions, size)

    distribution = functools.partial(next_token, unembedding, vocab, logit_cap)
    against = functools.partial(_against, reverse_kl=reverse_kl)

    def at_positions(pieces):
        streams, constant, targets = pieces
        fixed = [distribution(hidden) for hidden in constant]

        def at_row(pieces):
            streams, targets = pieces
            clean = distribution(streams[0])
            moving, still = None, None  # `lax.map` over several rows cannot hand back arrays of length 0
            if len(streams) > 1:
                moving = lax.map(lambda hidden: against(clean, distribution(hidden), targets), streams[1:])
            if fixed:
                still = jax.tree.map(lambda *x: jnp.stack(x), *[against(clean, q, targets) for q in fixed])
            return clean.ce(targets), moving, still

        # Differentiated, a chunk is computed again in the backward pass, or all logits would be kept for it.
        by_row = jnp.moveaxis(streams, 1, 0), targets
        return lax.map(jax.checkpoint(at_row), by_row, batch_size=rows if rows > 1 else None)

    out = lax.map(at_positions, (_cut(streams, 2, size), _cut(constant, 1, size), _cut(targets, 1, size)))

    def join(x: Array) -> Array:
        """(chunk, row, ..., position in chunk) → (..., row, position)."""
        x = jnp.moveaxis(x, (1, 0), (-3, -2))
        return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])[..., :positions]

    ce, moving, still = jax.tree.map(join, out)
    nothing = jnp.zeros((0, *targets.shape), ce.dtype)
    none = Against(nothing, nothing, nothing.astype(bool), nothing)
    return ce, none if moving is None else moving, none if still is None else still


def chunk_of(positions: int, on_cpu: bool) -> tuple[int, int]:
    """Positions of a row, and rows, to take at once. On a CPU 32 tokens, so that their logits stay in the cache;
    elsewhere about 256. The unembedding is read once for each stream and chunk, so more would mean less traffic; but
    the logits of a chunk take most of the memory of a step (1 GiB a stream for 1,024 tokens of Gemma)."""
    if on_cpu:
        return min(positions, 32), 1
    size = min(positions, 256)
    return size, max(1, 256 // size)


class Distribution(NamedTuple):
    """Next-token distributions: z − max z for logits z, the exponentials of that, and their sum over the vocabulary."""

    shifted: Float[Array, "vocab position"]
    exp: Float[Array, "vocab position"]
    total: Float[Array, " position"]

    def ce(self, targets: Int[Array, " position"]) -> Float[Array, " position"]:
        """−log p of one token for each position, nats."""
        picked = looked_up(lambda i: jnp.take_along_axis(self.shifted, i[None], axis=0)[0], targets, self.shifted)
        return jnp.log(self.total) - picked

    def log_p(self, tokens: Int[Array, " token"]) -> Float[Array, "token position"]:
        """log p of the same tokens at every position, nats."""
        return looked_up(lambda i: self.shifted[i], tokens, self.shifted) - jnp.log(self.total)[None]


def next_token(
    unembedding: Float[Array, "vocab d_model"],
    vocab: int | None,
    logit_cap: float | None,
    hidden: Float[Array, "position d_model"],
) -> Distribution:
    """The distributions behind some final normed residual streams; arguments as those of `head`."""
    logits = jnp.einsum("vd,td->vt", unembedding, hidden, preferred_element_type=wide_dtype(hidden.dtype))
    if logit_cap is not None:
        logits = logit_cap * jnp.tanh(logits / logit_cap)
    if vocab is not None and (is_split(unembedding) or len(unembedding) > vocab):
        token = first_index(unembedding) + jnp.arange(len(unembedding), dtype=jnp.int32)
        logits = jnp.where((token < vocab)[:, None], logits, jnp.asarray(NEVER, logits.dtype))
    shifted = logits - largest(jnp.max(lax.stop_gradient(logits), axis=0, keepdims=True))
    exp = jnp.exp(shifted)
    return Distribution(shifted, exp, summed(jnp.sum(exp, axis=0)))


def _kl(p: Distribution, q: Distribution) -> Float[Array, " position"]:
    mean_difference = summed(jnp.sum(p.exp * (p.shifted - q.shifted), axis=0)) / p.total
    return mean_difference + jnp.log(q.total) - jnp.log(p.total)


def _against(p: Distribution, q: Distribution, targets: Int[Array, " position"], reverse_kl: bool) -> Against:
    gap = jnp.abs(p.exp * (1 / p.total)[None] - q.exp * (1 / q.total)[None])
    return Against(
        ce=q.ce(targets),
        kl=_kl(q, p) if reverse_kl else _kl(p, q),
        # The two distributions have their mode at a common token iff both shifted logits are 0 there.
        top1=largest(jnp.max(jnp.minimum(p.shifted, q.shifted), axis=0)) == 0,
        total_variation=summed(jnp.sum(gap, axis=0)) / 2,
    )


def _cut(x: Array, axis: int, size: int) -> Array:
    """(..., n, ...) → (chunk, ..., size, ...), zeros where the last chunk is not full."""
    n_chunks = -(-x.shape[axis] // size)
    x = jnp.pad(x, [(0, n_chunks * size - x.shape[axis]) if i == axis else (0, 0) for i in range(x.ndim)])
    return jnp.moveaxis(x.reshape(*x.shape[:axis], n_chunks, size, *x.shape[axis + 1 :]), axis, 0)
