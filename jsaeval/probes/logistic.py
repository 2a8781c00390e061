"""Logistic regression with an L1 or L2 penalty: many strengths and folds of one data set as one program.

Folds run side by side; strengths follow each other from the strongest to the weakest, each from the optimum before it
(Friedman, Hastie and Tibshirani 2010), which takes a few steps where a start from zero takes tens.

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
# Largest violation of the optimality conditions of a fit that converged, relative to the sum of the absolute terms of
# the gradient. (That falls with the loss; where labels can be separated, the gradient at w = 0 would be no measure.)
TOLERANCE = 1e-3
# The same in the coordinates of the solver, where it stops.
STOP = 1e-4
# Or where no logit moves further than this.
STILL = 1e-4
L2_STEPS, L1_STEPS, SWEEPS, HALVINGS = 200, 40, 20, 8


class Fits(NamedTuple):
    """One per fold and strength.

    `objective` is that of the module's head divided by C n (nats a training example). `violation`: how far the gradient
    is from the conditions of the optimum, relative to the sum of its absolute terms.
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
    n = jnp.maximum(jnp.sum(some, dtype=dtype), 1.0)
    mean = jnp.sum(jnp.where(some[:, None], features, 0.0), axis=0) / n
    x = jnp.where(some[:, None], features - mean[None], 0.0)
    y = labels.astype(dtype)
    if penalty == "l2":
        fit, width = functools.partial(_fit_l2, *_spectrum(x)), min(x.shape)
    else:
        scale = jnp.sqrt(jnp.sum(jnp.square(x), axis=0) / n)
        scale = jnp.where(scale > 0, scale, 1.0)
        fit, width = functools.partial(_fit_l1, x / scale[None], 1 / scale), x.shape[1]
    order = jnp.argsort(strengths)

    def path(counts: Bool[Array, " example"]) -> Fits:
        total = jnp.maximum(jnp.sum(counts, dtype=dtype), 1.0)
        share = counts.astype(dtype) / total

        def one(start: tuple[Array, Array], strength: Float[Array, ""]) -> tuple[tuple[Array, Array], Fits]:
            rate = 1 / (strength * total)
            end, (w, b, steps) = fit(y, share, rate, *start)
            value, violation = _check(x, y, share, rate, w, b, penalty)
            return end, Fits(w, b - mean @ w, value, violation, steps)

        # From the strongest penalty to the weakest, each from where the one before ended.
        start = jnp.zeros(width, dtype), _alone(y, share)
        fits = lax.scan(one, start, strengths[order])[1]
        return jax.tree.map(lambda own: jnp.zeros_like(own).at[order].set(own), fits)

    return jax.vmap(path)(counts)


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
    residual = _residual(z, y, share)
    gradient = residual @ x
    if penalty == "l2":
        value = rate / 2 * jnp.sum(jnp.square(w))
        off = jnp.abs(gradient + rate * w)
    else:
        value = rate * jnp.sum(jnp.abs(w))
        off = _off_l1(gradient, w, rate)
    return _loss(z, y, share) + value, jnp.max(off) / _terms(residual, x) + _unbalanced(residual)


def _residual(z: Float[Array, " example"], y: Float[Array, " example"], share: Float[Array, " example"]) -> Array:
    """The derivative of the loss by each logit, to full precision where it is small."""
    sign = 2 * y - 1
    return -share * sign * jax.nn.sigmoid(-sign * z)


def _off_l1(gradient: Float[Array, " feature"], w: Float[Array, " feature"], level: Array) -> Float[Array, " feature"]:
    """How far the gradient of the loss is from the subgradients of the penalty."""
    at_zero = jnp.maximum(jnp.abs(gradient) - level, 0.0)
    return jnp.where(w == 0, at_zero, jnp.abs(gradient + level * jnp.sign(w)))


def _terms(residual: Float[Array, " example"], x: Float[Array, "example feature"]) -> Float[Array, ""]:
    """The largest sum of the absolute terms of a derivative by a weight."""
    return jnp.maximum(jnp.max(jnp.abs(residual) @ jnp.abs(x)), 1e-30)


def _unbalanced(residual: Float[Array, " example"]) -> Float[Array, ""]:
    """The derivative by the bias, relative to its absolute terms."""
    return jnp.abs(jnp.sum(residual)) / jnp.maximum(jnp.sum(jnp.abs(residual)), 1e-30)


def _spectrum(x: Float[Array, "example feature"]) -> tuple[Array, Array, Array]:
    """Scores of the examples on the right singular vectors, these vectors, and the squared singular values."""
    if x.shape[0] < x.shape[1]:
        squares, left = jnp.linalg.eigh(x @ x.T)
        kept = squares > 1e-7 * jnp.max(squares)
        vectors = x.T @ (left * jnp.where(kept, lax.rsqrt(jnp.where(kept, squares, 1.0)), 0.0)[None])
    else:
        _, vectors = jnp.linalg.eigh(x.T @ x)
    scores = x @ vectors
    # The small eigenvalues of a product in float32 are noise; the lengths of the scores are not.
    return scores, vectors, jnp.sum(jnp.square(scores), axis=0)


def _change(
    z: Float[Array, " example"],
    step: Float[Array, " example"],
    sign: Float[Array, " example"],
    share: Float[Array, " example"],
) -> Float[Array, ""]:
    """The loss of logits z + step minus that of z. Not the difference of two sums, in which small gains are lost."""
    at, by = -sign * z, -sign * step
    small = jnp.abs(by) < 1
    near = jnp.log1p(jax.nn.sigmoid(at) * jnp.expm1(jnp.where(small, by, 0.0)))
    return jnp.sum(share * jnp.where(small, near, jax.nn.softplus(at + by) - jax.nn.softplus(at)))


