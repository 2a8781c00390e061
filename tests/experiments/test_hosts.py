"""The hosts are the same LM as the package's decoder: logits, every hook, every metric; and no weight is copied."""

import dataclasses
import runpy

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from penzai import pz
from penzai.models.transformer import model_parts

import jsaeval
from experiments.hosts import equinox_module, flax_nnx, penzai_model
from experiments.hosts.shared import (
    block_weights,
    disagreement,
    largest_difference,
    logits,
    quick_sae,
    shares_buffers,
)
from jsaeval.errors import InputError
from jsaeval.hooks import SITES, parse_hook
from jsaeval.lm.protocol import HostLM
from jsaeval.run.engine import Setting
from tests.lm import oracle
from tests.tiny import CARD, CONFIG, GEMMA2, make_lm, random_tensors, tiny_sae


# What Equinox's own attention layer can hold: as many key-value heads as heads, and they fill the residual stream.
LLAMA = dataclasses.replace(CONFIG, n_blocks=2, n_kv_heads=4, d_head=4, rotary_dims=4, tied_embedding=True)
MODULES = {"equinox": equinox_module, "nnx": flax_nnx, "penzai": penzai_model}
# tests/lm/test_adapters.py has the base class among the fast ones.
pytestmark = pytest.mark.slow
NAMES = tuple(MODULES)
AT = "blocks.0.hook_resid_post"
# The adapters show what their models compute in plain sight; inside the MLP they show nothing.
OFFERED = tuple(site for site in SITES if not site.startswith(("mlp.", "ln2.")))


def small(config=LLAMA):
    return make_lm(config, random_tensors(config))


def host_of(name, model):
    if name == "equinox":
        return equinox_module.EquinoxHost(model, card=CARD)
    if name == "nnx":
        return flax_nnx.NNXHost(*nnx.split(model), card=CARD)
    return penzai_model.PenzaiHost(*pz.unbind_params(model.body, freeze=True), card=CARD)


def model_of(name, decoder):
    return MODULES[name].from_decoder(decoder)


def forward_of(name, model):
    if name == "equinox":
        return jax.vmap(model)
    return model if name == "nnx" else lambda tokens: penzai_model.forward(model, tokens)


