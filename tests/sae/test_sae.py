import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

from jsaeval.errors import InputError
from jsaeval.mesh import make_mesh, map_rows, specs
from jsaeval.sae import activations
from jsaeval.sae.formats import saelens
from jsaeval.sae.load import load_sae, save_sae
from jsaeval.sae.module import SAE
from tests.tiny import tiny_sae


KINDS = ("relu", "topk", "jumprelu", "batch_topk", "gated")
NORMS = ("none", "constant_norm", "layer_norm")


def oracle(sae: SAE, x: np.ndarray):
    """z and x̂ in float64, by loops over tokens."""
    w = {n: np.asarray(v, np.float64) for n, v in vars(sae).items() if isinstance(v, jax.Array)}
    d = x.shape[1]
    z, out = np.zeros((len(x), sae.d_sae)), np.zeros((len(x), sae.d_out))
    for t, u in enumerate(x):
        shift, size, eps = 0.0, 1.0, 0.0
        if sae.input_norm == "constant_norm":
            size = np.linalg.norm(u) / np.sqrt(d)
        if sae.input_norm == "layer_norm":
            shift, size, eps = u.mean(), np.sqrt(((u - u.mean()) ** 2).sum() / (d - 1)), 1e-5
        p = ((u - shift) / (size + eps) - w.get("b_pre", 0)) @ w["W_enc"]
        if sae.activation == "gated":
            z[t] = (p + w["b_gate"] > 0) * np.maximum(p * np.exp(w["r_mag"]) + w["b_enc"], 0)
        else:
            p = p + w["b_enc"]
            if sae.activation == "topk":
                p[np.argsort(-p, kind="stable")[sae.k :]] = 0
            if "threshold" in w:
                p[p <= w["threshold"]] = 0
            z[t] = np.maximum(p, 0)
        out[t] = (z[t] @ w["W_dec"] + w["b_dec"]) * size + shift
    return z, out


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("b_pre", ["b_dec", "none", "other"])
def test_encode_and_decode_against_the_oracle(kind, b_pre, norm):
    sae = tiny_sae(kind, input_norm=norm)
    sae = dataclasses.replace(sae, b_pre={"b_dec": sae.b_dec, "none": None, "other": sae.b_dec[::-1]}[b_pre])
    x = np.random.default_rng(0).standard_normal((30, 16))
    z, out = oracle(sae, x)
    ours = jax.jit(lambda sae, x: sae.encode(x))(sae, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(ours, z, atol=2e-6)
    decoded = jax.jit(lambda sae, z, x: sae.decode(z, x))(sae, ours, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(decoded, out, atol=5e-6)
    assert 0 < (z != 0).mean() < 0.6


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
    sae, path = tiny_sae(kind, input_norm="layer_norm"), tmp_path / "a.safetensors"
    save_sae(sae, path)
    back = load_sae(path)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "b_pre", "threshold", "b_gate", "r_mag"):
        a, b = getattr(sae, name), getattr(back, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    assert (back.activation, back.k, back.card.hook) == (sae.activation, sae.k, sae.card.hook)
    assert back.input_norm == "layer_norm"
    assert back.card.format == "jsaeval" and back.card.source == str(path) and len(back.card.sha256) == 64
    save_sae(sae, tmp_path / "half.safetensors", dtype=jnp.bfloat16)
    half = load_sae(tmp_path / "half.safetensors")
    np.testing.assert_array_equal(half.W_dec, sae.W_dec.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("b_pre", ["b_dec", "none", "other"])
def test_saelens_round_trip(kind, b_pre, tmp_path):
    sae = tiny_sae(kind, input_norm="constant_norm")
    sae = dataclasses.replace(sae, b_pre={"b_dec": sae.b_dec, "none": None, "other": sae.b_dec[::-1]}[b_pre])
    save_sae(sae, tmp_path / "sae", format="saelens")
    back = load_sae(tmp_path / "sae")
    x = jnp.asarray(np.random.default_rng(0).standard_normal((30, 16)), jnp.float32)
    np.testing.assert_allclose(back.encode(x), sae.encode(x), atol=2e-6)
    np.testing.assert_allclose(back.decode(back.encode(x), x), sae.decode(sae.encode(x), x), atol=5e-6)
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


CENTRED = {"model_name": "gpt2", "model_from_pretrained_kwargs": {"center_writing_weights": True}}
SKIP = {"architecture": "skip_transcoder", "apply_b_dec_to_input": False}


def without(key):
    return lambda d: {k: v for k, v in d.items() if k != key}


@pytest.mark.parametrize(
    ("cfg", "tensors", "message"),
    [
        (lambda c: c | {"architecture": "topkk"}, None, "did you mean 'topk'"),
        (lambda c: c | {"architecture": "temporal"}, None, "'temporal' is not supported: its latents depend on"),
        (lambda c: c | {"architecture": "matching_pursuit"}, None, "is not supported: it encodes in as many steps"),
        (lambda c: c | {"architecture": "abstopk"}, None, "is not supported: its latents may be negative"),
        (lambda c: c | {"metadata": c["metadata"] | {"hook_head_index_out": 3}}, None, "SAEs on one head"),
        (lambda c: c | {"d_out": 17}, None, "cfg.json says d_out = 17, the weights say 16"),
        (lambda c: c | SKIP, None, "need it; this is 'skip_transcoder'"),
        (
            lambda c: c | {"architecture": "transcoder", "apply_b_dec_to_input": True},
            None,
            "transcoder with an input norm",
        ),
        (
            lambda c: c | {"normalize_activations": "constant_norm_rescale", "metadata": c["metadata"] | CENTRED},
            None,
            "center_writing_weights is not supported here: only an SAE without input norm",
        ),
        (None, lambda t: t | {"W_skip": t["W_enc"]}, "'W_skip' belongs to skip transcoders"),
        (lambda c: c | {"strange": 1}, None, "unknown attribute.s. strange"),
        (lambda c: c | {"normalize_activations": "layer_nrom"}, None, "did you mean 'layer_norm'"),
        (lambda c: c | {"metadata": c["metadata"] | {"hook_head_index": 3}}, None, "SAEs on one head"),
        (lambda c: c | {"d_in": 17}, None, "cfg.json says d_in = 17, the weights say 16"),
        (lambda c: c | {"k": 99}, None, "k = 99 is not in 1..40"),
        (without("k"), None, "k belongs to topk"),
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
    with pytest.raises(InputError, match=r"not recognised as any of: .*; other.safetensors holds x"):
        load_sae(tmp_path / "other.safetensors")
    (tmp_path / "pickled").mkdir()
    for name in ("b.pkl.gz", "a.pkl"):
        (tmp_path / "pickled" / name).write_bytes(pickle.dumps({"cfg": {}, "state_dict": {}}))
        with pytest.raises(InputError, match=rf"{name} is a bare pickle, which can do anything .* with torch.save"):
            load_sae(tmp_path / "pickled")
        with pytest.raises(InputError, match=f"{name} is a bare pickle"):
            load_sae(tmp_path / "pickled" / name)
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


V5 = {
    "architecture": "standard",
    "d_in": 16,
    "d_sae": 40,
    "activation_fn_str": "relu",
    "activation_fn_kwargs": {},
    "apply_b_dec_to_input": False,
    "hook_name": "blocks.1.hook_resid_post",
    "hook_layer": 1,
    "model_name": "tiny",
    "normalize_activations": "none",
    "sae_lens_training_version": "5.1.0",
    "dtype": "float32",
    "lr": 0.1,
}


def v5_folder(folder, sae, cfg, **more):
    folder.mkdir()
    tensors = {n: np.asarray(v) for n, v in vars(sae).items() if isinstance(v, jax.Array) and n != "b_pre"}
    if "b_gate" in tensors:
        tensors["b_mag"] = tensors.pop("b_enc")
    save_file(tensors | more, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return load_sae(folder)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"b_pre": None}),
        ({"apply_b_dec_to_input": True}, {}),
        ({"architecture": "gated"}, {"activation": "gated", "b_pre": None}),
        ({"architecture": "jumprelu"}, {"activation": "jumprelu", "b_pre": None}),
        # stored as "standard" by some versions
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}, {"activation": "topk", "b_pre": None}),
        ({"normalize_activations": "layer_norm"}, {"input_norm": "layer_norm", "b_pre": None}),
    ],
)
def test_saelens_5(change, expected, tmp_path):
    sae = tiny_sae(expected.get("activation", "relu"), input_norm=expected.get("input_norm", "none"))
    sae = dataclasses.replace(sae, b_pre=expected.get("b_pre", sae.b_dec))
    back = v5_folder(tmp_path / "sae", sae, V5 | change)
    x = np.random.default_rng(0).standard_normal((20, 16))
    z, out = oracle(sae, x)
    x = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(back.encode(x), z, atol=2e-6)
    np.testing.assert_allclose(back.decode(back.encode(x), x), out, atol=5e-6)
    assert back.card.hook == "blocks.1.hook_resid_post" and back.card.lm == "tiny"


