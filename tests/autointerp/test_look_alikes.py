"""Look-alikes fire as often as the SAE, and the sample does not depend on devices."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.autointerp import look_alikes
from jsaeval.autointerp.look_alikes import NEURONS, RANDOM, Sample, leading_sample
from jsaeval.corpus.masks import make_masks
from jsaeval.corpus.rows import Rows
from jsaeval.errors import InputError
from jsaeval.hooks import parse_hook
from jsaeval.mesh import make_mesh
from tests.autointerp.test_activations import Table
from tests.tiny import HOOK, tiny_sae


TOKENS = np.random.default_rng(0).integers(3, 50, (20, 12)).astype(np.int32)
ROWS, MASKS = Rows("test", TOKENS, None, None), make_masks(TOKENS)


def test_the_sample_is_the_leading_counted_tokens(monkeypatch):
    monkeypatch.setattr(look_alikes, "SAMPLE_TOKENS", 100)
    lm = Table()
    expected = np.asarray(lm.embedding)[TOKENS[:, 1:].reshape(-1)[:100]]
    for devices in (1, 8):
        sample = leading_sample(lm, parse_hook(HOOK), ROWS, MASKS, mesh=make_mesh(devices))
        np.testing.assert_array_equal(sample.read, expected)
        np.testing.assert_allclose(sample.mean_norm, np.linalg.norm(expected, axis=1).mean(), rtol=1e-6)


def test_they_fire_as_often_as_the_sae():
    x = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32) + 3
    sae = tiny_sae("topk", k=3)
    found = look_alikes.look_alikes(sae, Sample(x, 1.0), seed=2)
    assert [own.card.name for own in found.values()] == [f"tiny-topk: {name}" for name in (RANDOM, NEURONS)]
    l0 = (np.asarray(sae.encode(jnp.asarray(x))) != 0).sum(axis=1).mean()
    for own in found.values():
        np.testing.assert_allclose((np.asarray(own.encode(jnp.asarray(x))) != 0).sum(axis=1).mean(), l0, atol=0.05)
    z, deviation = np.asarray(found[NEURONS].encode(jnp.asarray(x))), x - x.mean(axis=0)
    assert z.shape == x.shape and z.min() == 0
    np.testing.assert_allclose(z[z > 0], deviation[z > 0], atol=1e-5)
    assert deviation[z == 0].max() <= z[z > 0].min() + 1e-5
    # More cannot fire than are above the mean.
    dense = look_alikes.coordinates(jnp.float32(99.0), jnp.asarray(x.mean(axis=0)), jnp.asarray(x))
    assert np.asarray(dense.threshold).max() == 0


def test_scales_come_from_the_sample():
    sae = dataclasses.replace(tiny_sae(), input_norm="expected_average")
    (own,) = look_alikes.scaled([sae], Sample(np.ones((1, 16), np.float32), 2.0))
    assert own.input_norm == "none"
    np.testing.assert_allclose(own.W_enc, 2 * sae.W_enc, rtol=1e-6)  # sqrt(16) / 2


def test_bad_input():
    with pytest.raises(InputError, match="no token counts"):
        leading_sample(Table(), parse_hook(HOOK), ROWS, MASKS._replace(metric=np.zeros_like(MASKS.metric)))
    with pytest.raises(InputError, match="NaN or Inf"):
        leading_sample(Table(jnp.nan), parse_hook(HOOK), ROWS, MASKS, mesh=make_mesh(1))
