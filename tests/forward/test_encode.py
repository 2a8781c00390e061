import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.forward.encode import encode, norms
from jsaeval.forward.splice import prefix
from jsaeval.hooks import parse_hook
from jsaeval.mesh import make_mesh
from tests.sae.test_sae import oracle
from tests.tiny import HOOK, tiny_sae


@pytest.mark.parametrize("data", [None, 1, 8])
def test_encode_and_norms(data, lm, tokens):
    mesh = None if data is None else make_mesh(data)
    sae, x = tiny_sae("jumprelu"), prefix(lm, parse_hook(HOOK), tokens)
    z, out = oracle(sae, np.asarray(x, np.float64).reshape(-1, 16))
    got = jax.jit(lambda sae, x: encode(sae, x, mesh=mesh))(sae, x)
    np.testing.assert_allclose(got.reshape(-1, 40), z, atol=1e-5)
    n = jax.jit(lambda sae, x: norms(sae, x, mesh=mesh))(sae, x)
    flat = np.asarray(x, np.float64).reshape(-1, 16)
    np.testing.assert_array_equal(n.l0.ravel(), (z != 0).sum(1))
    np.testing.assert_allclose(n.l1.ravel(), z.sum(1), rtol=1e-5)
    np.testing.assert_allclose(n.l1_scaled.ravel(), z @ np.linalg.norm(sae.W_dec, axis=1), rtol=1e-5)
    np.testing.assert_allclose(n.x_sq.ravel(), (flat**2).sum(1), rtol=1e-5)
    np.testing.assert_allclose(n.xhat_sq.ravel(), (out**2).sum(1), rtol=1e-4)
    np.testing.assert_allclose(n.squared_error.ravel(), ((flat - out) ** 2).sum(1), rtol=1e-4)


def test_norms_are_not_of_transcoders():
    with pytest.raises(InputError, match="a transcoder; what it predicts is not x"):
        norms(tiny_sae("relu", d_in=16, d_out=24), jnp.ones((1, 2, 16)))
