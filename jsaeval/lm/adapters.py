"""A base class for adapters of models that keep their blocks in a Python list: most models that people write.

`HostLM.run` gets traced bounds where one compiled program serves every hook. A list cannot be indexed by a traced
number, and stacking the blocks would copy their weights. So every block is compiled as a branch of its own, and the
loop chooses between them. With static bounds the blocks follow one another, which can be differentiated.

A model whose blocks are stacked on a leading axis needs none of this: `jax.lax.fori_loop` over
`jax.lax.dynamic_index_in_dim`, as in `jsaeval.lm.decoder`, takes bounds of either kind and compiles one block.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jsaeval.lm.card import LMCard
from jsaeval.lm.protocol import Block, Tap, no_tap


# `at(site, activation)` shows the tap an activation (row, position, width), and gives the one to go on with.
At = Callable[[str, Array], Array]


class BlockwiseLM(eqx.Module):
    """A `jsaeval.lm.protocol.HostLM` of someone else's model. What a subclass has to say is abstract here.

    The model, or whatever it can be made from, is a field of the subclass; its arrays stay the model's own buffers. On
    a mesh every device has all of them. `experiments/hosts` has one for Flax NNX, one for Penzai and one for Equinox.

    `card`: name and special tokens, if they matter; with `source` a folder that has the tokenizer, text can be given.
    """

    card: LMCard = eqx.field(static=True, default=LMCard(), kw_only=True)

    @property
    @abc.abstractmethod
    def blocks(self) -> Sequence[Any]:
        """The model's blocks; they need not be alike."""

    @property
    @abc.abstractmethod
    def unembedding(self) -> Float[Array, "vocab d_model"]:
        """The output matrix."""

    @abc.abstractmethod
    def embed(self, tokens: Int[Array, "row position"]) -> Float[Array, "row position d_model"]:
        """The residual stream before the first block."""

    @abc.abstractmethod
    def apply(self, block: Any, residual: Float[Array, "row position d_model"], at: At) -> Array:
        """The residual stream (row, position, d_model) after a block.

        The residual stream before and after is a hook anyway. For hooks inside the block, call `at(site, activation)`
        at sites of `jsaeval.hooks.SITES`, in their order, and go on with what it returns. Do so outside of `jax.vmap`,
        `jax.lax.scan` and the like: a tap sees whole batches.
        """

    @abc.abstractmethod
    def final(self, residual: Float[Array, "row position d_model"]) -> Float[Array, "row position d_model"]:
        """What the unembedding is applied to."""

    @property
    def n_blocks(self) -> int:
        return len(self.blocks)

    @property
    def d_model(self) -> int:
        return jax.eval_shape(lambda: self.unembedding).shape[1]

    @property
    def vocab(self) -> int:
        return jax.eval_shape(lambda: self.unembedding).shape[0]

    def run(
        self,
        residual: Float[Array, "row position d_model"],
        start: Block,
        stop: Block,
        tap: Tap = no_tap,
        state: Any = None,
    ) -> tuple[Float[Array, "row position d_model"], PyTree]:
        blocks = self.blocks

        def visit(block: Any, index: Block, residual: Array, state: PyTree) -> tuple[Array, PyTree]:
            def at(site: str, activation: Array) -> Array:
                nonlocal state
                activation, state = tap(site, index, activation, state)
                return activation

            residual = self.apply(block, at("hook_resid_pre", residual), at)
            return at("hook_resid_post", residual), state

        if isinstance(start, int) and isinstance(stop, int):
            for index in range(start, stop):
                residual, state = visit(blocks[index], index, residual, state)
            return residual, state

        def body(index, carry):
            branches = [lambda carry, block=block: visit(block, index, *carry) for block in blocks]
            return lax.switch(index, branches, carry)

        return lax.fori_loop(start, stop, body, (residual, state))