def weights_of(name, model):
    return pz.freeze_variables(model) if name == "penzai" else model


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """(name, the user's model, its host)."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        model = model_of(request.param, small())
        return request.param, model, host_of(request.param, model)


def test_logits_are_the_models_own(case, tokens):
    name, model, host = case
    assert isinstance(host, HostLM)
    assert (host.n_blocks, host.d_model, host.vocab) == (2, 16, 50)
    assert largest_difference(host, forward_of(name, model), np.asarray(tokens)) <= 1e-5


def test_logits_are_soft_capped_where_the_model_says_so(tokens):
    tensors = random_tensors(GEMMA2, out_norms=True)
    _, expected = oracle.run(GEMMA2, tensors, np.asarray(tokens)[0])
    assert np.abs(expected).max() > 2  # of a cap of 3, which bends them
    np.testing.assert_allclose(logits(make_lm(GEMMA2, tensors), tokens)[0], expected, atol=1e-4)


def test_the_weights_are_the_models_own_buffers(case):
    name, model, host = case
    weights = weights_of(name, model)
    assert shares_buffers(host, weights)
    copied = jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, host)
    assert not shares_buffers(copied, weights)


def record(lm, tokens):
    """Every site of every block, in order, one block at a time outside `jax.jit`."""
    seen = {}

    def tap(site, block, activation, state):
        seen[f"blocks.{block}.{site}"] = activation
        return activation, state

    residual = lm.embed(tokens)
    with jax.disable_jit():
        for i in range(lm.n_blocks):
            residual, _ = lm.run(residual, i, i + 1, tap)
    return seen


def check_hooks(host, decoder, tokens, missing=""):
    expected, seen = record(decoder, tokens), record(host, tokens)
    assert list(seen) == [name for name in expected if name.endswith(OFFERED) and not (missing and missing in name)]
    for name, x in seen.items():
        np.testing.assert_allclose(x, expected[name], atol=1e-5, rtol=1e-5, err_msg=name)


def test_every_hook_is_that_of_the_decoder(case, tokens):
    name, _, host = case
    check_hooks(host, small(), tokens[:2], missing="attn.hook_z" if name == "equinox" else "")


@pytest.mark.parametrize(("name", "kv_heads"), [("nnx", 2), ("penzai", 2), ("penzai", 1)])
def test_heads_that_share_keys_and_values(name, kv_heads, tokens):
    decoder = small(dataclasses.replace(CONFIG, n_blocks=1, n_kv_heads=kv_heads, tied_embedding=True))
    check_hooks(host_of(name, model_of(name, decoder)), decoder, tokens[:2])


@eqx.filter_jit
def spliced(lm, tokens, site, block, value):
    """Logits with `value` in place of the activation at one of `OFFERED` of one block; both numbers are traced."""

    def tap(name, index, activation, state):
        if name not in OFFERED:
            return activation, state
        return jnp.where((OFFERED.index(name) == site) & (index == block), value, activation), state

    start = 0 * block
    return lm.final(lm.run(lm.embed(tokens), start, start + lm.n_blocks, tap)[0]) @ lm.unembedding.T


def test_a_splice_at_every_hook_does_what_it_does_in_the_decoder(case, tokens):
    _, _, host = case
    ids = tokens[:2]
    own, clean = record(host, ids), spliced(host, ids, jnp.int32(-1), jnp.int32(0), jnp.zeros(()))
    value = jax.random.normal(jax.random.key(0), (*ids.shape, host.d_model))
    assert len(own) >= 2 * (len(OFFERED) - 1)
    for name, activation in own.items():
        hook = parse_hook(name)
        place = jnp.int32(OFFERED.index(hook.site)), jnp.int32(hook.block)
        np.testing.assert_allclose(spliced(host, ids, *place, activation), clean, atol=1e-5, err_msg=name)
        other = spliced(host, ids, *place, value)
        assert jnp.abs(other - clean).max() > 0.1
        np.testing.assert_allclose(other, spliced(small(), ids, *place, value), rtol=1e-5, atol=1e-5, err_msg=name)


def identity_sae():
    """x = relu(x) − relu(−x)."""
    both = jnp.concatenate([jnp.eye(16), -jnp.eye(16)])
    zeros = jnp.zeros(16)
    return jsaeval.SAE(both.T, jnp.zeros(32), both, zeros, zeros, card=jsaeval.SAECard("identity"))


def evaluated(lm, tokens):
    return jsaeval.evaluate(
        lm,
        [tiny_sae("topk"), identity_sae()],
        tokens=np.asarray(tokens),
        hook=AT,
        metric_mask="all",
        setting=Setting(batch=4, control_rows=0),
        mesh=jsaeval.make_mesh(2),
    )


@pytest.fixture(scope="module")
def expected(tokens):
    return evaluated(small(), tokens)


def test_every_metric_is_that_of_the_decoder(case, expected, tokens):
    name, model, host = case
    results = evaluated(host, tokens)
    sae, identity = results.saes
    assert len(sae.metrics) == 25
    for id, value in sae.metrics.items():
        np.testing.assert_allclose(value.value, expected.saes[0][id], rtol=1e-5, err_msg=id)
    assert abs(identity["downstream_loss"]) < 1e-6 and abs(identity["ce_increase"]) < 1e-6
    ablated = jax.nn.log_softmax(forward_of(name, zeroed(name, model))(tokens))
    ce = -jnp.take_along_axis(ablated[:, :-1], tokens[:, 1:, None], axis=-1).mean()
    np.testing.assert_allclose(results.controls[AT].metrics["zero"]["ce_spliced"].value, ce, rtol=1e-5)


class Nothing(nnx.Module):
    def __call__(self, x):
        return jnp.zeros_like(x)


class Minus(eqx.Module):
    """A block that takes away what was there."""

    def attend(self, x):
        return -x

    def mlp(self, x):
        return jnp.zeros_like(x)


def zeroed(name, model):
    """The model with 0 after block 0, as a user of each library would do it."""
    if name == "equinox":
        return eqx.tree_at(lambda model: model.blocks[0], model, Minus())
    if name == "nnx":
        copy = nnx.clone(model)
        copy.blocks[0] = Nothing()
        return copy
    blocks = pz.select(model).at_instances_of(model_parts.TransformerBlock)
    return blocks.pick_nth_selected(0).insert_after(pz.nn.Elementwise(jnp.zeros_like))


def test_dropout_is_off_where_the_model_says_so(tokens):
    """The state of an NNX model may hold random keys."""
    model = model_of("nnx", small())
    for block in model.blocks:
        block.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    model.eval()
    host = host_of("nnx", model)
    assert any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(host.state))
    loss = jsaeval.mse(host, tiny_sae(), tokens)
    np.testing.assert_allclose(loss, jsaeval.mse(small(), tiny_sae(), tokens), rtol=1e-5)


def test_a_hook_that_the_adapter_does_not_offer(tokens):
    host = host_of("equinox", model_of("equinox", small()))
    sae = tiny_sae(hook="blocks.1.attn.hook_z")
    with pytest.raises(InputError, match=r"no site 'attn.hook_z'; it passes hook_resid_pre, hook_attn_out, .*post$"):
        jsaeval.evaluate(host, [sae], tokens=np.asarray(tokens))


def test_weights_under_plain_names():
    decoder, w = small(CONFIG), block_weights(small(CONFIG))[1]
    tensors = random_tensors(CONFIG)
    q, o = (tensors[f"model.layers.1.self_attn.{name}_proj.weight"] for name in "qo")
    np.testing.assert_array_equal(w.q.reshape(decoder.d_model, -1), q.T)
    np.testing.assert_array_equal(w.o.reshape(-1, decoder.d_model), o.T)
    np.testing.assert_array_equal(w.up, tensors["model.layers.1.mlp.up_proj.weight"].T)


def test_a_quick_sae_learns_through_an_adapter(tokens):
    host, rows = host_of("nnx", model_of("nnx", small())), np.asarray(tokens)
    untrained, trained = (quick_sae(host, rows, width=32, k=4, steps=steps) for steps in (1, 60))
    assert trained.card.hook == "blocks.1.hook_resid_post"
    np.testing.assert_allclose(jnp.linalg.norm(trained.W_dec, axis=1), 1.0, rtol=1e-5)
    assert jsaeval.mse(host, trained, tokens) < 0.8 * jsaeval.mse(host, untrained, tokens)


@pytest.mark.parametrize("name", NAMES)
def test_scripts(name, tmp_path, monkeypatch, capsys):
    """On `tiny`, with the SAE that ships with it."""
    monkeypatch.chdir(tmp_path)
    ran = runpy.run_path(str(MODULES[name].__file__), run_name="__main__")
    assert disagreement(ran["results"], ran["same"]) <= 1e-5
    assert "own buffers: True" in capsys.readouterr().out