def test_saelens_before_5(tmp_path):
    """Old names, the input bias by default, and features scaled before decoding."""
    old = {k: v for k, v in V5.items() if k not in ("architecture", "apply_b_dec_to_input", "hook_name")}
    old |= {"hook_point": "blocks.0.hook_mlp_out", "normalize_activations": False}
    sae, factors = tiny_sae(), np.linspace(0.5, 2, 40, dtype=np.float32)
    back = v5_folder(tmp_path / "sae", sae, old, scaling_factor=factors)
    assert back.card.hook == "blocks.0.hook_mlp_out"
    x = jnp.asarray(np.random.default_rng(0).standard_normal((20, 16)), jnp.float32)
    z = sae.encode(x)
    np.testing.assert_allclose(back.encode(x), z, atol=2e-6)
    np.testing.assert_allclose(back.decode(z), (z * factors[None]) @ sae.W_dec + sae.b_dec[None], atol=5e-6)
    with pytest.raises(InputError, match="standard with activation tanh-relu"):
        v5_folder(tmp_path / "tanh", sae, old | {"activation_fn_str": "tanh-relu"})


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_saelens_rescaling_by_the_decoder_norm(architecture, tmp_path):
    """Selection in units of the decoder rows, as `rescale_acts_by_decoder_norm` asks."""
    sae = tiny_sae("relu")
    norm = np.linalg.norm(sae.W_dec, axis=1)
    folder = saelens_folder(tmp_path / "sae", kind="topk")
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg |= {"architecture": architecture, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": True}
    tensors = {n: np.asarray(getattr(sae, n)) for n in ("W_enc", "W_dec", "b_enc", "b_dec")}
    if architecture == "batchtopk":
        del cfg["k"]
        tensors["topk_threshold"] = np.array(0.4)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(cfg))
    back, x = load_sae(folder), np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    pre = ((x - np.asarray(sae.b_dec)) @ np.asarray(sae.W_enc) + np.asarray(sae.b_enc)) * norm
    z = np.maximum(pre, 0)
    if architecture == "topk":
        z[pre < np.sort(pre, axis=1)[:, -5, None]] = 0
    else:
        z[pre <= 0.4] = 0
    np.testing.assert_allclose(back.encode(jnp.asarray(x)), z, atol=2e-6)
    np.testing.assert_allclose(
        back.decode(jnp.asarray(z)), z / norm @ np.asarray(sae.W_dec) + np.asarray(sae.b_dec), atol=5e-6
    )


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "batch_topk", "gated"])
def test_folding_the_decoder_norm_changes_nothing_but_units(kind):
    sae, x = tiny_sae(kind), jnp.asarray(np.random.default_rng(0).standard_normal((20, 16)), jnp.float32)
    unit = sae.with_unit_decoder()
    np.testing.assert_allclose(jnp.linalg.norm(unit.W_dec, axis=1), 1, rtol=1e-6)
    out = sae.decode(sae.encode(x))
    np.testing.assert_allclose(unit.decode(unit.encode(x)), out, rtol=0, atol=1e-6 * float(jnp.abs(out).max()))
    np.testing.assert_array_equal(unit.encode(x) != 0, sae.encode(x) != 0)


