import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jsaeval.errors import InputError
from jsaeval.sae import activations
from jsaeval.sae.load import load_sae, save_sae
from jsaeval.sae.module import SAE
from tests.tiny import tiny_sae


KINDS = ("relu", "topk", "jumprelu")


def oracle(sae: SAE, x: np.ndarray):
    """z and x̂ in float64, by loops over tokens."""
    w = {
        f.name: np.asarray(getattr(sae, f.name), np.float64)
        for f in dataclasses.fields(sae)
        if f.name[:2] in ("W_", "b_")
    }
    u = x if sae.b_pre is None else x - w["b_pre"]
    z = u @ w["W_enc"] + w["b_enc"]
    for row in z:
        if sae.activation == "topk":
            row[np.argsort(-row, kind="stable")[sae.k :]] = 0
        if sae.activation == "jumprelu":
            row[row <= np.asarray(sae.threshold)] = 0
    z = np.maximum(z, 0)
    return z, z @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("b_pre", ["b_dec", "none", "other"])
def test_encode_and_decode_against_the_oracle(kind, b_pre):
    sae = tiny_sae(kind)
    sae = dataclasses.replace(sae, b_pre={"b_dec": sae.b_dec, "none": None, "other": sae.b_dec[::-1]}[b_pre])
    x = np.random.default_rng(0).standard_normal((30, 16))
    z, out = oracle(sae, x)
    ours = jax.jit(lambda sae, x: sae.encode(x))(sae, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(ours, z, atol=2e-6)
    np.testing.assert_allclose(jax.jit(lambda sae, z: sae.decode(z))(sae, ours), out, atol=5e-6)
    assert 0 < (z != 0).mean() < 0.5


def test_topk_keeps_exactly_k_also_among_equals():
    pre = jnp.asarray([[1.0, 3.0, 3.0, 3.0, 2.0], [-1.0, -2.0, -3.0, 5.0, -4.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    expected = [[0, 3, 3, 0, 0], [0, 0, 0, 5, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(activations.topk(pre, 2), expected)
    np.testing.assert_array_equal(jax.vmap(lambda p: activations.topk(p, 2))(pre), expected)


def test_topk_gradient_flows_through_what_is_kept():
    pre = jnp.asarray([1.0, 3.0, -2.0, 2.0])
    grad = jax.grad(lambda p: (activations.topk(p, 2) ** 2).sum())(pre)
    np.testing.assert_array_equal(grad, [0, 6, 0, 4])


def test_jumprelu_is_strict():
    pre, threshold = jnp.asarray([0.5, 0.6, -0.1, 0.1]), jnp.asarray([0.5, 0.5, -1.0, -1.0])
    np.testing.assert_allclose(activations.jumprelu(pre, threshold), [0, 0.6, 0, 0.1])


@pytest.mark.parametrize(
    "change",
    [{"k": 3}, {"activation": "topk"}, {"activation": "jumprelu"}, {"activation": "topk", "k": 41}],
)
def test_inconsistent_saes_are_refused(change):
    with pytest.raises(ValueError, match=r"topk|jumprelu|k = 41"):
        dataclasses.replace(tiny_sae(), **change)


@pytest.mark.parametrize("kind", KINDS)
def test_own_format_round_trip(kind, tmp_path):
    sae, path = tiny_sae(kind), tmp_path / "a.safetensors"
    save_sae(sae, path)
    back = load_sae(path)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "b_pre", "threshold"):
        a, b = getattr(sae, name), getattr(back, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    assert (back.activation, back.k, back.card.hook) == (sae.activation, sae.k, sae.card.hook)
    assert back.card.format == "jsaeval" and back.card.source == str(path) and len(back.card.sha256) == 64
    save_sae(sae, tmp_path / "half.safetensors", dtype=jnp.bfloat16)
    half = load_sae(tmp_path / "half.safetensors")
    np.testing.assert_array_equal(half.W_dec, sae.W_dec.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("b_pre", ["b_dec", "none", "other"])
def test_saelens_round_trip(kind, b_pre, tmp_path):
    sae = tiny_sae(kind)
    sae = dataclasses.replace(sae, b_pre={"b_dec": sae.b_dec, "none": None, "other": sae.b_dec[::-1]}[b_pre])
    save_sae(sae, tmp_path / "sae", format="saelens")
    back = load_sae(tmp_path / "sae")
    x = jnp.asarray(np.random.default_rng(0).standard_normal((30, 16)), jnp.float32)
    np.testing.assert_allclose(back.encode(x), sae.encode(x), atol=2e-6)
    np.testing.assert_allclose(back.decode(back.encode(x)), sae.decode(sae.encode(x)), atol=5e-6)
    cfg = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert cfg["apply_b_dec_to_input"] == (b_pre == "b_dec")
    assert (back.card.hook, back.card.lm, back.card.format) == (sae.card.hook, "tiny", "saelens")


def saelens_folder(folder, change_cfg=None, change_tensors=None, kind="topk"):
    save_sae(tiny_sae(kind), folder, format="saelens")
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps((change_cfg or (lambda c: c))(cfg)))
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file((change_tensors or (lambda t: t))(tensors), folder / "sae_weights.safetensors")
    return folder


def without(key):
    return lambda d: {k: v for k, v in d.items() if k != key}


@pytest.mark.parametrize(
    ("cfg", "tensors", "message"),
    [
        (lambda c: c | {"architecture": "topkk"}, None, "did you mean 'topk'"),
        (lambda c: c | {"architecture": "temporal"}, None, "'temporal' is not supported"),
        (lambda c: c | {"strange": 1}, None, "unknown attribute.s. strange"),
        (lambda c: c | {"normalize_activations": "layer_norm"}, None, "normalize_activations = 'layer_norm'"),
        (lambda c: c | {"d_in": 17}, None, "cfg.json says d_in = 17, the weights say 16"),
        (lambda c: c | {"k": 99}, None, "k = 99 is not in 1..40"),
        (without("k"), None, "topk needs k"),
        (without("metadata"), None, "SAELens before 6"),
        (None, without("W_dec"), "'W_dec' is missing"),
        (None, lambda t: t | {"scale": t["b_dec"]}, "'scale' has no place"),
        (None, lambda t: t | {"W_dec": t["W_dec"][:-1]}, r"W_dec has shape \(39, 16\)"),
        (None, lambda t: t | {"b_enc": t["b_enc"] * np.float32(np.inf)}, "NaN or Inf in b_enc"),
        (None, lambda t: t | {"W_enc": t["W_enc"].ravel()}, "must be matrices"),
    ],
)
def test_saelens_folders_that_are_refused(cfg, tensors, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_sae(saelens_folder(tmp_path / "sae", cfg, tensors))


def test_what_a_path_can_be(tmp_path):
    (tmp_path / "one").mkdir()
    save_sae(tiny_sae(), tmp_path / "one" / "a.safetensors")
    assert load_sae(tmp_path / "one").card.name == "tiny-relu"
    save_sae(tiny_sae("topk"), tmp_path / "one" / "b.safetensors")
    with pytest.raises(InputError, match=r"holds 2 SAEs .a\.safetensors, b\.safetensors.; name one"):
        load_sae(tmp_path / "one")
    with pytest.raises(InputError, match="did you mean 'smollm2-135m'"):
        load_sae("smollm-135m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not recognised as any of: jsaeval, saelens"):
        load_sae(tmp_path / "empty")
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="metadata 'jsaeval_sae' is missing"):
        load_sae(tmp_path / "other.safetensors")
    whole = (tmp_path / "one" / "a.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_sae(tmp_path / "cut.safetensors")


def test_a_pickle_is_never_executed(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    for name in ("sae.pt", "sae.safetensors", "sae.npz"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(InputError):
            load_sae(tmp_path / name)
    assert not (tmp_path / "exploded").exists()
