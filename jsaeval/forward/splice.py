"""The whole idea: text goes through the LM once; at one hook an SAE takes over; all continuations run side by side.

    tokens ──embed, blocks 0..h──▶ x ──┬──────────────────▶ clean ─┐
                                       ├─ SAE 1: x̂ in place of x ──┤  the remaining blocks, all streams in
                                       ├─ ...                      ├─ lockstep: one matrix product per weight ──▶ head
                                       ├─ SAE K ───────────────────┤  for all of them
                                       └─ (zero, controls) ────────┘

1. `prefix` runs the blocks before the hook, once for everybody.
2. `at_hook` is x, the activation that SAEs reconstruct. Between two blocks it *is* the residual stream; inside a block
   (attention output, MLP output, ...) the block is entered to read it. `read_at_hook` adds what they read, which is
   x itself but for transcoders.
3. `splice` puts a reconstruction in place of x at the tokens of the splice mask and leaves the others alone.
4. `suffix` stacks the streams as extra rows and runs them to the end. A tap watches every block: what is wanted of a
   block is reduced there and then, so nothing of size blocks × tokens × d_model exists.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jsaeval.errors import InputError
from jsaeval.hooks import SITES, Hook
from jsaeval.lm.protocol import HostLM, Tap, looks_at, no_tap


# Name of what runs the block of the hook alone, in profiles and for `jsaeval.sizing`.
ONE_BLOCK = "one_block"


def prefix(lm: HostLM, hook: Hook, tokens: Int[Array, "row position"]) -> Float[Array, "row position d_model"]:
    """The residual stream where `suffix` will pick it up: after all blocks that lie wholly before the hook."""
    return lm.run(lm.embed(tokens), 0, hook.prefix_stop)[0]


def at_hook(
    lm: HostLM, hook: Hook, residual: Float[Array, "row position d_model"]
) -> Float[Array, "row position width"]:
    """The activation x at the hook, from what `prefix` returned."""
    return residual if hook.between_blocks else _inside(lm, hook, residual, (hook.site,))[hook.site]


def read_at_hook(
    lm: HostLM, hook: Hook, residual: Float[Array, "row position d_model"]
) -> tuple[Float[Array, "row position read"], Float[Array, "row position width"]]:
    """What SAEs at the hook read, and x, which they reconstruct; from what `prefix` returned."""
    if hook.reads is None:
        x = at_hook(lm, hook, residual)
        return x, x
    found = _inside(lm, hook, residual, (hook.reads, hook.site))
    return found[hook.reads], found[hook.site]


def _inside(lm: HostLM, hook: Hook, residual: Array, sites: tuple[str, ...]) -> dict[str, Array]:
    """Activations inside the block of the hook."""

    def record(site, block, activation, state):
        return activation, state | {site: activation} if site in state else state

    record.sites = sites
    # The loop over blocks carries the state, so its shape has to be known before: ask the same code for it.
    state = {site: like(residual, (*residual.shape[:2], hook_width(lm, site))) for site in sites}
    with jax.named_scope(ONE_BLOCK):
        return lm.run(residual, hook.block, hook.block + 1, record, state)[1]


def splice(
    x: Float[Array, "row position width"],
    replacement: Float[Array, "*stream row position width"],
    mask: Bool[Array, "row position"],
) -> Float[Array, "*stream row position width"]:
    """`replacement` where the mask is set, x elsewhere."""
    where = jnp.broadcast_to(mask[..., None], replacement.shape)
    return jnp.where(where, replacement, jnp.broadcast_to(x, replacement.shape))


def suffix(
    lm: HostLM,
    hook: Hook,
    residual: Float[Array, "row position d_model"],
    streams: Float[Array, "stream row position width"],
    observe: Tap = no_tap,
    state: PyTree = None,
) -> tuple[Float[Array, "stream row position d_model"], PyTree]:
    """Run all streams from the hook to the end, in lockstep.

    Args:
        lm: the language model.
        hook: where the streams differ.
        residual: what `prefix` returned.
        streams: the activation at the hook, one per stream; the first is x itself.
        observe: called at every site after the splice, with the streams as extra rows.
        state: initial state of `observe`.

    Returns:
        The final normed residual stream of each stream, and the last state.
    """
    n_streams, row, position, width = streams.shape
    flat = streams.reshape(n_streams * row, position, width)
    if hook.between_blocks:
        wide = flat
        first = hook.prefix_stop
    else:

        def replace(site, block, activation, state):
            return observe(site, block, flat if site == hook.site else activation, state)

        replace.sites = (hook.site, *(site for site in SITES if looks_at(observe, site)))
        wide = jnp.broadcast_to(residual, (n_streams, *residual.shape)).reshape(-1, *residual.shape[1:])
        with jax.named_scope(ONE_BLOCK):
            wide, state = lm.run(wide, hook.block, hook.block + 1, replace, state)
        first = hook.block + 1
    wide, state = lm.run(wide, first, lm.n_blocks, observe, state)
    return lm.final(wide).reshape(n_streams, row, position, lm.d_model), state


def hook_width(lm: HostLM, site: str) -> int:
    """Size of the activation at a site.

    Raises:
        InputError: the LM does not pass this site, or not `hook_resid_post`, where blocks are compared.
    """
    seen = {}

    def look(site, block, activation, state):
        seen[site] = activation.shape[-1]
        return activation, state

    jax.eval_shape(lambda: lm.run(lm.embed(jnp.zeros((1, 1), jnp.int32)), 0, 1, look)[0])
    for needed in (site, "hook_resid_post"):
        if needed not in seen:
            raise InputError(f"this LM has no site {needed!r}; it passes {', '.join(seen) or 'none'}")
    return seen[site]


def like(x: Array, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> Array:
    """Zeros that vary over the same mesh axes as `x`, as the initial value of something that a loop will fill."""
    seed = jnp.zeros_like(x.reshape(-1)[:1], dtype)
    return jnp.broadcast_to(seed.reshape((1,) * len(shape)), shape)
