"""What happens after the hook: the suffix of all streams in lockstep, and the head. Sums per row."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jsaeval.corpus.masks import Masks
from jsaeval.forward.head import chunk_of, head
from jsaeval.forward.splice import like, splice, suffix
from jsaeval.forward.sums import by_bucket, over_row, square
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM, Tap, logit_cap_of, no_tap
from jsaeval.numerics import wide


SUFFIX, HEAD = "suffix", "head"


class Downstream(NamedTuple):
    """Columns per row, per stream and row, sums of vectors, and the clean final residual stream."""

    rows: dict[str, Array]
    streams: dict[str, Array]
    vectors: dict[str, Array]
    final: Float[Array, "row position d_model"]


def downstream(
    lm: HostLM,
    hook: Hook,
    tokens: Int[Array, "row position"],
    masks: Masks,
    residual: Float[Array, "row position d_model"],
    x: Float[Array, "row position width"],
    reconstructions: list[Array],
    zero: Float[Array, "1 position d_model"] | None,
    final: Float[Array, "row position d_model"] | None,
    groups: frozenset[str],
    on_cpu: bool,
) -> Downstream:
    """Run the clean stream and those with a reconstruction in place of x to the end.

    Args:
        lm: the language model.
        hook: where the streams part.
        tokens: token ids; the next one is the target of the cross-entropy.
        masks: which tokens count, and which are replaced.
        residual: what `prefix` returned.
        x: the activation at the hook.
        reconstructions: what replaces it, one per stream.
        zero: the final residual stream of the zero ablation, where it is the same in every row. Else it is a stream.
        final: the final residual stream of the clean pass if it is known; it is of no use to `curve`.
        groups: "loss", "curve" or both.
        on_cpu: what it will run on.
    """
    n, own_zero, curved = len(reconstructions), zero is None and "loss" in groups, "curve" in groups
    replacements = [*reconstructions, *([jnp.zeros_like(x)] if own_zero else [])]
    streams = jnp.stack([splice(x, r.astype(x.dtype), masks.splice) for r in replacements])
    known = final if final is not None and not curved else None
    if known is None:
        streams = jnp.concatenate([x[None], streams])
    observe, state = curve_tap(lm, n, streams, masks.metric) if curved else (no_tap, None)
    with jax.named_scope(SUFFIX):
        finals, curve = suffix(lm, hook, residual, streams, observe, state)
    if known is not None:
        finals = jnp.concatenate([known[None], finals])

    rows, per_stream, vectors = {}, {}, {}
    if curved:
        per_stream["downstream_sse"] = jnp.moveaxis(curve["sse"], 0, -1)
        rows |= {name: curve[name].T for name in ("resid_sq", "resid_sum_sq")}
        vectors["resid"] = curve["resid"]
    if "loss" in groups:
        targets = jnp.concatenate([tokens[:, 1:], tokens[:, -1:]], axis=1)
        counted = masks.metric & jnp.pad(masks.valid[:, 1:], [(0, 0), (0, 1)])
        constant = jnp.zeros((0, *finals.shape[2:]), finals.dtype) if zero is None else zero
        chunk = chunk_of(tokens.shape[1], on_cpu)
        with jax.named_scope(HEAD):
            ce, moving, still = head(
                lm.unembedding, finals, constant, targets, lm.vocab, chunk, logit_cap=logit_cap_of(lm)
            )
        ablated = jax.tree.map(lambda v: v[n], moving) if own_zero else jax.tree.map(lambda v: v[0], still)
        spliced = jax.tree.map(lambda v: v[:n], moving)
        rows |= {
            "n_ce": over_row(jnp.ones(tokens.shape, jnp.int32), counted),
            "ce_clean": over_row(ce, counted),
            "ce_zero": over_row(ablated.ce, counted),
            "kl_zero": over_row(ablated.kl, masks.metric),
        }
        per_stream |= {
            "ce": over_row(spliced.ce, counted),
            "kl": by_bucket(spliced.kl, masks.metric),
            "top1": over_row(spliced.top1, masks.metric),
            "total_variation": over_row(spliced.total_variation, masks.metric),
        }
    return Downstream(rows, per_stream, vectors, finals[0])


def curve_tap(
    lm: HostLM, n_spliced: int, streams: Float[Array, "stream row position width"], mask: Bool[Array, "row position"]
) -> tuple[Tap, dict[str, Array]]:
    """A tap that reduces ‖a − â‖² of every block at once, and its initial state."""
    n_streams, row = streams.shape[:2]
    zeros = lambda *shape: like(streams, shape, wide(streams).dtype)  # noqa: E731
    state = {
        "sse": zeros(lm.n_blocks, n_spliced, row),
        "resid_sq": zeros(lm.n_blocks, row),
        "resid_sum_sq": zeros(lm.n_blocks, row),
        "resid": zeros(lm.n_blocks, lm.d_model),
    }

    def observe(site, block, activation, state):
        if site != "hook_resid_post":
            return activation, state
        streams = wide(activation.reshape(n_streams, row, *activation.shape[1:]))
        clean, spliced = streams[0], streams[1 : 1 + n_spliced]
        kept = jnp.where(mask[..., None], clean, jnp.zeros((), clean.dtype))
        by_row = jnp.sum(kept, axis=1)
        seen = {
            "sse": over_row(square(spliced - jnp.broadcast_to(clean, spliced.shape)), mask),
            "resid_sq": over_row(square(clean), mask),
            "resid_sum_sq": square(by_row),
            "resid": jnp.sum(by_row, axis=0),
        }
        return activation, {name: state[name].at[block].set(value) for name, value in seen.items()}

    observe.sites = ("hook_resid_post",)
    return observe, state