@pytest.mark.parametrize("kind", KINDS)
def test_folding_a_fixed_scale(kind):
    """`expected_average`: encode s·x, decode to x."""
    sae, x = tiny_sae(kind, input_norm="expected_average"), np.random.default_rng(0).standard_normal((20, 16))
    mean_norm = np.linalg.norm(x, axis=1).mean()
    scale = np.sqrt(16) / mean_norm
    z, out = oracle(dataclasses.replace(sae, input_norm="none"), x * scale)
    folded = sae.with_scale(float(mean_norm))
    np.testing.assert_allclose(folded.encode(jnp.asarray(x, jnp.float32)), z, atol=5e-6)
    np.testing.assert_allclose(folded.decode(jnp.asarray(z, jnp.float32)), out / scale, atol=5e-6)
    with pytest.raises(ValueError, match="scale of this SAE is not known"):
        sae.encode(jnp.asarray(x, jnp.float32))
    assert folded.with_scale(3.0) is folded


def skipping(sae: SAE) -> SAE:
    """With an affine skip, which no test of ours leaves at zero."""
    skip = np.random.default_rng(5).standard_normal((sae.d_in, sae.d_out))
    return dataclasses.replace(sae, W_skip=jnp.asarray(skip, jnp.float32))


@pytest.mark.parametrize("norm", ["none", "layer_norm", "expected_average"])
def test_an_affine_skip_is_added_in_the_units_of_x(norm, tmp_path):
    """Also after its scale or the norms of its decoder are folded, in another dtype, and read back from a file."""
    sae, x = skipping(tiny_sae(input_norm=norm)), jnp.asarray(np.random.default_rng(0).standard_normal((20, 16)), "f4")
    sae = sae.with_scale(3.0)
    plain = dataclasses.replace(sae, W_skip=None)
    z = sae.encode(x)
    expected = np.asarray(plain.decode(z, x), np.float64) + np.asarray(x, np.float64) @ np.asarray(
        sae.W_skip, np.float64
    )
    np.testing.assert_allclose(sae.decode(z, x), expected, atol=2e-5)
    unit = sae.with_unit_decoder()
    np.testing.assert_allclose(unit.decode(unit.encode(x), x), expected, atol=2e-5)
    save_sae(sae, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(load_sae(tmp_path / "a.safetensors").decode(z, x), sae.decode(z, x))
    half = sae.astype(jnp.bfloat16)
    np.testing.assert_allclose(half.decode(z.astype(jnp.bfloat16), x.astype(jnp.bfloat16)), expected, atol=0.3)
    with pytest.raises(ValueError, match=r"decode\(z, x\)"):
        sae.decode(z)


def test_the_skip_is_whole_on_every_device_and_added_once():
    sae, mesh = skipping(tiny_sae("jumprelu", d_sae=37)), make_mesh(1, 8)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 6, 16)), jnp.float32)
    assert specs(sae).W_skip == P(None, None)
    split = map_rows(lambda sae, x: sae.decode(sae.encode(x), x), mesh)(sae, x)
    np.testing.assert_allclose(split, sae.decode(sae.encode(x), x), atol=2e-5)


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "batch_topk"])
@pytest.mark.parametrize("skip", [False, True])
def test_saelens_transcoders(kind, skip, tmp_path):
    """Read and written: `W_skip` turned, no input bias, another width and hook at the output."""
    sae, rng = tiny_sae(kind), np.random.default_rng(0)
    d_out = 12
    sae = dataclasses.replace(
        sae,
        W_dec=sae.W_dec[:, :d_out],
        b_dec=sae.b_dec[:d_out],
        card=dataclasses.replace(sae.card, hook="blocks.1.mlp.hook_in", hook_out="blocks.1.hook_mlp_out"),
    )
    sae = skipping(sae) if skip else sae
    save_sae(sae, tmp_path / "t", format="saelens")
    cfg, tensors = (
        json.loads((tmp_path / "t" / "cfg.json").read_text()),
        load_file(tmp_path / "t" / "sae_weights.safetensors"),
    )
    assert cfg["architecture"] == ("" if kind == "relu" else "jumprelu_") + ("skip_" if skip else "") + "transcoder"
    assert cfg["d_out"] == d_out and cfg["metadata"]["hook_name_out"] == "blocks.1.hook_mlp_out"
    x = rng.standard_normal((20, 16))
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    p = x @ w["W_enc"] + w["b_enc"]
    z = np.maximum(p, 0) * (p > w.get("threshold", 0))
    out = z @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if skip else 0)
    back = load_sae(tmp_path / "t")
    assert (back.card.hook, back.card.hook_out) == (sae.card.hook, sae.card.hook_out)
    for own in (back, sae):
        np.testing.assert_allclose(own.encode(jnp.asarray(x, "f4")), z, atol=5e-6)
        np.testing.assert_allclose(own.decode(jnp.asarray(z, "f4"), jnp.asarray(x, "f4")), out, atol=1e-5)
    save_sae(back, tmp_path / "own.safetensors")
    assert load_sae(tmp_path / "own.safetensors").card.hook_out == "blocks.1.hook_mlp_out"


