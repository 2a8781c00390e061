"""Which tokens count, and where the SAE takes over (METRICS.md, Notation).

Works on numpy arrays on the host and on JAX arrays inside `jit` alike.
"""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Integer


MaskName = Literal["no-special", "all"]
if TYPE_CHECKING:
    AnyArray = Any
else:
    AnyArray = jax.Array | np.ndarray


class Masks(NamedTuple):
    """Boolean arrays of shape (row, position).

    `valid`: every token but padding. `metric`: those that enter a mean. `splice`: those whose activation is replaced.
    """

    valid: Bool[AnyArray, "row position"]
    metric: Bool[AnyArray, "row position"]
    splice: Bool[AnyArray, "row position"]


def make_masks(
    tokens: Integer[AnyArray, "row position"],
    special_ids: tuple[int, ...] = (),
    pad: int | None = None,
    metric: MaskName = "no-special",
    splice: MaskName | None = None,
) -> Masks:
    """Masks of rows of tokens.

    Args:
        tokens: token ids.
        special_ids: BOS, EOS and PAD of the tokenizer.
        pad: the padding id. A run of it at the end of a row is padding.
        metric: `no-special` leaves out padding, special tokens and position 0 of each row; `all` only padding.
        splice: the same choice for the spliced tokens; default as `metric`.
    """
    xp = jnp if isinstance(tokens, jax.Array) else np
    valid = xp.ones(tokens.shape, bool)
    if pad is not None:
        valid = xp.flip(xp.cumsum(xp.flip(tokens != pad, axis=-1), axis=-1), axis=-1) > 0
    ordinary = valid & xp.broadcast_to(xp.arange(tokens.shape[-1]) > 0, tokens.shape)
    for special in special_ids:
        ordinary &= tokens != special
    choice = {"no-special": ordinary, "all": valid}
    return Masks(valid, choice[metric], choice[splice or metric])
