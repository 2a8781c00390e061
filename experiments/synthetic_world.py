"""A language model whose features are known.

Each token of its vocabulary has a sparse code c over n unit directions F in R^d. Its residual stream at `HOOK` is

    x = c F + ε,    ε ~ N(0, σ² I), drawn anew at every position

and everything behind the hook reads x through relu(x Fᵀ − θ) and nothing else: first a block that replaces the stream
by a random linear map of these readings, then a residual MLP, a norm about a fixed centre, and an unembedding. Where
features are orthonormal and θ lies between the noise and the smallest magnitude, the model is therefore blind to the
noise: an SAE that keeps the readings changes nothing behind the hook, whatever it does to the rest of x.

Codes, in the manner of SynthSAEBench (arXiv 2602.14687, §3): firing probabilities p_i ∝ i^−α that add up to the L0; a
quarter of the features are parents of two children each, which fire only where their parent does, with the marginal
probability that Zipf's law gives them; magnitudes 1 + |N(0, s²)|.

Its texts are sampled from the model itself, so that no distribution predicts them better than its own: a cross-entropy
increase is a KL divergence up to sampling.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jsaeval.forward.head import head
from jsaeval.forward.splice import prefix, suffix
from jsaeval.hooks import parse_hook
from jsaeval.lm.protocol import no_tap


HOOK = "blocks.0.hook_resid_pre"


@dataclass(frozen=True)
class World:
    """How activations are made.

    Attributes:
        n: true features. Up to `d` of them are orthonormal, more are random unit vectors.
        d: width of the residual stream.
        l0: expected number of active features.
        zipf: the exponent α.
        hierarchy: whether there are parents and children.
        spread: s of the magnitudes; the smallest magnitude is 1.
        noise: σ.
        vocab: number of tokens, each with a code.
        seed: of everything.
    """

    n: int = 96
    d: int = 128
    l0: float = 8.0
    zipf: float = 0.5
    hierarchy: bool = True
    spread: float = 0.5
    noise: float = 0.08
    vocab: int = 2048
    seed: int = 0

    @property
    def orthogonal(self) -> bool:
        return self.n <= self.d

    @property
    def mean_magnitude(self) -> float:
        """Of a feature that fires."""
        return 1 + self.spread * (2 / np.pi) ** 0.5


class Truth(eqx.Module):
    """What is known: directions, the probability and the parent (−1: none) of each feature, the code of each token."""

    features: Float[np.ndarray, "feature d"]
    probability: Float[np.ndarray, " feature"]
    parent: Int[np.ndarray, " feature"]
    codes: Float[np.ndarray, "vocab feature"]


def draw(world: World) -> Truth:
    """Directions and codes.

    Raises:
        ValueError: the L0 is so large that a probability exceeds 1.
    """
    rng = np.random.default_rng(world.seed)
    directions = rng.standard_normal((world.n, world.d))
    if world.orthogonal:
        directions = np.linalg.qr(directions.T)[0].T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    probability = np.arange(1, world.n + 1) ** -world.zipf
    probability *= world.l0 / probability.sum()
    if probability[0] > 1:
        raise ValueError(f"l0 = {world.l0}: the most frequent of {world.n} features would fire more often than always")
    parent = np.full(world.n, -1)
    if world.hierarchy:
        quarter = world.n // 4
        parent[quarter : 3 * quarter] = np.arange(2 * quarter) % quarter
    conditional = np.where(parent < 0, probability, probability / probability[parent])
    active = rng.random((world.vocab, world.n)) < conditional
    active &= np.where(parent < 0, True, active[:, parent])
    codes = np.where(active, 1 + np.abs(rng.normal(0, world.spread, active.shape)), 0)
    return Truth(directions.astype(np.float32), probability, parent, codes.astype(np.float32))


class SyntheticLM(eqx.Module):
    """The model of this file; a `jsaeval.HostLM`."""

    features: Float[Array, "feature d_model"]
    codes: Float[Array, "vocab feature"]
    threshold: Float[Array, ""]
    noise: Float[Array, ""]
    seed: Int[Array, ""]
    write: Float[Array, "feature d_model"]
    up: Float[Array, "d_model hidden"]
    down: Float[Array, "hidden d_model"]
    centre: Float[Array, " d_model"]
    unembedding: Float[Array, "vocab d_model"]
    n_blocks = 2

    @property
    def d_model(self) -> int:
        return self.features.shape[1]

    @property
    def vocab(self) -> int:
        return self.codes.shape[0]

    def embed(self, tokens: Int[Array, "row position"]) -> Float[Array, "row position d_model"]:
        return self.activation(tokens, jnp.arange(tokens.shape[1], dtype=jnp.int32))

    def activation(
        self, tokens: Int[Array, "row position"], positions: Int[Array, " position"]
    ) -> Float[Array, "row position d_model"]:
        """x of tokens at these positions. The noise is a function of token and position, so that x is, too."""

        def draw(position, token):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), position), token)
            return jax.random.normal(key, (self.d_model,))

        noise = jax.vmap(jax.vmap(draw), in_axes=(None, 0))(positions, tokens)
        return self.codes[tokens] @ self.features + self.noise * noise

    def run(self, residual, start, stop, tap=no_tap, state=None):
        def body(block, carry):
            residual, state = tap("hook_resid_pre", block, *carry)
            residual = lax.switch(block, (lambda x: self._read(x), lambda x: self._think(x)), residual)
            return tap("hook_resid_post", block, residual, state)

        return lax.fori_loop(start, stop, body, (residual, state))

    def _read(self, x: Array) -> Array:
        return jax.nn.relu(x @ self.features.T - self.threshold) @ self.write

    def _think(self, x: Array) -> Array:
        return x + jax.nn.relu(x @ self.up) @ self.down

    def final(self, residual: Float[Array, "row position d_model"]) -> Float[Array, "row position d_model"]:
        centred = residual - jnp.broadcast_to(self.centre, residual.shape)
        return centred * lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + 1e-5)


def build(world: World, truth: Truth, threshold: float = 0.5, gain: float = 2.5) -> SyntheticLM:
    """The model.

    Args:
        world: how activations are made.
        truth: from `draw`.
        threshold: θ, above which the model reads a feature.
        gain: standard deviation of the logits, in nats.
    """
    rng = np.random.default_rng(world.seed + 1)

    def normal(rows: int, columns: int, scale: float) -> Array:
        return jnp.asarray(rng.standard_normal((rows, columns)) * scale, jnp.float32)

    hidden = 2 * world.d
    lm = SyntheticLM(
        features=jnp.asarray(truth.features),
        codes=jnp.asarray(truth.codes),
        threshold=jnp.float32(threshold),
        noise=jnp.float32(world.noise),
        seed=jnp.int32(world.seed),
        write=normal(world.n, world.d, 1.0),
        up=normal(world.d, hidden, world.d**-0.5),
        down=normal(hidden, world.d, hidden**-0.5),
        centre=jnp.zeros(world.d),
        unembedding=normal(world.vocab, world.d, gain * world.d**-0.5),
    )
    # About this centre no token is favoured everywhere, so that texts use the whole vocabulary.
    last = lm.run((lm.codes @ lm.features)[None], 0, lm.n_blocks)[0]
    return eqx.tree_at(lambda lm: lm.centre, lm, jnp.mean(last[0], axis=0))


def write_text(lm: SyntheticLM, rows: int, positions: int, seed: int = 0) -> Int[np.ndarray, "row position"]:
    """Texts sampled from the model; first tokens are drawn evenly."""

    @jax.jit
    @jax.default_matmul_precision("highest")
    def sample(lm, key):
        def step(tokens, position):
            last = lm.run(lm.activation(tokens[:, None], position[None]), 0, lm.n_blocks)[0]
            logits = (lm.final(last) @ lm.unembedding.T)[:, 0]
            following = jax.random.categorical(jax.random.fold_in(key, position), logits).astype(jnp.int32)
            return following, tokens

        first = jax.random.randint(key, (rows,), 0, lm.vocab, jnp.int32)
        return lax.scan(step, first, jnp.arange(positions, dtype=jnp.int32))[1].T

    return np.asarray(sample(lm, jax.random.key(seed)))


@dataclass(frozen=True)
class Floor:
    """What an SAE with the true support and the best decoder attains; `mse_error`, `fvu_error` are standard errors.

    With s true features active at a token, the least-squares reconstruction from their directions leaves the noise of
    the other d − s dimensions: E‖r‖² = σ²(d − s). `l0`, `mse` and `fvu` are of the supports of a text, exact but for
    the noise drawn; `population_*` are of the world, without a text.
    """

    l0: float
    mse: float
    mse_error: float
    fvu: float
    fvu_error: float
    population_l0: float
    population_fvu: float


def floor(world: World, truth: Truth, tokens: Int[np.ndarray, "row position"]) -> Floor:
    """The noise floor, in closed form."""
    codes = truth.codes[tokens.ravel()].astype(np.float64)
    n, variance, features = len(codes), world.noise**2, truth.features.astype(np.float64)
    l0 = float((codes > 0).sum(axis=1).mean())
    mse, noise = variance * (world.d - l0), variance * world.d
    signal = float(np.square((codes - codes.mean(0)) @ features).sum(axis=1).mean())
    # Numerator: chi-square with N(d − L0) degrees of freedom. Denominator: twice the noise along the signal.
    mse_error = variance * (2 * (world.d - l0) / n) ** 0.5
    relative = np.hypot(mse_error / mse, 2 * world.noise * (signal / n) ** 0.5 / (signal + noise))
    population = float(np.einsum("ij,id,jd->", code_covariance(world, truth), features, features))
    population_mse = variance * (world.d - world.l0)
    return Floor(
        l0=l0,
        mse=mse,
        mse_error=mse_error,
        fvu=mse / (signal + noise),
        fvu_error=float(mse / (signal + noise) * relative),
        population_l0=world.l0,
        population_fvu=population_mse / (population + noise),
    )


def code_covariance(world: World, truth: Truth) -> Float[np.ndarray, "feature feature"]:
    """Cov(c_i, c_j). Parent and child fire together with p_child, siblings with p_i p_j / p_parent."""
    p, parent, m = truth.probability, truth.parent, world.mean_magnitude
    together = np.outer(p, p)
    for i in np.flatnonzero(parent >= 0):
        together[i, parent[i]] = together[parent[i], i] = p[i]
        siblings = np.flatnonzero(parent == parent[i])
        together[i, siblings] = p[i] * p[siblings] / p[parent[i]]
    covariance = m**2 * (together - np.outer(p, p))
    square = m**2 + world.spread**2 * (1 - 2 / np.pi)
    np.fill_diagonal(covariance, p * square - (p * m) ** 2)
    return covariance


def best_with_true_support(
    truth: Truth, tokens: Int[np.ndarray, "row position"], x: Float[np.ndarray, "row position d"]
) -> Float[np.ndarray, "row position d"]:
    """The least-squares reconstruction of each x from the directions of its active features."""
    flat, out = x.reshape(-1, x.shape[-1]), np.zeros_like(x).reshape(-1, x.shape[-1])
    for i, code in enumerate(truth.codes[tokens.ravel()]):
        basis = truth.features[code > 0].T
        out[i] = basis @ np.linalg.lstsq(basis, flat[i], rcond=None)[0]
    return out.reshape(x.shape)


def kl_of(
    lm: SyntheticLM, tokens: Int[np.ndarray, "row position"], replacement: Float[np.ndarray, "row position d"]
) -> float:
    """mean KL(clean ‖ x replaced), nats: `downstream_loss` of something that is not an SAE."""

    @jax.jit
    @jax.default_matmul_precision("highest")
    def run(lm, tokens, replacement):
        hook = parse_hook(HOOK, lm.n_blocks)
        x = prefix(lm, hook, tokens)
        last = suffix(lm, hook, x, jnp.stack([x, replacement]))[0]
        none = jnp.zeros((0, tokens.shape[1], lm.d_model))
        return jnp.mean(head(lm.unembedding, last, none, tokens)[1].kl)

    return float(run(lm, jnp.asarray(tokens), jnp.asarray(replacement, jnp.float32)))
