import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.forward.head import head


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def inputs(scale=1.0, streams=4, rows=3, positions=21, d=8, vocab=37):
    rng = np.random.default_rng(0)
    clean = rng.standard_normal((1, rows, positions, d))
    noise = np.array([0.0, 1e-3, 0.1, 2.0])[:streams, None, None, None]
    moving = clean + noise * rng.standard_normal((streams, rows, positions, d))
    constant = rng.standard_normal((1, positions, d))
    unembedding = rng.standard_normal((vocab, d)) * scale
    targets = rng.integers(0, vocab, (rows, positions))
    return unembedding, np.concatenate([clean, moving]), constant, targets


def expected(unembedding, streams, constant, targets, cap=None):
    streams = np.concatenate([streams, np.broadcast_to(constant[:, None], (len(constant), *streams.shape[1:]))])
    logits = streams @ unembedding.T
    logp = log_softmax(logits if cap is None else cap * np.tanh(logits / cap))
    p = np.exp(logp[0])
    pick = np.take_along_axis(logp, targets[None, ..., None], -1)[..., 0]
    return {
        "ce": -pick,
        "kl": (p * (logp[0] - logp)).sum(-1),
        "top1": logp.argmax(-1) == logp[0].argmax(-1),
        "total_variation": np.abs(p - np.exp(logp)).sum(-1) / 2,
    }


@pytest.mark.parametrize("chunk", [None, (1, 1), (5, 1), (21, 2), (1000, 3), (4, 8)])
def test_against_float64(chunk):
    arrays = inputs()
    single = [jnp.asarray(a, jnp.float32 if a.dtype == float else jnp.int32) for a in arrays]
    ce, moving, still = jax.jit(lambda *a: head(*a, chunk=chunk))(*single)
    want = expected(*arrays)
    np.testing.assert_allclose(ce, want["ce"][0], atol=2e-6)
    for name, value in want.items():
        np.testing.assert_allclose(getattr(moving, name), value[1:-1], rtol=1e-6, atol=3e-6, err_msg=name)
        np.testing.assert_allclose(getattr(still, name), value[-1:], rtol=1e-6, atol=3e-6, err_msg=name)
    assert moving.kl.shape == (4, 3, 21) and still.kl.shape == (1, 3, 21)
    assert float(jnp.abs(moving.kl[0]).max()) < 1e-6 and bool(moving.top1[0].all())


@pytest.mark.parametrize(("cap", "scale"), [(3.0, 1.0), (30.0, 2.0)])
def test_soft_capped_logits_against_float64(cap, scale):
    """A cap that most logits feel, and Gemma 2's; padding of the vocabulary stays out of it."""
    arrays = inputs(scale)
    unembedding, *rest = [jnp.asarray(a, jnp.float32 if a.dtype == float else jnp.int32) for a in arrays]
    padded = jnp.concatenate([unembedding, jnp.zeros((3, unembedding.shape[1]))])
    ce, moving, still = head(padded, *rest, vocab=len(unembedding), logit_cap=cap)
    want = expected(*arrays, cap)
    assert np.abs(want["kl"] - expected(*arrays)["kl"]).max() > 0.1
    np.testing.assert_allclose(ce, want["ce"][0], atol=2e-6)
    for name, value in want.items():
        np.testing.assert_allclose(getattr(moving, name), value[1:-1], rtol=2e-6, atol=5e-6, err_msg=name)
        np.testing.assert_allclose(getattr(still, name), value[-1:], rtol=2e-6, atol=5e-6, err_msg=name)


def test_extreme_logits_are_finite():
    """log(softmax) would be NaN here: almost all probabilities underflow in float32."""
    arrays = inputs(scale=200.0)
    single = [jnp.asarray(a, jnp.float32 if a.dtype == float else jnp.int32) for a in arrays]
    _, moving, _ = head(*single)
    want = expected(*arrays)
    assert np.isfinite(moving.kl).all() and want["kl"].max() > 1000
    np.testing.assert_allclose(moving.kl, want["kl"][1:-1], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("chunk", [None, (5, 1), (21, 2), (21, 3), (21, 8)])
@pytest.mark.parametrize(("moved", "fixed"), [(0, 0), (0, 1), (2, 0)])
def test_without_other_streams(chunk, moved, fixed):
    unembedding, streams, constant, targets = inputs()
    ce, moving, still = head(
        jnp.asarray(unembedding, jnp.float32),
        jnp.asarray(streams[: 1 + moved], jnp.float32),
        jnp.asarray(constant[:fixed], jnp.float32),
        jnp.asarray(targets, jnp.int32),
        chunk=chunk,
    )
    assert ce.shape == (3, 21) and moving.kl.shape == (moved, 3, 21) and still.top1.shape == (fixed, 3, 21)
    assert moving.top1.dtype == still.top1.dtype == bool
