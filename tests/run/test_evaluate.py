"""`evaluate` on tokens, on text, with several hooks and kinds of LM."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsaeval
from jsaeval.errors import InputError
from jsaeval.run.engine import Setting
from jsaeval.run.evaluate import evaluate
from tests.tiny import tiny_sae


@pytest.fixture(scope="module")
def ids(tokens):
    return np.asarray(tokens)


@pytest.fixture(scope="module")
def results(lm, ids):
    saes = [tiny_sae("relu"), tiny_sae("topk", hook="blocks.0.hook_mlp_out"), tiny_sae("jumprelu")]
    return evaluate(lm, saes, tokens=ids, mesh=jsaeval.make_mesh(1), setting=Setting(batch=4, control_rows=2))


def test_entries_keep_their_order(results):
    assert [r.name for r in results.saes] == ["tiny-relu", "tiny-topk", "tiny-jumprelu"]
    assert [r.hook.name for r in results.saes] == [
        "blocks.1.hook_resid_post",
        "blocks.0.hook_mlp_out",
        "blocks.1.hook_resid_post",
    ]
    assert len(results.saes[0].metrics) == 27
    assert list(results.saes[0].by_block["downstream_fvu"]) == ["2"]
    assert list(results.saes[1].by_block["downstream_fvu"]) == ["0", "1", "2"]
    for sae in results.saes:
        np.testing.assert_allclose(sae["downstream_fvu"], np.mean(list(sae.by_block["downstream_fvu"].values())))
        low, high = sae.metrics["downstream_fvu"].ci95
        assert low < sae["downstream_fvu"] < high


def test_an_sae_alone_gives_the_same_numbers(results, lm, ids):
    setting = Setting(control_rows=2)
    (alone,) = evaluate(lm, [tiny_sae("jumprelu")], tokens=ids, mesh=jsaeval.make_mesh(1), setting=setting).saes
    for name, value in results.saes[2].metrics.items():
        np.testing.assert_allclose(alone[name], value.value, rtol=2e-5, err_msg=name)


def test_a_transcoder_is_compared_and_spliced_where_it_writes(lm, ids):
    """One that always writes b_dec is mean ablation of the MLP, whatever it reads; another's numbers do not depend on
    batches and devices."""
    hook = "blocks.1.attn.hook_z:hook_mlp_out"
    transcoder = tiny_sae("relu", d_in=24, d_out=16)
    card = dataclasses.replace(transcoder.card, hook="blocks.1.attn.hook_z", hook_out="blocks.1.hook_mlp_out")
    named = dataclasses.replace(transcoder, card=card)
    with pytest.raises(InputError, match=f"a transcoder; --hook is .*{hook.split(':')[0]}:"):
        evaluate(lm, [named], tokens=ids, hook="blocks.1.hook_mlp_out")
    setting = Setting(groups=("norms", "reconstruction", "loss"), control_rows=2)
    (own,) = evaluate(lm, [named], tokens=ids, setting=setting).saes
    assert own.hook.name == hook and own.controls is not None and own["mse_element"] == own["mse"] / 16
    (again,) = evaluate(
        lm,
        [transcoder],
        tokens=ids,
        hook=hook,
        mesh=jsaeval.make_mesh(1),
        setting=dataclasses.replace(setting, batch=2),
    ).saes
    for name, value in again.metrics.items():
        np.testing.assert_allclose(own[name], value.value, rtol=1e-4, err_msg=name)
    plain = dataclasses.replace(setting, control_rows=0)
    still = dataclasses.replace(transcoder, W_dec=jnp.zeros((40, 16)), b_dec=jnp.full(16, 0.25))
    same = tiny_sae("relu", hook="blocks.1.hook_mlp_out")
    same = dataclasses.replace(same, W_dec=jnp.zeros((40, 16)), b_dec=still.b_dec, b_pre=None)
    (one,) = evaluate(lm, [still], tokens=ids, hook=hook, setting=plain).saes
    (other,) = evaluate(lm, [same], tokens=ids, setting=plain).saes
    for name in ("mse", "downstream_loss", "ce_recovered_zero", "fvu"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, err_msg=name)


def test_mask_names_and_provenance(results, ids):
    assert results.mask_names == {"metric": "no-special", "splice": "no-special"}
    assert results.provenance["tokens_per_s"] > 0 and results.provenance["mesh"] == {"data": 1, "model": 1}
    assert results.rows.tokens.shape == ids.shape
    assert results.lm["name"] == "tiny" and results.lm["config"]["d_model"] == 16


def test_what_does_not_fit_is_refused(lm, ids):
    cases = [
        ([], {}, "no SAE to evaluate"),
        ([tiny_sae(hook=None)], {}, "does not say which hook"),
        ([tiny_sae(d_in=8)], {}, "is it an SAE of another LM or hook"),
        ([tiny_sae(hook="blocks.3.hook_resid_post")], {}, "there is no block 3"),
        ([tiny_sae()], {"rows": 0}, "rows = 0: at least 1"),
        ([tiny_sae()], {"tokens": ids * 10}, "outside the LM's vocabulary"),
        ([tiny_sae()], {"tokens": None, "context": 65}, "the LM's context is 64"),
        ([tiny_sae()], {"tokens": None, "context": 9}, "was not made by load_lm"),
    ]
    for saes, options, message in cases:
        with pytest.raises(InputError, match=message):
            evaluate(lm, saes, **({"tokens": ids} | options))


class NNXBlock(nnx.Module):
    """A user's own block: no attention, a two-layer MLP."""

    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(16, 32, rngs=rngs), nnx.Linear(32, 16, rngs=rngs)

    def __call__(self, x):
        return self.down(jax.nn.gelu(self.up(x)))


