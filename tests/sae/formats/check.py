"""What every reader is held to: latents and output of the original within 1e-5, also with norms or scales folded."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jsaeval.sae.load import load_sae
from jsaeval.sae.module import SAE


RNG = np.random.default_rng(7)


def random(*shape, scale=0.3):
    """A float32 tensor."""
    return (np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape) * scale).astype(np.float32)


def inputs(d_in: int, n: int = 40):
    return np.random.default_rng(d_in).standard_normal((n, d_in)) + 0.2


def wide(tensors: dict) -> dict:
    return {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}


def relu(x):
    return np.maximum(x, 0)


def topk(pre, k):
    """The k largest of each row, or fewer if they are not positive."""
    return relu(np.where(pre >= np.sort(pre, axis=1)[:, -k, None], pre, 0))


def close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def agrees(path, x, z, y) -> SAE:
    """The SAE at a path, checked: what it makes of x against the latents z and output y of the original, in float64.

    Also that latents fire, and not all; that with unit decoder rows the output is the same; and that scaling the input
    up and the SAE down (a fixed norm that is folded) leaves all as it is.
    """
    sae, x = load_sae(path), jnp.asarray(x, jnp.float32)
    assert 0.02 < (z != 0).mean() < 0.98
    found = sae.encode(x)
    np.testing.assert_array_equal(np.asarray(found) != 0, z != 0)
    close(found, z)
    close(sae.decode(found, x), y)
    if sae.k is None:
        unit = sae.with_unit_decoder()
        close(unit.decode(unit.encode(x), x), sae.decode(found, x))
    if sae.input_norm == "none" and sae.W_skip is None:
        mean_norm = 2.5
        scale = mean_norm / sae.d_in**0.5
        folded = dataclasses.replace(sae, input_norm="expected_average").with_scale(mean_norm)
        close(folded.encode(x * scale), z)
        close(folded.decode(found), y * scale)
    return sae