def test_transcoders_that_saelens_does_not_have(tmp_path):
    for sae in (skipping(tiny_sae("topk")), skipping(tiny_sae("gated")), skipping(tiny_sae(input_norm="layer_norm"))):
        with pytest.raises(InputError, match="SAELens has no transcoder with"):
            save_sae(sae, tmp_path / "t", format="saelens")
    assert not (tmp_path / "t").exists()


def test_a_checkpoint_of_jumprelu_training(tmp_path):
    sae = tiny_sae("jumprelu")
    folder = saelens_folder(
        tmp_path / "a", None, lambda t: without("threshold")(t) | {"log_threshold": np.log(t["threshold"])}, "jumprelu"
    )
    np.testing.assert_allclose(load_sae(folder).threshold, sae.threshold, rtol=1e-6)


def test_the_folder_of_another_library_is_not_taken(tmp_path):
    (tmp_path / "cfg.json").write_text('{"d_in": 16, "num_latents": 40}')
    assert saelens.recognise(tmp_path) is None
    save_sae(tiny_sae(), tmp_path / "sae", format="saelens")
    assert load_sae(tmp_path / "sae").card.why == "cfg.json and sae_weights.safetensors"


def test_decoding_needs_x_where_it_was_normalised():
    with pytest.raises(ValueError, match=r"decode\(z, x\)"):
        tiny_sae(input_norm="layer_norm").decode(jnp.zeros((2, 40)))