class NNXModel(nnx.Module):
    def __init__(self, rngs):
        self.embedding = nnx.Embed(50, 16, rngs=rngs)
        self.blocks = nnx.List([NNXBlock(rngs) for _ in range(3)])
        self.norm = nnx.RMSNorm(16, rngs=rngs)


class NNXHost(eqx.Module):
    """`HostLM` over a Flax NNX model: its graph is static, its state is the pytree."""

    graph: nnx.GraphDef = eqx.field(static=True)
    state: nnx.State
    n_blocks = 3
    d_model = 16
    vocab = 50

    @property
    def model(self):
        return nnx.merge(self.graph, self.state)

    @property
    def unembedding(self):
        return self.model.embedding.embedding[...]

    def embed(self, tokens):
        return self.model.embedding(tokens)

    def run(self, residual, start, stop, tap=jsaeval.lm.protocol.no_tap, state=None):
        model = self.model  # blocks of their own cannot be indexed by a traced number: choose by `switch`

        def one(block, residual):
            return jax.lax.switch(block, [lambda x, b=b: x + b(x) for b in model.blocks], residual)

        def body(index, carry):
            residual, state = carry
            return tap("hook_resid_post", index, one(index, residual), state)

        return jax.lax.fori_loop(start, stop, body, (residual, state))

    def final(self, residual):
        return self.model.norm(residual)


def test_a_flax_model_is_a_host(ids):
    """The protocol is enough: a user's NNX model, in Flax's own modules, without copying weights into ours."""
    host = NNXHost(*nnx.split(NNXModel(nnx.Rngs(0))))
    assert isinstance(host, jsaeval.HostLM)
    sae = tiny_sae("topk")
    (result,) = evaluate(host, [sae], tokens=ids, mesh=jsaeval.make_mesh(2), setting=Setting(batch=4)).saes

    model = nnx.merge(host.graph, host.state)
    x, counted = model.embedding(jnp.asarray(ids)), np.s_[:, 1:]
    for block in model.blocks[:2]:
        x = x + block(x)
    out = sae.decode(sae.encode(x))
    error = np.square(np.asarray(x - out))[counted].sum(-1)
    np.testing.assert_allclose(result["mse"], error.mean(), rtol=1e-4)
    clean, spliced = (jax.nn.log_softmax(model.norm(r + model.blocks[2](r)) @ host.unembedding.T) for r in (x, out))
    kl = (jnp.exp(clean) * (clean - spliced)).sum(-1)[counted]
    np.testing.assert_allclose(result["downstream_loss"], kl.mean(), rtol=1e-3)
