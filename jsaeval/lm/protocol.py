"""What the package needs to know of a language model, and nothing more.

Anything that satisfies `HostLM` can be evaluated: the package's own `Decoder`, or someone else's model behind an
adapter, which has to be a pytree, because it crosses `jax.jit`. For a model with its blocks in a Python list,
`jsaeval.lm.adapters.BlockwiseLM` is most of one; `experiments/hosts` has adapters for Flax NNX, Penzai and Equinox.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, PyTree

from jsaeval.errors import InputError


Block = int | Int[Array, ""]


@runtime_checkable
class Tap(Protocol):
    """A pure function that sees the activation at every hook site of every block that runs, in order.

    It returns the activation to continue with (the same one, or another one of its shape: a splice) and the state it
    carries along (what it recorded). The block index may be traced, the site is a Python string. Carrying the
    state through the loop, instead of stacking outputs, is what lets a reduction over a block happen at once.
    """

    def __call__(self, site: str, block: Block, activation: Array, state: PyTree) -> tuple[Array, PyTree]: ...


def no_tap(site: str, block: Block, activation: Array, state: PyTree) -> tuple[Array, PyTree]:
    """The identity tap."""
    return activation, state


no_tap.sites = ()


def looks_at(tap: Tap, site: str) -> bool:
    """Whether a tap may do anything at a site: a tap may say so in an attribute `sites`, which can save work."""
    return site in getattr(tap, "sites", (site,))


def logit_cap_of(lm: Any) -> float | None:
    """c of the soft cap c tanh(z / c) on the logits z of a host LM, from its attribute `logit_cap` if it has one."""
    return getattr(lm, "logit_cap", None)


@runtime_checkable
class HostLM(Protocol):
    """A causal language model cut into pieces that can be run separately.

    `final(run(embed(tokens), 0, n_blocks)[0]) @ unembedding.T` are the logits, or c tanh(z / c) of these z where the
    model has an attribute `logit_cap` that is c and not None.

    `run` takes static bounds (then it can be differentiated) or traced ones (then one compiled program serves
    every hook). It calls the tap at `hook_resid_post` of every block, and at those other sites of `jsaeval.hooks.SITES`
    where SAEs are to read, in that order. `attn.hook_z` is given with its heads flattened, head by head.

    It may have a `card` (`jsaeval.lm.card.LMCard`): which tokens are special, and where the tokenizer is.
    """

    @property
    def n_blocks(self) -> int: ...

    @property
    def d_model(self) -> int: ...

    @property
    def vocab(self) -> int: ...

    @property
    def unembedding(self) -> Float[Array, "vocab d_model"]: ...

    def embed(self, tokens: Int[Array, "row position"]) -> Float[Array, "row position d_model"]: ...

    def run(
        self,
        residual: Float[Array, "row position d_model"],
        start: Block,
        stop: Block,
        tap: Tap = no_tap,
        state: Any = None,
    ) -> tuple[Float[Array, "row position d_model"], PyTree]: ...

    def final(self, residual: Float[Array, "row position d_model"]) -> Float[Array, "row position d_model"]: ...


def check_host(lm: Any) -> None:
    """Raises InputError where something is no `HostLM` at all, such as a model without an adapter."""
    members = "n_blocks", "d_model", "vocab", "unembedding", "embed", "run", "final"
    if missing := [name for name in members if not hasattr(lm, name)]:
        raise InputError(
            f"lm: {type(lm).__name__} has no {', '.join(missing)}; wrap it in an adapter, see jsaeval.BlockwiseLM"
        )