@pytest.mark.parametrize(
    "cfg",
    [
        lambda c: c | {"normalize_activations": ["none"]},
        lambda c: c | {"architecture": ["topk"]},
        lambda c: c | {"k": "3"},
        lambda c: c | {"metadata": c["metadata"] | {"model_from_pretrained_kwargs": [1]}},
        lambda c: c | {"metadata": c["metadata"] | {"hook_name": 5}},
    ],
)
def test_configurations_of_odd_types_are_one_line(cfg, tmp_path):
    with pytest.raises(InputError) as caught:
        load_sae(saelens_folder(tmp_path / "sae", cfg))
    assert str(tmp_path / "sae") in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_file_beside_a_good_one_is_not_passed_over(tmp_path):
    save_sae(tiny_sae("relu"), tmp_path / "good.safetensors")
    (tmp_path / "harmed.safetensors").write_bytes((tmp_path / "good.safetensors").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"harmed\.safetensors: not a whole safetensors file"):
        load_sae(tmp_path)


def test_a_part_of_a_folder_names_the_folder(tmp_path):
    folder = saelens_folder(tmp_path / "sae")
    with pytest.raises(InputError, match="a part of one; name the folder"):
        load_sae(folder / "sae_weights.safetensors")
    with pytest.raises(InputError, match="no such file"):
        load_sae("x" * 5000)
