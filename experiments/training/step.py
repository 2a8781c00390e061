"""One step of training many SAEs on one batch: the LM runs once, the SAEs are mapped."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from experiments.training import dictionary
from experiments.training.dictionary import Dictionary, mean_over
from experiments.training.losses import end_to_end, penalty_weight
from experiments.training.recipe import Recipe
from jsaeval.corpus.masks import Masks
from jsaeval.forward.batch import default_masks
from jsaeval.forward.splice import at_hook, prefix
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM
from jsaeval.sae.module import SAE


class Group(eqx.Module):
    """The SAEs of one recipe, stacked on a leading axis.

    `silent`: tokens since a latent last fired. `threshold`: running mean of that of batch_topk.
    """

    weights: Dictionary
    optimiser: Any
    silent: Int[Array, "sae latent"]
    threshold: Float[Array, " sae"]


class Observed(NamedTuple):
    """What a step says of each SAE: the loss; ‖x − x̂‖² as a share of the variance of x; mean number of active
    latents; latents that have been silent for too long."""

    loss: Float[Array, " sae"]
    fvu: Float[Array, " sae"]
    l0: Float[Array, " sae"]
    dead: Int[Array, " sae"]


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        steps, lr: Adam with a linear warm-up of 5 %, a constant, and a linear decay over the last 30 %.
        penalty_warmup: share of the steps over which λ grows from 0.
        dead_after: tokens of silence after which a latent is dead.
        aux: weight of the loss that revives dead latents (topk, batch_topk, matryoshka with the local objective).
    """

    steps: int
    lr: float = 1e-3
    penalty_warmup: float = 0.1
    dead_after: int = 100_000
    aux: float = 1 / 32

    def optimiser(self) -> optax.GradientTransformation:
        warm, fall = max(1, self.steps // 20), max(1, int(0.3 * self.steps))
        schedule = optax.join_schedules(
            [
                optax.linear_schedule(0.0, self.lr, warm),
                optax.constant_schedule(self.lr),
                optax.linear_schedule(self.lr, 0.0, fall),
            ],
            [warm, self.steps - fall],
        )
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


@dataclass(frozen=True)
class Units:
    """Of the activation: `scale` makes its average norm sqrt(d); mean and variance after that."""

    scale: float
    mean: Float[np.ndarray, " d_in"]
    spread: float

    @staticmethod
    def of(x: Float[np.ndarray, "token d_in"]) -> "Units":
        x = np.asarray(x, np.float64)
        scale = float(x.shape[1] ** 0.5 / np.linalg.norm(x, axis=1).mean())
        return Units(
            scale, (x.mean(0) * scale).astype(np.float32), float(np.square((x - x.mean(0)) * scale).sum(1).mean())
        )


def start(recipe: Recipe, units: Units, training: Training) -> Group:
    """A group before its first step; its SAEs begin with the same weights."""
    n, one = len(recipe.sparsity), dictionary.initial(recipe, units.mean)
    weights = jax.tree.map(lambda w: jnp.repeat(w[None], n, axis=0), one)
    return Group(
        weights=weights,
        optimiser=jax.vmap(training.optimiser().init)(weights),
        silent=jnp.zeros((n, recipe.width), jnp.int32),
        threshold=jnp.zeros(n),
    )


def make_step(lm: HostLM, hook: Hook, recipes: Sequence[Recipe], units: Units, training: Training):
    """A jitted `(groups, lm arrays, batch, number) -> (groups, Observed of each group)`.

    The batch is tokens (row, position), or activations (token, d_in) when every objective is local.
    """
    _, rest = eqx.partition(lm, eqx.is_array)
    optimiser = training.optimiser()

    def enter(lm, batch) -> tuple[Array | None, Array, Masks | None, Array, Array]:
        if not jnp.issubdtype(batch.dtype, jnp.integer):
            x = batch.astype(jnp.float32)[None]
            return None, x, None, jnp.ones(x.shape[:2], bool), x * units.scale
        tokens = batch.astype(jnp.int32)
        masks, residual = default_masks(lm, tokens), prefix(lm, hook, tokens)
        x = at_hook(lm, hook, residual)
        return residual, x, masks, masks.metric, x * units.scale

    def group_loss(weights, group, recipe, lm, tokens, entered, number):
        residual, x, masks, mask, scaled = entered
        sparsity = jnp.asarray(recipe.sparsity, jnp.float32)
        dead = group.silent > training.dead_after
        local = recipe.objective == "local"

        def one(p, sparsity):
            coded = dictionary.encode(p, recipe, sparsity, scaled, mask)
            errors = dictionary.squared_error(p, recipe, coded.z, scaled)
            fvu, error = (mean_over(value, mask) / units.spread for value in errors)
            decoded = None if local else dictionary.decode(p, coded.z) / units.scale
            return coded, fvu, error, dictionary.fired(coded.z, mask), decoded

        coded, fvu, error, fires, decoded = jax.vmap(one)(weights, sparsity)
        main = error if decoded is None else end_to_end(lm, hook, tokens, masks, residual, x, decoded, recipe)
        extra = coded.extra / units.spread
        if recipe.counted and local and training.aux:
            revive = jax.vmap(lambda p, z, dead: dictionary.revive(p, z, scaled, mask, dead))
            # Decided for all SAEs together: mapped over them, a `cond` would compute both sides.
            extra += training.aux * jax.lax.cond(
                dead.any(), lambda: revive(weights, coded.z, dead), lambda: jnp.zeros(len(dead))
            )
        weight = 0.0 if recipe.counted else penalty_weight(recipe, x.shape[-1], units.scale, units.spread)
        grown = jnp.minimum(1.0, number / max(1.0, training.penalty_warmup * training.steps))
        loss = main + grown * weight * sparsity * coded.penalty + (extra if local else 0.0)
        l0 = fires.sum(-1) / mask.sum()
        return loss.sum(), (Observed(loss, fvu, l0, dead.sum(-1)), coded.threshold, fires, mask.sum())

    def one_group(group: Group, recipe: Recipe, lm, tokens, entered, number):
        compute = jax.value_and_grad(group_loss, has_aux=True)
        (_, (observed, threshold, fires, n)), gradient = compute(
            group.weights, group, recipe, lm, tokens, entered, number
        )
        if recipe.frozen_decoder:
            gradient = dataclasses.replace(gradient, W_dec=jnp.zeros_like(gradient.W_dec))
        updates, state = jax.vmap(optimiser.update)(gradient, group.optimiser)
        weights = jax.vmap(dictionary.unit_rows)(eqx.apply_updates(group.weights, updates))
        # The mean of the first few thresholds, then an exponential one.
        share = jnp.maximum(1 / (number + 1), 1 / dictionary.MEMORY)
        return (
            Group(
                weights=weights,
                optimiser=state,
                silent=jnp.where(fires > 0, 0, group.silent + n.astype(jnp.int32)),
                threshold=group.threshold + share * (threshold - group.threshold),
            ),
            observed,
        )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(groups, arrays, batch, number):
        lm = eqx.combine(arrays, rest)
        entered = enter(lm, batch)
        done = [
            one_group(group, recipe, lm, batch.astype(jnp.int32), entered, number.astype(jnp.float32))
            for group, recipe in zip(groups, recipes, strict=True)
        ]
        return tuple(group for group, _ in done), tuple(observed for _, observed in done)

    return step


def finished(group: Group, recipe: Recipe, units: Units) -> list[SAE]:
    """The SAEs of a group in the units of the LM."""
    return [
        dictionary.export(
            jax.tree.map(lambda w, i=i: w[i], group.weights), recipe, value, float(group.threshold[i]), units.scale
        )
        for i, value in enumerate(recipe.sparsity)
    ]
