"""The same numbers on every mesh: METRICS.md, Numerics. Weights that devices divide evenly, and those they do not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jsaeval
from jsaeval.corpus.masks import make_masks
from jsaeval.errors import InputError
from jsaeval.forward.splice import hook_width
from jsaeval.hooks import SITES, parse_hook
from jsaeval.mesh import make_mesh, padded, place, specs
from jsaeval.run.engine import Setting, measure
from jsaeval.sae.activations import topk
from jsaeval.sae.selection import kth_largest, ordered
from tests.tiny import CONFIG, GEMMA3, make_lm, random_tensors, tiny_lm, tiny_sae


EVEN = dataclasses.replace(CONFIG, n_heads=16, n_kv_heads=8, d_head=4, rotary_dims=4, vocab=56, d_mlp=24)
# 5 heads with their own keys, a hidden width and a vocabulary that 2 does not divide; biases, layer norm, parallel.
ODD = dataclasses.replace(
    CONFIG,
    n_heads=5,
    n_kv_heads=5,
    d_mlp=23,
    vocab=51,
    tied_embedding=True,
    norm="layer",
    parallel=True,
    gated=False,
    activation="gelu",
)


def slow(*values):
    """A case of the long form."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def data():
    rows = np.random.default_rng(5).integers(3, 50, (11, 20)).astype(np.int32)
    rows[:, 0] = 1
    rows[4, 15:] = 0
    return rows, make_masks(rows, (0, 1, 2), 0)


def run(lm, width, d_sae, data, mesh, site="hook_resid_post", **setting):
    saes = [tiny_sae("topk", d_in=width, d_sae=d_sae), tiny_sae("gated", d_in=width, d_sae=24)]
    setting = Setting(**({"batch": 4, "control_rows": 0} | setting))
    return measure(lm, saes, parse_hook(f"blocks.1.{site}"), *data, make_mesh(*mesh), setting)


@pytest.fixture(scope="module", params=["even", "odd"])
def model(request):
    """An LM and the number of latents of an SAE; weights that 8 divides, or that none of the meshes divides."""
    if request.param == "even":
        return make_lm(EVEN, random_tensors(EVEN, bias=True, qk_norm=True)), 40
    return make_lm(ODD, random_tensors(ODD, biases=True)), 37


@pytest.fixture(scope="module")
def on_one(model, data):
    return run(model[0], 16, model[1], data, (1, 1))


def close(a, b, name):
    assert a.dtype == b.dtype and a.shape == b.shape
    if a.dtype.kind == "i":
        np.testing.assert_array_equal(a, b, err_msg=name)
    else:
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(), err_msg=name)


def agree(a, b):
    for one, other in ((a.table, b.table), (a.controls, b.controls)):
        if other is None:
            assert one is None
            continue
        for kind in ("rows", "saes", "vectors"):
            columns, others = getattr(one, kind), getattr(other, kind)
            assert columns.keys() == others.keys()
            for name, column in columns.items():
                close(column, others[name], f"{kind} {name}")
        for x, y in zip(one.latents, other.latents, strict=True):
            for name, value in x.items():
                close(value, y[name], f"latents {name}")


@pytest.mark.parametrize(("mesh", "batch"), [slow((8, 1), 8), slow((4, 2), 32), ((2, 4), 8), slow((1, 8), 32)])
def test_every_mesh_agrees(mesh, batch, model, data, on_one):
    agree(run(model[0], 16, model[1], data, mesh, batch=batch), on_one)


@pytest.mark.slow
def test_controls_agree(data):
    lm, how = make_lm(ODD, random_tensors(ODD, biases=True)), {"control_rows": 3, "groups": ("reconstruction", "loss")}
    agree(run(lm, 16, 37, data, (2, 4), **how), run(lm, 16, 37, data, (1, 1), **how))


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "batch_topk", "gated"])
def test_every_activation(kind):
    sae, mesh = tiny_sae(kind, d_sae=37), make_mesh(1, 8)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 6, 16)), jnp.float32)
    np.testing.assert_allclose(jsaeval.encode(sae, x, mesh=mesh), jsaeval.encode(sae, x), atol=1e-6)


@pytest.mark.parametrize("site", ["attn.hook_z", slow("hook_resid_mid"), "mlp.hook_post", slow("hook_mlp_out")])
def test_hooks_inside_a_block(site, data):
    """At `attn.hook_z` the SAE reads the heads of all devices, at `mlp.hook_post` the hidden width of all."""
    lm = tiny_lm()
    width = hook_width(lm, site)
    expected = run(lm, width, 40, data, (1, 1), site)
    agree(run(lm, width, 40, data, (2, 4), site), expected)


