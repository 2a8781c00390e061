"""`batch_statistics`: one batch of tokens → one line of sums per row and SAE. Pure, and mapped over the data axis.

This is the part of the engine that runs on devices. Everything else (means, ratios, intervals, reports) is arithmetic
on the lines it returns, on the host, in float64.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jsaeval.corpus.masks import Masks, make_masks
from jsaeval.errors import InputError
from jsaeval.forward.controls import Code, Controls, Replacement, control_names, control_replacements
from jsaeval.forward.downstream import downstream
from jsaeval.forward.latents import LatentCounts, all_devices, count_latents, first_latents
from jsaeval.forward.splice import prefix, read_at_hook
from jsaeval.forward.sums import by_bucket, no_norm_sums, norm_sums, over_row, reconstruction_sums, square
from jsaeval.hooks import Hook, parse_hook
from jsaeval.lm.card import card_of
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import DATA, MODEL, pad_rows, padded, platform_of, specs
from jsaeval.numerics import wide, wide_dtype
from jsaeval.sae.module import SAE


# Names of the parts of the step, in profiles and in what `jsaeval.sizing` counts; `downstream` has two more.
PREFIX, SAES = "prefix", "saes"
GROUPS = ("norms", "reconstruction", "loss", "curve", "latents")
# Tokens of all streams together that an accelerator takes through the blocks at a time: enough to outweigh reading the
# weights, and a bound on memory however large the batch and however many the SAEs.
TOKENS_AT_ONCE = 16_384


class Known(NamedTuple):
    """What may be known of a batch beforehand and need not be computed.

    `residual`: what `jsaeval.forward.splice.prefix` returns for these tokens. `final`: the final residual stream of the
    clean pass.
    """

    residual: Float[Array, "row position d_model"] | None = None
    final: Float[Array, "row position d_model"] | None = None


class BatchStatistics(NamedTuple):
    """Sums of one batch (float32, counts int32).

    `rows`: per row, the same for every SAE; arrays (row, ...).
    `saes`: per SAE and row; arrays (sae, row, ...). After the SAEs come the controls, in the order of
    `jsaeval.forward.controls.control_names`; their norms are those of latents, 0 where they have none.
    `vectors`: sums of vectors over the whole batch.
    `latents`: counters per SAE.
    `known`: what the batch need not compute another time, if it was asked for.

    | column | of | shape after (sae,) row | group | sum over counted tokens t of |
    |---|---|---|---|---|
    | n | rows | bucket | | 1 |
    | n_ce | rows | | | 1 where the next token counts |
    | x_norm, x_sq, x_dev_sq | rows | (x_dev_sq: bucket) | reconstruction | ‖x‖, ‖x‖², ‖x − mean‖² |
    | ce_clean, ce_zero, kl_zero | rows | | loss | nats |
    | resid_sq | rows | block | curve | ‖a^k‖² of the clean pass after block k |
    | resid_sum_sq | rows | block | curve | (not a sum over t) ‖Σ_t a^k‖² |
    | l0; l1, l1_scaled | saes | bucket; – | norms | see METRICS.md |
    | sse; xhat_norm, xhat_sq, x_xhat | saes | bucket; – | reconstruction | `reconstruction_sums` |
    | cosine, l2_ratio, legacy | saes | | reconstruction | `reconstruction_sums` |
    | ce, kl, top1, total_variation | saes | (kl: bucket) | loss | nats, nats, 0/1, share |
    | downstream_sse | saes | block | curve | ‖a^k − â^k‖² after block k |
    | x_dev | vectors | (bucket, width) | reconstruction | x − mean |
    | resid | vectors | (block, d_model) | curve | a^k |
    """

    rows: dict[str, Array]
    saes: dict[str, Array]
    vectors: dict[str, Array]
    latents: tuple[LatentCounts, ...]
    known: Known = Known()


def batch_statistics(
    lm: HostLM,
    saes: Sequence[SAE],
    tokens: Int[Array, "row position"],
    *,
    hook: Hook | None = None,
    masks: Masks | None = None,
    mean: Float[Array, " width"] | None = None,
    zero: Float[Array, "1 position d_model"] | None = None,
    known: Known = Known(),
    controls: Controls | None = None,
    row_ids: Int[Array, " row"] | None = None,
    groups: Sequence[str] = GROUPS,
    keep: bool = False,
    mesh: Mesh | AbstractMesh | None = None,
    tokens_at_once: int | None = None,
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
        zero: the final residual stream of the zero ablation, if it is the same in every row (see
            `jsaeval.forward.calibrate`). Default: the ablation runs as one more stream.
        known: what is known of the batch beforehand.
        controls: run the control streams, too.
        row_ids: number of each row in the run, which keys random draws. Default: its number in the batch.
        groups: what to compute, out of `GROUPS`. A group that is not asked for costs nothing.
        keep: return what need not be computed another time.
        mesh: map the rows over its data axis, and the weights over its model axis. Default: no mapping (one device, or
            the caller's own partitioning).
        tokens_at_once: tokens of all streams together that a device works on at a time; bounds memory, changes nothing
            else. Default: on a CPU all, elsewhere 16,384.
        precision: of matrix products (`jax.default_matmul_precision`).

    Raises:
        InputError: no hook is known, an SAE does not fit the hook, or a group does not exist.
    """
    wanted = frozenset(groups)
    if unknown := wanted - set(GROUPS):
        raise InputError(f"metric groups {sorted(unknown)} do not exist; known: {', '.join(GROUPS)}")
    hook = default_hook(saes) if hook is None else hook
    masks = default_masks(lm, tokens) if masks is None else masks
    row_ids = jnp.arange(tokens.shape[0], dtype=jnp.int32) if row_ids is None else row_ids
    arrays, rest = eqx.partition(lm, eqx.is_array)
    on_cpu = platform_of(mesh) == "cpu"
    limit = tokens_at_once or (None if on_cpu else TOKENS_AT_ONCE)
    n_streams = 2 + len(saes) + (0 if controls is None else len(control_names(len(saes))))

    def local(shared: tuple, per_row: tuple) -> BatchStatistics:
        arrays, *fixed = shared
        lm = eqx.combine(arrays, rest)

        def compute(per_row: tuple) -> BatchStatistics:
            with jax.default_matmul_precision(precision):
                return _statistics(lm, hook, _Shared(*fixed), _PerRow(*per_row), wanted, keep, on_cpu)

        n_rows, positions = per_row[0].shape
        return in_pieces(compute, per_row, 1 if limit is None else pieces(n_rows, n_streams * positions, limit))

    shared, per_row = (arrays, tuple(saes), hook.block, mean, zero, controls), (tokens, masks, known, row_ids)
    if mesh is None:
        return local(shared, per_row)

    def mapped(shared: tuple, per_row: tuple) -> BatchStatistics:
        out = local(shared, per_row)
        vectors = {name: lax.psum(vector, DATA) for name, vector in out.vectors.items()}
        return out._replace(vectors=vectors, latents=tuple(all_devices(c, DATA) for c in out.latents))

    n_rows = tokens.shape[0]
    shared = padded((*shared[:2], jnp.asarray(hook.block), *shared[3:]), mesh)
    of_parts: Any = P(DATA), P(None, DATA), P(), P(MODEL), P(DATA)
    run = jax.shard_map(mapped, mesh=mesh, in_specs=(specs(shared), P(DATA)), out_specs=BatchStatistics(*of_parts))
    out = run(shared, jax.tree.map(lambda x: pad_rows(x, mesh.shape[DATA]), per_row))
    return out._replace(
        rows={name: column[:n_rows] for name, column in out.rows.items()},
        saes={name: column[:, :n_rows] for name, column in out.saes.items()},
        latents=tuple(first_latents(c, sae.d_sae) for c, sae in zip(out.latents, saes, strict=False)),
        known=jax.tree.map(lambda x: x[:n_rows], out.known),
    )


