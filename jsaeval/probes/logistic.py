"""Logistic regression with an L1 or L2 penalty: many strengths and folds of one data set as one program.

The objectives are scikit-learn's, over the examples that count, with an intercept b that is not penalised:

    L2:  ½ ‖w‖² + C Σ_i log(1 + exp(−s_i (w·x_i + b)))        L1:  ‖w‖₁ + C Σ_i log(1 + exp(−s_i (w·x_i + b)))

L2 is optax's L-BFGS in the coordinates of the singular vectors of the centred features, each scaled by the curvature
that the objective has there at w = 0, in which a handful of steps suffice. There are never more of them than examples,
and the optimum has no part outside them, so a probe on 100,000 latents costs what one on all examples does.

L1 is a proximal Newton method (Friedman, Hastie and Tibshirani 2010; Yuan, Ho and Lin 2012): coordinate descent on the
quadratic model of the loss, with exact zeros, and a line search. L-BFGS on w = u ⊙ v, whose penalty is smooth, was
tried and did not converge in float32 where the penalty is weak or strong.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int


Penalty = Literal["l1", "l2"]
# Largest violation of the optimality conditions, relative to the largest gradient at w = 0, of a fit that converged.
TOLERANCE = 1e-3
L2_STEPS, L1_STEPS, SWEEPS, HALVINGS = 200, 40, 20, 8


class Fits(NamedTuple):
    """One per fold and strength.

    `objective` is that of the module's head divided by C n (nats a training example). `violation`: how far the gradient
    is from the conditions of the optimum, relative to the largest gradient at w = 0.
    """

    weights: Float[Array, "fold strength feature"]
    bias: Float[Array, "fold strength"]
    objective: Float[Array, "fold strength"]
    violation: Float[Array, "fold strength"]
    steps: Int[Array, "fold strength"]

    @property
    def converged(self) -> Bool[Array, "fold strength"]:
        return self.violation <= TOLERANCE

    def logits(self, features: Float[Array, "example feature"]) -> Float[Array, "fold strength example"]:
        return jnp.einsum("nf,csf->csn", features, self.weights) + self.bias[..., None]


def fit_logistic(
    features: Float[Array, "example feature"],
    labels: Bool[Array, " example"],
    counts: Bool[Array, "fold example"],
    strengths: Float[Array, " strength"],
    penalty: Penalty,
) -> Fits:
    """Fit every strength on every fold.

    Args:
        features: activations, not standardised.
        labels: of the examples.
        counts: which examples train, per fold.
        strengths: C of scikit-learn; large means little penalty.
        penalty: "l1" or "l2".
    """
    dtype, some = features.dtype, jnp.any(counts, axis=0)
    n = jnp.sum(some, dtype=dtype)
    mean = jnp.sum(jnp.where(some[:, None], features, 0.0), axis=0) / n
    x = jnp.where(some[:, None], features - mean[None], 0.0)
    y = labels.astype(dtype)
    if penalty == "l2":
        fit = functools.partial(_fit_l2, *_spectrum(x))
    else:
        scale = jnp.sqrt(jnp.sum(jnp.square(x), axis=0) / n)
        scale = jnp.where(scale > 0, scale, 1.0)
        fit = functools.partial(_fit_l1, x / scale[None], 1 / scale)

    def one(counts: Bool[Array, " example"], strength: Float[Array, ""]) -> Fits:
        share = counts.astype(dtype) / jnp.sum(counts, dtype=dtype)
        rate = 1 / (strength * jnp.sum(counts, dtype=dtype))
        w, b, steps = fit(y, share, rate)
        value, violation = _check(x, y, share, rate, w, b, penalty)
        return Fits(w, b - mean @ w, value, violation, steps)

    return jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))(counts, strengths)


def _loss(z: Float[Array, " example"], y: Float[Array, " example"], share: Float[Array, " example"]):
    """Mean BCE of logits, in nats."""
    return jnp.sum(share * (jax.nn.softplus(z) - y * z))


def _alone(y: Float[Array, " example"], share: Float[Array, " example"]) -> Float[Array, ""]:
    """The bias that is best alone."""
    rate = jnp.clip(jnp.sum(share * y), 1e-6, 1 - 1e-6)
    return jnp.log(rate) - jnp.log1p(-rate)


def _check(x, y, share, rate, w, b, penalty: Penalty) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Objective, and violation of its optimality conditions."""
    z = x @ w + b
    residual = share * (jax.nn.sigmoid(z) - y)
    gradient = residual @ x
    if penalty == "l2":
        value = rate / 2 * jnp.sum(jnp.square(w))
        off = jnp.abs(gradient + rate * w)
    else:
        value = rate * jnp.sum(jnp.abs(w))
        at_zero = jnp.maximum(jnp.abs(gradient) - rate, 0.0)
        off = jnp.where(w == 0, at_zero, jnp.abs(gradient + rate * jnp.sign(w)))
    start = share * (jax.nn.sigmoid(_alone(y, share)) - y)
    largest = jnp.maximum(jnp.max(jnp.abs(start @ x)), 1e-12)
    return _loss(z, y, share) + value, jnp.maximum(jnp.max(off), jnp.abs(jnp.sum(residual))) / largest


def _spectrum(x: Float[Array, "example feature"]) -> tuple[Array, Array, Array]:
    """Scores of the examples on the right singular vectors, these vectors, and the squared singular values."""
    if x.shape[0] < x.shape[1]:
        squares, left = jnp.linalg.eigh(x @ x.T)
        squares = jnp.maximum(squares, 0.0)
        kept = squares > 1e-7 * jnp.max(squares)
        inverse = jnp.where(kept, lax.rsqrt(jnp.where(kept, squares, 1.0)), 0.0)
        vectors = x.T @ (left * inverse[None])
    else:
        squares, vectors = jnp.linalg.eigh(x.T @ x)
        squares = jnp.maximum(squares, 0.0)
    return x @ vectors, vectors, squares


