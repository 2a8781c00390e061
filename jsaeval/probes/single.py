"""Probes on one feature: for every feature at once, the logistic regression that predicts a label from it alone.

Gao et al. 2024 (arXiv 2406.04093, §4.2) fit one to each latent by Newton's method and keep the best. Here the method is
exact for both parameters (a 2 × 2 system per feature) and damped: where a step has gone past the minimum along its
direction it is halved, so that it converges on separable labels, too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


RIDGE = 1e-4
ITERATIONS = 50
# Largest derivative of the objective (nats) at which a probe counts as converged.
TOLERANCE = 1e-5
# Features at a time; their activations stay in a CPU's cache.
CHUNK = 128


class SingleProbes(NamedTuple):
    """σ(weight · (f − mean) / scale + bias) per feature.

    `objective` is BCE + 1e-4 · weight², `bce` without the penalty, both on the training examples in nats. A feature
    that is constant there has weight 0.
    """

    weight: Float[Array, " feature"]
    bias: Float[Array, " feature"]
    mean: Float[Array, " feature"]
    scale: Float[Array, " feature"]
    objective: Float[Array, " feature"]
    bce: Float[Array, " feature"]
    converged: Bool[Array, " feature"]
    iterations: Int[Array, ""]

    def logits(self, features: Float[Array, "example feature"]) -> Float[Array, "example feature"]:
        standard = (features - self.mean[None]) / self.scale[None]
        return standard * self.weight[None] + self.bias[None]


def single_probes(
    features: Float[Array, "example feature"], labels: Bool[Array, " example"], counts: Bool[Array, " example"]
) -> SingleProbes:
    """Fit a probe on each feature.

    Args:
        features: activations.
        labels: of the examples.
        counts: which examples train; the others are ignored (they may fill up a fixed shape).
    """
    n_features = features.shape[1]
    pieces = -(-n_features // CHUNK)
    padded = jnp.pad(features, [(0, 0), (0, pieces * CHUNK - n_features)])
    by_piece = padded.T.reshape(pieces, CHUNK, -1)
    out = lax.map(lambda piece: _fit(piece, labels, counts), by_piece)
    flat = [x.reshape(-1)[:n_features] for x in out[:-1]]
    return SingleProbes(*flat, iterations=jnp.max(out.iterations))


class _State(NamedTuple):
    point: Float[Array, "parameter feature"]
    step: Float[Array, "parameter feature"]
    slope: Float[Array, " feature"]
    gradient: Float[Array, "parameter feature"]
    iteration: Int[Array, ""]


def _fit(f: Float[Array, "feature example"], labels: Bool[Array, " example"], counts: Bool[Array, " example"]):
    weight = counts.astype(f.dtype) / jnp.sum(counts, dtype=f.dtype)
    y = labels.astype(f.dtype)
    mean = f @ weight
    deviation = f - mean[:, None]
    scale = jnp.sqrt(jnp.square(deviation) @ weight)
    constant = scale <= 1e-6 * jnp.max(jnp.abs(f), axis=1)
    scale = jnp.where(constant, 1.0, scale)
    f = jnp.where(constant[:, None], 0.0, deviation / scale[:, None])

    def newton(state: _State) -> _State:
        w, b = state.point
        p = jax.nn.sigmoid(f * w[:, None] + b[:, None])
        residual = (p - y[None]) * weight[None]
        curvature = p * (1 - p) * weight[None]
        gradient = jnp.stack([jnp.sum(residual * f, axis=1) + 2 * RIDGE * w, jnp.sum(residual, axis=1)])
        weighted = curvature * f
        ww = jnp.sum(weighted * f, axis=1) + 2 * RIDGE
        wb, bb = jnp.sum(weighted, axis=1), jnp.sum(curvature, axis=1) + 1e-9
        determinant = ww * bb - wb * wb
        step = (
            -jnp.stack([bb * gradient[0] - wb * gradient[1], ww * gradient[1] - wb * gradient[0]]) / determinant[None]
        )
        step *= jnp.minimum(1.0, 8.0 / jnp.linalg.norm(step, axis=0))[None]
        # The objective is convex: a positive slope here along the last step means that the step was too long.
        beyond = jnp.sum(gradient * state.step, axis=0) > 0.5 * jnp.abs(state.slope)
        half = -state.step / 2
        step = jnp.where(beyond[None], half, step)
        slope = jnp.where(beyond, state.slope / 2, jnp.sum(gradient * step, axis=0))
        done = jnp.max(jnp.abs(gradient), axis=0) <= TOLERANCE
        point = jnp.where(done[None], state.point, state.point + step)
        # After a half step back the rest of the step is the other half, in its own direction.
        step = jnp.where(beyond[None], -half, step)
        return _State(point, step, slope, gradient, state.iteration + 1)

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.iteration < ITERATIONS) & jnp.any(jnp.abs(state.gradient) > TOLERANCE)

    rate = jnp.clip(y @ weight, 1e-6, 1 - 1e-6)
    start = jnp.stack([jnp.zeros_like(mean), jnp.broadcast_to(jnp.log(rate) - jnp.log1p(-rate), mean.shape)])
    zero = jnp.zeros_like(start)
    state = lax.while_loop(unfinished, newton, _State(start, zero, zero[0], zero + jnp.inf, jnp.int32(0)))
    w, b = state.point
    z = f * w[:, None] + b[:, None]
    bce = (jax.nn.softplus(z) - y[None] * z) @ weight
    converged = jnp.max(jnp.abs(state.gradient), axis=0) <= TOLERANCE
    return SingleProbes(w, b, mean, scale, bce + RIDGE * jnp.square(w), bce, converged, state.iteration)