def pieces(n_rows: int, tokens_per_row: int, tokens_at_once: int) -> int:
    """Into how many equal pieces to cut rows so that none has more tokens than may be there at once."""
    fitting = (n for n in range(1, n_rows) if n_rows % n == 0 and n_rows // n * tokens_per_row <= tokens_at_once)
    return next(fitting, n_rows)


def in_pieces(compute: Callable[[Any], BatchStatistics], per_row: Any, n: int) -> BatchStatistics:
    """`compute(per_row)`, piece by piece of the rows."""
    if n == 1:
        return compute(per_row)
    out = lax.map(compute, jax.tree.map(lambda x: x.reshape(n, -1, *x.shape[1:]), per_row))

    def joined(x: Array) -> Array:
        return x.reshape(-1, *x.shape[2:])

    return BatchStatistics(
        rows=jax.tree.map(joined, out.rows),
        saes=jax.tree.map(lambda x: jax.vmap(joined)(jnp.moveaxis(x, 1, 0)), out.saes),
        vectors=jax.tree.map(lambda x: x.sum(axis=0), out.vectors),
        latents=tuple(
            LatentCounts(c.fires.sum(0), c.rows.sum(0), c.total.sum(0), c.largest.max(0)) for c in out.latents
        ),
        known=jax.tree.map(joined, out.known),
    )


class _Shared(NamedTuple):
    """What is the same for all rows."""

    saes: tuple[SAE, ...]
    block: Array
    mean: Array | None
    zero: Array | None
    controls: Controls | None


class _PerRow(NamedTuple):
    """What is split over devices along its leading axis."""

    tokens: Array
    masks: Masks
    known: Known
    row_ids: Array


def default_masks(lm: HostLM, tokens: Int[Array, "row position"]) -> Masks:
    """`no-special` masks, with the special ids on the card of the LM if it has one."""
    card = card_of(lm)
    return make_masks(tokens, card.special_ids, card.pad)


def default_hook(saes: Sequence[SAE]) -> Hook:
    """The hook on the card of the first SAE.

    Raises:
        InputError: there is none.
    """
    if not saes or saes[0].card.hooks is None:
        raise InputError("no SAE says where it hooks; pass hook=")
    return parse_hook(saes[0].card.hooks)


def _statistics(
    lm: HostLM, hook: Hook, shared: _Shared, per_row: _PerRow, groups: frozenset[str], keep: bool, on_cpu: bool
) -> BatchStatistics:
    saes, controls, hook = shared.saes, shared.controls, hook.at(shared.block)
    tokens, masks, known, row_ids = per_row
    with jax.named_scope(PREFIX):
        residual = prefix(lm, hook, tokens) if known.residual is None else known.residual
        read, x = read_at_hook(lm, hook, residual)
    for sae in saes:
        check_widths(sae, hook, read.shape[-1], x.shape[-1])

    with jax.named_scope(SAES):
        codes = [Code(sae, sae.encode(read)) for sae in saes]
    counts = tuple(count_latents(code.z, masks.metric) for code in codes) if "latents" in groups else ()
    rows, vectors = {"n": by_bucket(jnp.ones(tokens.shape, jnp.int32), masks.metric)}, {}
    if "reconstruction" in groups:
        sums, vectors["x_dev"] = _input_sums(x, shared.mean, masks.metric)
        rows |= sums
    needed = groups & {"reconstruction", "loss", "curve"} or controls is not None
    with jax.named_scope(SAES):
        replacements = [Replacement(code.sae.decode(code.z, read) if needed else x, code) for code in codes]
    if controls is not None:
        replacements += control_replacements(controls, read, x, replacements, row_ids)

    columns, dtype = [{} for _ in replacements], wide_dtype(x.dtype)
    for column, (reconstruction, code) in zip(columns, replacements, strict=True):
        if "norms" in groups:
            column |= no_norm_sums(masks.metric, dtype) if code is None else norm_sums(*code, masks.metric)
        if "reconstruction" in groups:
            column |= reconstruction_sums(x, reconstruction, shared.mean, masks.metric)
    per_sae = jax.tree.map(lambda *c: jnp.stack(c), *columns) if columns else {}
    if not groups & {"loss", "curve"}:
        return BatchStatistics(rows, per_sae, vectors, counts, Known(residual) if keep else Known())
    substitutes = [r.reconstruction for r in replacements]
    after = downstream(lm, hook, tokens, masks, residual, x, substitutes, shared.zero, known.final, groups, on_cpu)
    again = Known(residual, after.final) if keep else Known()
    return BatchStatistics(rows | after.rows, per_sae | after.streams, vectors | after.vectors, counts, again)


def check_widths(sae: SAE, hook: Hook, read: int, written: int) -> None:
    """Whether an SAE fits a hook with these widths.

    Raises:
        InputError: it reads or writes another number of dimensions.
    """
    if (sae.d_in, sae.d_out) != (read, written):
        there = f"{written}" if hook.reads is None else f"{written}, and {hook.reads} has {read}"
        raise InputError(
            f"{sae.card.name}: reads {sae.d_in} and writes {sae.d_out} dimensions, but {hook.site} of this LM has "
            f"{there}; is it an SAE of another LM or hook?"
        )


def _input_sums(x, mean, mask):
    x = wide(x)
    deviation = x if mean is None else x - jnp.broadcast_to(mean, x.shape)
    kept = jnp.where(mask[..., None], deviation, jnp.zeros((), x.dtype))
    vector = by_bucket(jnp.moveaxis(kept, -1, 0), jnp.ones_like(mask)).sum(axis=1).T
    squared = square(x)
    sums = {"x_norm": over_row(jnp.sqrt(squared), mask), "x_sq": over_row(squared, mask)}
    return sums | {"x_dev_sq": by_bucket(square(deviation), mask)}, vector