def test_a_gemma(data):
    """Norms on split outputs, capped logits of a split vocabulary that 4 does not divide, two rotary bases."""
    config = dataclasses.replace(GEMMA3, attn_logit_cap=2.0, logit_cap=3.0, vocab=51)
    lm = make_lm(config, random_tensors(config, out_norms=True, qk_norm=True))
    agree(run(lm, 24, 37, data, (2, 4), "mlp.hook_post"), run(lm, 24, 37, data, (1, 1), "mlp.hook_post"))


def test_a_padded_lm_outside_of_a_mapped_function():
    """Weights that were read for a mesh keep their padding; what looks at the LM as a whole must not mind."""
    lm, tokens = make_lm(ODD, random_tensors(ODD, biases=True)), jnp.asarray([[1, 4, 9, 30]], jnp.int32)
    there = place(lm, make_mesh(2, 4))
    assert there.embedding.shape != lm.embedding.shape
    for site in SITES:
        if site != "hook_resid_mid":  # a parallel block has none
            assert hook_width(there, site) == hook_width(lm, site)
    sae = tiny_sae(d_in=16)
    expected = jsaeval.downstream_loss(lm, sae, tokens)
    np.testing.assert_allclose(jax.jit(jsaeval.downstream_loss)(there, sae, tokens), expected, rtol=1e-5)


def test_the_table_of_axes():
    lm, sae = tiny_lm(), tiny_sae("jumprelu")
    split = specs(lm)
    assert split.embedding == P("model", None) and split.final_norm == P(None)
    assert split.blocks.qkv == P(None, None, "model", None, None)
    assert split.blocks.out == P(None, "model", None, None)
    assert split.blocks.up == P(None, None, None, "model") and split.blocks.down == P(None, "model", None)
    assert split.blocks.attn_norm == P(None, None) and split.blocks.q_norm is None
    assert specs(sae).W_enc == P(None, "model") and specs(sae).W_dec == P("model", None)
    assert specs(sae).threshold == P("model") and specs(sae).b_dec == P(None)
    assert specs({"mine": jnp.ones(3), "sae": (sae,)})["mine"] == P()


def test_weights_are_split_and_not_copied():
    mesh = make_mesh(2, 4)
    lm = place(make_lm(EVEN, random_tensors(EVEN)), mesh)
    for array, spec in zip(jax.tree.leaves(lm), jax.tree.leaves(specs(lm)), strict=True):
        share = array.addressable_shards[0].data.size
        assert share == array.size // (4 if "model" in spec else 1)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape, lm, padded(lm, mesh)))


def test_encode_and_norms():
    sae, x = tiny_sae("topk", d_sae=37), jnp.asarray(np.random.default_rng(0).standard_normal((5, 6, 16)), jnp.float32)
    z = jsaeval.encode(sae, x, mesh=make_mesh(2, 4))
    np.testing.assert_allclose(z, jsaeval.encode(sae, x), atol=1e-6)
    for a, b in zip(jsaeval.norms(sae, x, mesh=make_mesh(2, 4)), jsaeval.norms(sae, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def on_model_axis(function, n=8):
    return jax.jit(jax.shard_map(function, mesh=make_mesh(1, n), in_specs=P(None, "model"), out_specs=P(None, "model")))


@pytest.mark.parametrize("k", [1, 5, 40, 64])
def test_topk_of_split_latents_is_exact(k):
    """Bit by bit what one device selects: with equal values, zeros of both signs, and fewer positive ones than k."""
    rng = np.random.default_rng(k)
    pre = rng.standard_normal((50, 64)).astype(np.float32)
    pre[10:20] = np.round(pre[10:20])
    pre[20:30] = -np.abs(pre[20:30])
    pre[30] = 1.0
    pre[31] = 0.0
    pre[32, ::2] = -0.0
    got = on_model_axis(lambda part: topk(part, k))(pre)
    np.testing.assert_array_equal(got, topk(jnp.asarray(pre), k))


def test_kth_largest():
    x = np.random.default_rng(0).standard_normal((20, 33)).astype(np.float32)
    key = ordered(jnp.asarray(x))
    order = np.argsort(np.asarray(key), axis=-1)
    np.testing.assert_array_equal(np.take_along_axis(x, order, -1), np.sort(x, -1))
    for k in (1, 10, 33):
        np.testing.assert_array_equal(kth_largest(key, k, 32), np.sort(np.asarray(key), -1)[:, -k])


@pytest.mark.parametrize(
    ("shape", "message"),
    [((None, 3), "does not divide them; use one of 1, 2, 4, 8"), ((4, 4), "16 devices are needed"), ((0, 1), "needed")],
)
def test_a_mesh_that_does_not_fit(shape, message):
    with pytest.raises(InputError, match=message):
        make_mesh(*shape)
