"""The best SAE of a synthetic world, and ladders of SAEs that get worse step by step, in ways that are known.

| ladder | what is broken |
|---|---|
| rotated | every decoder row is turned in a random direction, to this cosine; latents fire as before |
| replaced | this share of the latents reads and writes random directions instead, as often as the feature it had |
| removed | this share of the latents is gone |
| merged | this share of the pairs (parent, first child) has one latent for both, halfway between them |
| shrunk | the decoder is scaled by this |
| too_many | all thresholds fall, until this multiple of the true L0 fires |
| too_few | all thresholds rise, until this multiple of the true L0 fires |

Latents are broken in one random order, so every step breaks what the one before it did, and more. The last step of
`replaced` is the package's own random SAE.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from experiments.synthetic_world import HOOK, Truth, World, code_covariance
from jsaeval.forward.controls import random_sae
from jsaeval.sae.module import SAE, SAECard


LADDERS: dict[str, tuple[float, ...]] = {
    "rotated": (0.99, 0.95, 0.9, 0.7),
    "replaced": (0.1, 0.25, 0.5, 1.0),
    "removed": (0.1, 0.25, 0.5),
    "merged": (0.25, 0.5, 1.0),
    "shrunk": (0.95, 0.8, 0.6),
    "too_many": (1.5, 2.0, 3.0),
    "too_few": (0.75, 0.5, 0.25),
}


def rung_names(ladder: str) -> list[str]:
    """The SAEs of a ladder from the best to the worst."""
    return ["oracle", *(f"{ladder}-{rung:g}" for rung in LADDERS[ladder])]


def oracle(world: World, truth: Truth, x: Float[np.ndarray, "token d"]) -> SAE:
    """The true directions as decoder, and the best encoder that a linear map and thresholds can be.

    Orthonormal features: their transpose, with thresholds at half the smallest magnitude. It is exact.

    Else the linear least-squares estimate of the codes, Cov(x)⁻¹ Cov(x, c), in closed form, each latent scaled so that
    its own feature comes through with gain 1; thresholds at which each latent fires as often as its feature; and a
    decoder scaled by the one factor that minimises the error on x. It is not exact, and cannot be (O'Neill et al. 2024,
    arXiv 2411.13117): the interference of the other features is in every latent.
    """
    f = truth.features.astype(np.float64)
    encoder, bias, threshold, scale = f.T, np.zeros(world.n), np.full(world.n, 0.5), 1.0
    if not world.orthogonal:
        mean = truth.probability * world.mean_magnitude
        shared = code_covariance(world, truth)
        encoder = np.linalg.solve(f.T @ shared @ f + world.noise**2 * np.eye(world.d), f.T @ shared)
        encoder /= np.einsum("nd,dn->n", f, encoder)
        bias = mean - mean @ f @ encoder
        pre = x @ encoder + bias
        quantiles = zip(pre.T, 1 - truth.probability, strict=True)
        threshold = np.maximum([np.quantile(latent, share) for latent, share in quantiles], 0)
        out = np.where(pre > threshold, pre, 0) @ f
        scale = float((out * x).sum() / np.square(out).sum())
    return SAE(
        W_enc=jnp.asarray(encoder, jnp.float32),
        b_enc=jnp.asarray(bias, jnp.float32),
        W_dec=jnp.asarray(scale * f, jnp.float32),
        b_dec=jnp.zeros(world.d),
        threshold=jnp.asarray(threshold, jnp.float32),
        activation="jumprelu",
        card=SAECard("oracle", HOOK),
    )


def ladders(world: World, truth: Truth, x: Float[np.ndarray, "token d"], l0: float) -> dict[str, SAE]:
    """The oracle, then every step of every ladder, by name.

    Args:
        world: how activations are made.
        truth: the features.
        x: activations that calibrate thresholds and scales.
        l0: the true L0.
    """
    rng, best = np.random.default_rng(world.seed + 2), oracle(world, truth, x)
    turn = _turned(rng, np.asarray(best.W_dec))
    order, child = rng.permutation(world.n), rng.permutation(_first_children(truth))
    directions = _random_directions(rng, x, world.n)

    def step(ladder: str, rung: float) -> SAE:
        broken = order[: round(rung * world.n)]
        match ladder:
            case "rotated":
                return dataclasses.replace(best, W_dec=rung * best.W_dec + (1 - rung**2) ** 0.5 * turn)
            case "replaced" if rung == 1:
                return random_sae(world.seed, world.n, jnp.float32(l0), jnp.asarray(x.mean(0)), jnp.asarray(x))
            case "replaced":
                return replaced(best, x, directions, broken)
            case "removed":
                return removed(best, broken)
            case "merged":
                children = child[: round(rung * len(child))]
                return merged(best, truth.parent[children], children)
            case "shrunk":
                return dataclasses.replace(best, W_dec=rung * best.W_dec)
            case _:
                return shifted(best, x, rung * l0)

    saes = {"oracle": best}
    for ladder, rungs in LADDERS.items():
        for rung, called in zip(rungs, rung_names(ladder)[1:], strict=True):
            saes[called] = dataclasses.replace(step(ladder, rung), card=SAECard(called, HOOK))
    return saes


def removed(sae: SAE, latents: Int[np.ndarray, " broken"]) -> SAE:
    """These latents never fire and write nothing."""
    return _with_latents(sae, latents, np.zeros(sae.d_in), 0.0, np.zeros(sae.d_in), 1.0)


def merged(sae: SAE, parents: Int[np.ndarray, " pair"], children: Int[np.ndarray, " pair"]) -> SAE:
    """The parent's latent stands for both and the child's is gone. Alone, either reaches it with 1/√2 of itself."""
    weights = map(np.asarray, (sae.W_enc.T, sae.b_enc, sae.W_dec, sae.threshold))
    encoder, bias, decoder, theta = (0.5**0.5 * (w[parents] + w[children]) for w in weights)
    return _with_latents(removed(sae, children), parents, encoder, bias, decoder, theta / 2)


def shifted(sae: SAE, x: Float[np.ndarray, "token d"], l0: float) -> SAE:
    """All thresholds moved by the same, not below 0, until this many latents fire on x."""
    above = _pre(sae, x) - np.asarray(sae.threshold)
    move = float(np.quantile(above, 1 - l0 / sae.d_sae))
    return dataclasses.replace(sae, threshold=jnp.maximum(jnp.asarray(sae.threshold) + move, 0))


def replaced(
    sae: SAE,
    x: Float[np.ndarray, "token d"],
    directions: Float[np.ndarray, "latent d"],
    latents: Int[np.ndarray, " broken"],
) -> SAE:
    """These latents read and write random directions, as often as before.

    Their decoder is scaled by the one factor that minimises the error on x, and not left to add as much as it likes.
    """
    before, rest = _pre(sae, x), removed(sae, latents)
    density = (before > np.asarray(sae.threshold)).mean(0)[latents]
    pre = x @ directions[latents].T
    theta = np.array([max(0.0, np.quantile(p, 1 - share)) for p, share in zip(pre.T, density, strict=True)], np.float32)
    out = np.where(pre > theta, pre, 0) @ directions[latents]
    left = x - np.asarray(rest.decode(rest.encode(jnp.asarray(x))))
    scale = (out * left).sum() / np.square(out).sum()
    return _with_latents(rest, latents, directions[latents], 0.0, scale * directions[latents], theta)


def _with_latents(sae: SAE, latents: np.ndarray, encoder, bias, decoder, threshold) -> SAE:
    """The SAE with these latents' encoder and decoder rows, biases and thresholds."""

    def put(old, new) -> np.ndarray:
        out = np.array(old)
        out[latents] = new
        return out

    return dataclasses.replace(
        sae,
        W_enc=jnp.asarray(put(sae.W_enc.T, encoder).T),
        b_enc=jnp.asarray(put(sae.b_enc, bias)),
        W_dec=jnp.asarray(put(sae.W_dec, decoder)),
        threshold=jnp.asarray(put(sae.threshold, threshold)),
    )


def _pre(sae: SAE, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(sae.W_enc) + np.asarray(sae.b_enc)


def _turned(rng: np.random.Generator, decoder: np.ndarray) -> np.ndarray:
    """Random rows, orthogonal to those of the decoder and as long."""
    turn, norm = rng.standard_normal(decoder.shape), np.linalg.norm(decoder, axis=1, keepdims=True)
    turn -= (turn * decoder).sum(1, keepdims=True) * decoder / norm**2
    return (norm * turn / np.linalg.norm(turn, axis=1, keepdims=True)).astype(np.float32)


def _random_directions(rng: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """Unit vectors on the side on which x lies, so that a threshold can make them fire often, too."""
    directions = rng.standard_normal((n, x.shape[1])).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * np.sign(directions @ x.mean(0))[:, None]


def _first_children(truth: Truth) -> np.ndarray:
    parents = np.unique(truth.parent[truth.parent >= 0])
    return np.array([np.flatnonzero(truth.parent == parent)[0] for parent in parents], int)
