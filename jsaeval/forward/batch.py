"""`batch_statistics`: one batch of tokens → one line of sums per row and SAE. Pure, and mapped over the data axis.

This is the part of the engine that runs on devices. Everything else (means, ratios, intervals, reports) is arithmetic
on the lines it returns, on the host, in float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jsaeval.corpus.masks import Masks, make_masks
from jsaeval.errors import InputError
from jsaeval.forward.head import head
from jsaeval.forward.latents import LatentCounts, all_devices, count_latents
from jsaeval.forward.splice import at_hook, like, prefix, splice, suffix
from jsaeval.forward.sums import by_bucket, norm_sums, over_row, reconstruction_sums, square
from jsaeval.hooks import Hook, parse_hook
from jsaeval.lm.card import card_of
from jsaeval.lm.protocol import HostLM, Tap, no_tap
from jsaeval.mesh import DATA, pad_rows
from jsaeval.numerics import wide
from jsaeval.sae.module import SAE


GROUPS = ("norms", "reconstruction", "loss", "curve", "latents")


class BatchStatistics(NamedTuple):
    """Sums of one batch (float32, counts int32).

    `rows`: per row, the same for every SAE; arrays (row, ...).
    `saes`: per SAE and row; arrays (sae, row, ...).
    `vectors`: sums of vectors over the whole batch.
    `latents`: counters per SAE.

    | column | of | shape after (sae,) row | group | sum over counted tokens t of |
    |---|---|---|---|---|
    | n | rows | bucket | | 1 |
    | n_ce | rows | | | 1 where the next token counts |
    | x_sq, x_dev_sq | rows | (x_dev_sq: bucket) | reconstruction | ‖x‖², ‖x − mean‖² |
    | ce_clean, ce_zero, kl_zero | rows | | loss | nats |
    | resid_sq | rows | block | curve | ‖a^k‖² of the clean pass after block k |
    | l0; l1, l1_scaled | saes | bucket; – | norms | see METRICS.md |
    | sse, xhat_sq, x_xhat, cosine, l2_ratio, legacy | saes | (sse: bucket) | reconstruction | `reconstruction_sums` |
    | ce, kl, top1, total_variation | saes | (kl: bucket) | loss | nats, nats, 0/1, share |
    | downstream_sse | saes | block | curve | ‖a^k − â^k‖² after block k |
    | x_dev | vectors | (bucket, width) | reconstruction | x − mean |
    | resid | vectors | (block, d_model) | curve | a^k |
    """

    rows: dict[str, Array]
    saes: dict[str, Array]
    vectors: dict[str, Array]
    latents: tuple[LatentCounts, ...]


def batch_statistics(
    lm: HostLM,
    saes: Sequence[SAE],
    tokens: Int[Array, "row position"],
    *,
    hook: Hook | None = None,
    masks: Masks | None = None,
    mean: Float[Array, " width"] | None = None,
    residual: Float[Array, "row position d_model"] | None = None,
    zero: Float[Array, "1 position d_model"] | None = None,
    groups: Sequence[str] = GROUPS,
    mesh: Mesh | None = None,
    precision: str = "highest",
) -> BatchStatistics:
    """Sufficient statistics of SAEs at one hook, on one batch. Call it inside `jax.jit`; nothing waits for the host.

    Args:
        lm: the language model.
        saes: SAEs that read the same hook; of any width and architecture.
        tokens: token ids.
        hook: where they read; default the hook on the card of the first SAE. Its block may be traced.
        masks: see `jsaeval.corpus.masks`; default `no-special` with the special ids on the card of the LM.
        mean: a fixed vector near the mean of x, so that squared norms about the mean do not cancel. Default: none
            (zero is used, and the `legacy` column is left out, because it has no meaning without a mean).
        residual: what `jsaeval.forward.splice.prefix` returned for these tokens, if it is known already.
        zero: the final residual stream of the zero ablation, if it is the same in every row (see
            `jsaeval.forward.calibrate`). Default: the ablation runs as one more stream.
        groups: what to compute, out of `GROUPS`. A group that is not asked for costs nothing.
        mesh: map the rows over its data axis. Default: no mapping (one device, or the caller's own partitioning).
        precision: of matrix products (`jax.default_matmul_precision`).

    Raises:
        InputError: no hook is known, an SAE does not fit the hook, or a group does not exist.
    """
    saes, wanted = tuple(saes), frozenset(groups)
    if unknown := wanted - set(GROUPS):
        raise InputError(f"metric groups {sorted(unknown)} do not exist; known: {', '.join(GROUPS)}")
    hook = default_hook(saes) if hook is None else hook
    masks = default_masks(lm, tokens) if masks is None else masks
    lm_arrays, lm_rest = eqx.partition(lm, eqx.is_array)

    def local(lm_arrays, saes, block, mean, zero, tokens, masks, residual):
        lm = eqx.combine(lm_arrays, lm_rest)
        with jax.default_matmul_precision(precision):
            return _statistics(lm, saes, Hook(block, hook.site), mean, zero, tokens, masks, residual, wanted)

    if mesh is None:
        return local(lm_arrays, saes, hook.block, mean, zero, tokens, masks, residual)

    def mapped(*args):
        out = local(*args)
        total = lambda tree: jax.tree.map(lambda x: lax.psum(x, DATA), tree)  # noqa: E731
        counts = tuple(all_devices(c, DATA) for c in out.latents)
        return BatchStatistics(out.rows, out.saes, total(out.vectors), counts)

    n_rows = tokens.shape[0]
    per_row = jax.tree.map(lambda x: pad_rows(x, mesh.shape[DATA]), (tokens, masks, residual))
    specs: Any = P(DATA), P(None, DATA), P(), P()
    run = jax.shard_map(
        mapped,
        mesh=mesh,
        in_specs=(P(), P(), P(), P(), P(), P(DATA), P(DATA), P(DATA)),
        out_specs=BatchStatistics(*specs),
    )
    out = run(lm_arrays, saes, jnp.asarray(hook.block), mean, zero, *per_row)
    rows = {name: column[:n_rows] for name, column in out.rows.items()}
    per_sae = {name: column[:, :n_rows] for name, column in out.saes.items()}
    return BatchStatistics(rows, per_sae, out.vectors, out.latents)


def default_masks(lm: HostLM, tokens: Int[Array, "row position"]) -> Masks:
    """`no-special` masks, with the special ids on the card of the LM if it has one."""
    card = card_of(lm)
    return make_masks(tokens, card.special_ids, card.pad)


def default_hook(saes: Sequence[SAE]) -> Hook:
    """The hook on the card of the first SAE.

    Raises:
        InputError: there is none.
    """
    if not saes or saes[0].card.hook is None:
        raise InputError("no SAE says where it hooks; pass hook=")
    return parse_hook(saes[0].card.hook)


def _statistics(lm, saes, hook, mean, zero, tokens, masks, residual, groups) -> BatchStatistics:
    residual = prefix(lm, hook, tokens) if residual is None else residual
    x = at_hook(lm, hook, residual)
    for sae in saes:
        if (sae.d_in, sae.d_out) != (x.shape[-1], x.shape[-1]):
            raise InputError(
                f"{sae.card.name}: reads {sae.d_in} and writes {sae.d_out} dimensions, "
                f"but {hook.site} of this LM has {x.shape[-1]}"
            )

    rows = {"n": by_bucket(jnp.ones(tokens.shape, jnp.int32), masks.metric)}
    vectors, columns, counts, reconstructions = {}, [{} for _ in saes], [], []
    if "reconstruction" in groups:
        sums, vectors["x_dev"] = _input_sums(x, mean, masks.metric)
        rows |= sums
    for sae, column in zip(saes, columns, strict=True):
        z = sae.encode(x)
        if "norms" in groups:
            column |= norm_sums(sae, z, masks.metric)
        if "latents" in groups:
            counts.append(count_latents(z, masks.metric))
        if groups & {"reconstruction", "loss", "curve"}:
            reconstructions.append(sae.decode(z, x))
        if "reconstruction" in groups:
            column |= reconstruction_sums(x, reconstructions[-1], mean, masks.metric)

    per_sae = jax.tree.map(lambda *c: jnp.stack(c), *columns) if saes else {}
    if groups & {"loss", "curve"}:
        lines = _downstream(lm, hook, zero, tokens, masks, residual, x, reconstructions, groups)
        rows, per_sae, vectors = rows | lines[0], per_sae | lines[1], vectors | lines[2]
    return BatchStatistics(rows, per_sae, vectors, tuple(counts))


def _input_sums(x, mean, mask):
    x = wide(x)
    deviation = x if mean is None else x - jnp.broadcast_to(mean, x.shape)
    kept = jnp.where(mask[..., None], deviation, jnp.zeros((), x.dtype))
    vector = by_bucket(jnp.moveaxis(kept, -1, 0), jnp.ones_like(mask)).sum(axis=1).T
    return {"x_sq": over_row(square(x), mask), "x_dev_sq": by_bucket(square(deviation), mask)}, vector


def _downstream(lm, hook, zero, tokens, masks, residual, x, reconstructions, groups):
    """The suffix and the head: columns per row, per SAE and row, and vectors."""
    n_saes, own_zero = len(reconstructions), zero is None and "loss" in groups
    replacements = [*reconstructions, *([jnp.zeros_like(x)] if own_zero else [])]
    streams = jnp.stack([x, *(splice(x, r.astype(x.dtype), masks.splice) for r in replacements)])

    observe, state = curve_tap(lm, n_saes, streams, masks.metric) if "curve" in groups else (no_tap, None)
    final, curve = suffix(lm, hook, residual, streams, observe, state)

    rows, per_sae, vectors = {}, {}, {}
    if "curve" in groups:
        per_sae["downstream_sse"] = jnp.moveaxis(curve["sse"], 0, -1)
        rows["resid_sq"], vectors["resid"] = curve["resid_sq"].T, curve["resid"]
    if "loss" in groups:
        targets = jnp.concatenate([tokens[:, 1:], tokens[:, -1:]], axis=1)
        has_target = jnp.pad(masks.valid[:, 1:], [(0, 0), (0, 1)])
        counted = masks.metric & has_target
        constant = jnp.zeros((0, *final.shape[2:]), final.dtype) if zero is None else zero
        ce, moving, still = head(lm.unembedding, final, constant, targets)
        ablated = jax.tree.map(lambda v: v[n_saes], moving) if own_zero else jax.tree.map(lambda v: v[0], still)
        spliced = jax.tree.map(lambda v: v[:n_saes], moving)
        rows |= {
            "n_ce": over_row(jnp.ones(tokens.shape, jnp.int32), counted),
            "ce_clean": over_row(ce, counted),
            "ce_zero": over_row(ablated.ce, counted),
            "kl_zero": over_row(ablated.kl, masks.metric),
        }
        per_sae |= {
            "ce": over_row(spliced.ce, counted),
            "kl": by_bucket(spliced.kl, masks.metric),
            "top1": over_row(spliced.top1, masks.metric),
            "total_variation": over_row(spliced.total_variation, masks.metric),
        }
    return rows, per_sae, vectors


def curve_tap(
    lm: HostLM, n_saes: int, streams: Float[Array, "stream row position width"], mask: Bool[Array, "row position"]
) -> tuple[Tap, dict[str, Array]]:
    """A tap that reduces ‖a − â‖² of every block at once, and its initial state."""
    n_streams, row = streams.shape[:2]
    zeros = lambda *shape: like(streams, shape, wide(streams).dtype)  # noqa: E731
    state = {
        "sse": zeros(lm.n_blocks, n_saes, row),
        "resid_sq": zeros(lm.n_blocks, row),
        "resid": zeros(lm.n_blocks, lm.d_model),
    }

    def observe(site, block, activation, state):
        if site != "hook_resid_post":
            return activation, state
        streams = wide(activation.reshape(n_streams, row, *activation.shape[1:]))
        clean, spliced = streams[0], streams[1 : 1 + n_saes]
        kept = jnp.where(mask[..., None], clean, jnp.zeros((), clean.dtype))
        seen = {
            "sse": over_row(square(spliced - jnp.broadcast_to(clean, spliced.shape)), mask),
            "resid_sq": over_row(square(clean), mask),
            "resid": jnp.sum(kept, axis=(0, 1)),
        }
        return activation, {name: state[name].at[block].set(value) for name, value in seen.items()}

    return observe, state