def _best(lengths: Float[Array, " length"], gains: Float[Array, " length"]) -> Float[Array, ""]:
    """The length with the largest decrease, or 0 where there is none. A step may be too long for float32."""
    gains = jnp.where(jnp.isfinite(gains), gains, jnp.inf)
    return jnp.where(jnp.min(gains) < 0, lengths[jnp.argmin(gains)], 0.0)


def _moved(point: tuple[Array, ...], step: tuple[Array, ...], t: Float[Array, ""]) -> tuple[Array, ...]:
    """point + t step, and the point itself where t is 0, whatever the step is."""
    return tuple(jnp.where(t == 0, a, a + t * b) for a, b in zip(point, step, strict=True))


def _fit_l2(scores, vectors, squares, y, share, rate, u, b):
    curvature = squares * jnp.max(share) / 4 + rate
    scale = lax.rsqrt(jnp.maximum(curvature, 1e-12 * jnp.max(curvature)))

    solver = optax.scale_by_lbfgs(memory_size=10)
    update: Any = solver.update
    lengths = jnp.exp2(jnp.arange(1, -9, -1, dtype=scores.dtype))

    scaled = scores * scale[None]

    def slope(v, z):
        residual = _residual(z, y, share)
        gradient = residual @ scaled + rate * jnp.square(scale) * v
        off = jnp.max(jnp.abs(gradient)) / _terms(residual, scaled) + _unbalanced(residual)
        return (gradient, jnp.sum(residual)), off

    def body(carry: Any) -> Any:
        v, b, z, (gradient, _), state, stalled, count = carry
        (to_v, to_b), state = update(gradient, state, (v, b))
        along = scaled @ to_v + to_b
        turn, bend = jnp.sum(v * to_v * jnp.square(scale)), jnp.sum(jnp.square(to_v * scale))

        # Logits are linear in the parameters, so a line search needs no product: all lengths are tried at once.
        def gain(t: Float[Array, ""]) -> Float[Array, ""]:
            return _change(z, -t * along, 2 * y - 1, share) + rate * t * (t * bend / 2 - turn)

        t = _best(lengths, jax.vmap(gain)(lengths))
        stalled = jnp.where(t * jnp.max(jnp.abs(along)) > STILL, 0, stalled + 1)
        v, b, z = _moved((v, b, z), (to_v, to_b, along), -t)
        return v, b, z, slope(v, z), state, stalled, count + 1

    v = u / scale
    z = scores @ u + b
    start = v, b, z, slope(v, z), solver.init((v, b)), jnp.int32(0), jnp.int32(0)

    def unfinished(carry: Any) -> Bool[Array, ""]:
        *_, (_, off), _, stalled, count = carry
        return (count < L2_STEPS) & (stalled < 3) & (off > STOP)

    end: Any = lax.while_loop(unfinished, body, start)
    u, b = end[0] * scale, end[1]
    return (u, b), (vectors @ u, b, end[6])


def _fit_l1(x, inverse, y, share, rate, w, b):
    """Columns of `x` are scaled to unit variance by `inverse`; the penalty is that of the unscaled ones."""
    level = rate * inverse
    lengths = jnp.exp2(jnp.arange(2, -HALVINGS - 1, -1, dtype=x.dtype))

    def newton(carry):
        w, b, z, _, _, steps = carry
        residual = _residual(z, y, share)
        curvature = share * jnp.maximum(jax.nn.sigmoid(z) * jax.nn.sigmoid(-z), 1e-12)
        gradient, gradient_b = residual @ x, jnp.sum(residual)
        weighted = x * curvature[:, None]
        hessian, with_b, of_b = weighted.T @ x, jnp.sum(weighted, axis=0), jnp.sum(curvature)
        # The best change of b for any change of w goes into the model of w.
        hessian -= with_b[:, None] * (with_b / of_b)[None]
        model = gradient - with_b * (gradient_b / of_b)
        step = _descend(hessian, model, w, level)
        step_b = -(gradient_b + with_b @ step) / of_b
        along = x @ step + step_b

        def growth(t: Float[Array, ""]) -> Float[Array, ""]:
            return jnp.sum(level * (jnp.abs(w + t * step) - jnp.abs(w)))

        t = _best(lengths, jax.vmap(lambda t: _change(z, t * along, 2 * y - 1, share) + growth(t))(lengths))
        moved = t * jnp.max(jnp.abs(along))
        before = jnp.max(_off_l1(gradient, w, level)) / _terms(residual, x) + _unbalanced(residual)
        return *_moved((w, b, z), (step, step_b, along), t), moved, before, steps + 1

    def unfinished(carry):
        *_, moved, before, steps = carry
        return (steps < L1_STEPS) & (moved > STILL) & (before > STOP)

    endless = jnp.asarray(jnp.inf, x.dtype)
    w, b, *_, steps = lax.while_loop(unfinished, newton, (w, b, x @ w + b, endless, endless, jnp.int32(0)))
    return (w, b), (w * inverse, b, steps)


def _descend(hessian, gradient, w, level) -> Float[Array, " feature"]:
    """Coordinate descent on g·d + ½ d·H d + Σ level |w + d|, from d = 0."""
    largest = jnp.max(jnp.diagonal(hessian))
    diagonal = jnp.maximum(jnp.diagonal(hessian), jnp.maximum(1e-7 * largest, jnp.finfo(w.dtype).tiny))

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
        return (count < SWEEPS) & (moved > 1e-4 * jnp.sqrt(largest))

    start = jnp.zeros_like(w), gradient, jnp.asarray(jnp.inf, w.dtype), jnp.int32(0)
    return lax.while_loop(unfinished, sweep, start)[0]
