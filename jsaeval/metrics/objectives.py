"""The four differentiable metrics as plain functions `(lm, sae, tokens) -> scalar` that `jax.grad` accepts.

They give the numbers of the report on one batch (masks as by default), so an SAE can be trained on what it is judged
by: `mse` and `l1` are the local objective, `downstream_loss` the end-to-end one, and with `downstream_reconstruction`
the third of Braun et al. 2024 (arXiv 2405.12241, §2). Differentiate with respect to `sae`; the LM is a constant.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jsaeval.corpus.masks import Masks
from jsaeval.forward.batch import default_hook, default_masks
from jsaeval.forward.downstream import curve_tap
from jsaeval.forward.head import head
from jsaeval.forward.splice import prefix, read_at_hook, splice, suffix
from jsaeval.forward.sums import over_row, square
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM, logit_cap_of
from jsaeval.numerics import wide
from jsaeval.sae.module import SAE


Scalar = Float[Array, ""]


def mse(
    lm: HostLM,
    sae: SAE,
    tokens: Int[Array, "row position"],
    *,
    hook: Hook | None = None,
    masks: Masks | None = None,
    precision: str = "highest",
) -> Scalar:
    """mean_t ‖x_t − x̂_t‖², summed over the width (METRICS.md, `mse`).

    Args:
        lm: the language model.
        sae: the SAE; differentiate with respect to it.
        tokens: token ids.
        hook: where the SAE reads; default from its card.
        masks: default `no-special`.
        precision: of matrix products.

    Raises:
        InputError: no hook is known.
    """
    with jax.default_matmul_precision(precision):
        _, _, masks, read, x = _enter(lm, sae, tokens, hook, masks)
        return _mean(_squared_error(sae, read, x), masks.metric)


def l1(
    lm: HostLM,
    sae: SAE,
    tokens: Int[Array, "row position"],
    *,
    hook: Hook | None = None,
    masks: Masks | None = None,
    precision: str = "highest",
) -> Scalar:
    """mean_t Σ_i |z_ti| (METRICS.md, `l1`). Arguments as for `mse`."""
    with jax.default_matmul_precision(precision):
        _, _, masks, read, _ = _enter(lm, sae, tokens, hook, masks)
        return _mean(jnp.sum(jnp.abs(wide(sae.encode(read))), axis=-1), masks.metric)


def downstream_reconstruction(
    lm: HostLM,
    sae: SAE,
    tokens: Int[Array, "row position"],
    *,
    hook: Hook | None = None,
    masks: Masks | None = None,
    precision: str = "highest",
) -> Scalar:
    """Mean over blocks k after the hook of mean_t ‖a_t^k − â_t^k‖² (METRICS.md). Arguments as for `mse`."""
    with jax.default_matmul_precision(precision):
        hook, residual, masks, read, x = _enter(lm, sae, tokens, hook, masks)
        streams = _streams(sae, read, x, masks)
        observe, state = curve_tap(lm, 1, streams, masks.metric)
        _, curve = suffix(lm, hook, residual, streams, observe, state)
        n_after = lm.n_blocks - hook.prefix_stop
        return _per_token(curve["sse"], masks.metric) / n_after


def downstream_loss(
    lm: HostLM,
    sae: SAE,
    tokens: Int[Array, "row position"],
    *,
    hook: Hook | None = None,
    masks: Masks | None = None,
    precision: str = "highest",
) -> Scalar:
    """mean_t KL(p_t ‖ q_t) in nats, clean first (METRICS.md, `downstream_loss`). Arguments as for `mse`."""
    with jax.default_matmul_precision(precision):
        hook, residual, masks, read, x = _enter(lm, sae, tokens, hook, masks)
        final, _ = suffix(lm, hook, residual, _streams(sae, read, x, masks))
        none = jnp.zeros((0, *final.shape[2:]), final.dtype)
        _, spliced, _ = head(lm.unembedding, final, none, tokens, lm.vocab, logit_cap=logit_cap_of(lm))
        return _mean(spliced.kl[0], masks.metric)


def _enter(lm, sae, tokens, hook, masks):
    hook = default_hook([sae]) if hook is None else hook
    masks = default_masks(lm, tokens) if masks is None else masks
    residual = prefix(lm, hook, tokens)
    return hook, residual, masks, *read_at_hook(lm, hook, residual)


def _streams(sae: SAE, read, x, masks: Masks):
    return jnp.stack([x, splice(x, sae.decode(sae.encode(read), read).astype(x.dtype), masks.splice)])


def _squared_error(
    sae: SAE, read: Float[Array, "*batch d_in"], x: Float[Array, "*batch d_out"]
) -> Float[Array, "*batch"]:
    return square(wide(x) - wide(sae.decode(sae.encode(read), read)))


def _mean(values: Float[Array, "row position"], mask: Bool[Array, "row position"]) -> Scalar:
    return _per_token(over_row(values, mask), mask)


def _per_token(sums: Float[Array, "..."], mask: Bool[Array, "row position"]) -> Scalar:
    return jnp.sum(sums) / jnp.sum(mask).astype(sums.dtype)