def _fit_l2(scores, vectors, squares, y, share, rate):
    curvature = squares * jnp.max(share) / 4 + rate
    scale = lax.rsqrt(jnp.maximum(curvature, 1e-12 * jnp.max(curvature)))

    solver = optax.scale_by_lbfgs(memory_size=10)
    update: Any = solver.update
    lengths = jnp.exp2(jnp.arange(1, -9, -1, dtype=scores.dtype))

    def size(v: Float[Array, " direction"]) -> Float[Array, ""]:
        return rate / 2 * jnp.sum(jnp.square(v * scale))

    def body(carry: Any) -> Any:
        v, b, z, state, before, stalled, count = carry
        residual = share * (jax.nn.sigmoid(z) - y)
        gradient = scale * (residual @ scores) + rate * jnp.square(scale) * v, jnp.sum(residual)
        (to_v, to_b), state = update(gradient, state, (v, b))
        along = scores @ (scale * to_v) + to_b
        # Logits are linear in the parameters, so a line search needs no product: all lengths are tried at once.
        values = jax.vmap(lambda t: _loss(z - t * along, y, share) + size(v - t * to_v))(lengths)
        t = jnp.where(jnp.min(values) < before, lengths[jnp.argmin(values)], 0.0)
        value = jnp.minimum(jnp.min(values), before)
        stalled = jnp.where(before - value > 2e-7 * value, 0, stalled + 1)
        return v - t * to_v, b - t * to_b, z - t * along, state, value, stalled, count + 1

    v, b = jnp.zeros_like(squares), _alone(y, share)
    z = jnp.broadcast_to(b, scores.shape[:1])
    start = v, b, z, solver.init((v, b)), _loss(z, y, share), jnp.int32(0), jnp.int32(0)
    end: Any = lax.while_loop(lambda carry: (carry[6] < L2_STEPS) & (carry[5] < 3), body, start)
    return vectors @ (end[0] * scale), end[1], end[6]


def _fit_l1(x, inverse, y, share, rate):
    """Columns of `x` are scaled to unit variance by `inverse`; the penalty is that of the unscaled ones."""
    level = rate * inverse

    def objective(w, b):
        return _loss(x @ w + b, y, share) + jnp.sum(level * jnp.abs(w))

    def newton(carry):
        w, b, value, _, steps = carry
        p = jax.nn.sigmoid(x @ w + b)
        residual, curvature = share * (p - y), share * jnp.maximum(p * (1 - p), 1e-6)
        gradient, gradient_b = residual @ x, jnp.sum(residual)
        weighted = x * curvature[:, None]
        hessian, with_b, of_b = weighted.T @ x, jnp.sum(weighted, axis=0), jnp.sum(curvature)
        # The best change of b for any change of w goes into the model of w.
        hessian -= with_b[:, None] * (with_b / of_b)[None]
        model = gradient - with_b * (gradient_b / of_b)
        step = _descend(hessian, model, w, level)
        step_b = -(gradient_b + with_b @ step) / of_b
        expected = gradient @ step + gradient_b * step_b + jnp.sum(level * (jnp.abs(w + step) - jnp.abs(w)))

        def too_long(trial):
            t, halvings = trial
            worse = objective(w + t * step, b + t * step_b) > value + 1e-3 * t * expected
            return worse & (halvings < HALVINGS)

        t, _ = lax.while_loop(too_long, lambda trial: (trial[0] / 2, trial[1] + 1), (jnp.ones(()), jnp.int32(0)))
        new = w + t * step, b + t * step_b
        new_value = objective(*new)
        better = new_value < value
        w, b = jnp.where(better, new[0], w), jnp.where(better, new[1], b)
        return w, b, jnp.minimum(new_value, value), value - new_value, steps + 1

    def unfinished(carry):
        *_, value, gain, steps = carry
        return (steps < L1_STEPS) & (gain > 1e-6 * value)

    start = jnp.zeros(x.shape[1], x.dtype), _alone(y, share)
    value = objective(*start)
    w, b, _, _, steps = lax.while_loop(unfinished, newton, (*start, value, value, jnp.int32(0)))
    return w * inverse, b, steps


def _descend(hessian, gradient, w, level) -> Float[Array, " feature"]:
    """Coordinate descent on g·d + ½ d·H d + Σ level |w + d|, from d = 0."""
    diagonal = jnp.maximum(jnp.diagonal(hessian), 1e-10)

    def coordinate(j, carry):
        d, slope = carry
        h, at = diagonal[j], w[j] + d[j]
        target = at - slope[j] / h
        new = jnp.sign(target) * jnp.maximum(jnp.abs(target) - level[j] / h, 0.0)
        change = new - at
        return d.at[j].add(change), slope + hessian[j] * change

    def sweep(carry):
        d, slope, _, count = carry
        new, slope = lax.fori_loop(0, len(d), coordinate, (d, slope))
        return new, slope, jnp.max(jnp.abs(new - d) * jnp.sqrt(diagonal)), count + 1

    def unfinished(carry):
        *_, moved, count = carry
        return (count < SWEEPS) & (moved > 1e-5)

    start = jnp.zeros_like(w), gradient, jnp.asarray(jnp.inf, w.dtype), jnp.int32(0)
    return lax.while_loop(unfinished, sweep, start)[0]
