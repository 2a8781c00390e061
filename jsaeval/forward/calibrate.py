"""What is fixed before the main pass: the mean of x, and the zero ablation where it is the same in every row."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from jsaeval.corpus.masks import Masks
from jsaeval.forward.splice import at_hook, prefix, splice, suffix
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM
from jsaeval.numerics import wide


def hook_sums(
    lm: HostLM, hook: Hook, tokens: Int[Array, "row position"], mask: Bool[Array, "row position"]
) -> tuple[Float[Array, "row position d_model"], Float[Array, "row width"]]:
    """The prefix of a batch, and the sum of x over the counted tokens of each row."""
    residual = prefix(lm, hook, tokens)
    x = wide(at_hook(lm, hook, residual))
    kept = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
    return residual, jnp.sum(kept, axis=1)


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
