"""Someone else's model behind `BlockwiseLM`: bounds of both kinds, taps, gradients, and no copy of a weight."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsaeval
from jsaeval.errors import InputError
from jsaeval.forward.splice import hook_width
from jsaeval.lm.adapters import BlockwiseLM
from jsaeval.lm.protocol import HostLM, check_host, no_tap
from tests.tiny import tiny_sae


class Host(BlockwiseLM):
    """Blocks of different widths: x + tanh(x V) W, with one site inside."""

    table: jax.Array
    weights: list[tuple[jax.Array, jax.Array]]

    @property
    def blocks(self):
        return self.weights

    @property
    def unembedding(self):
        return self.table

    def embed(self, tokens):
        return self.table[tokens]

    def apply(self, block, residual, at):
        return residual + at("hook_mlp_out", jnp.tanh(residual @ block[0]) @ block[1])

    def final(self, residual):
        return residual


def make(widths=(8, 24, 16), d_model=16, vocab=50):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape) * 0.3, jnp.float32)

    return Host(normal(vocab, d_model), [(normal(d_model, n), normal(n, d_model)) for n in widths])


def record(site, block, x, state):
    """Adds 1 at one site of block 1, and counts what it sees there, and the order of all sites."""
    order, seen = state
    here = (block == 1) & (site == "hook_mlp_out")
    step = {"hook_resid_pre": 1.0, "hook_mlp_out": 2.0, "hook_resid_post": 3.0}[site]
    return x + jnp.where(here, 1.0, 0.0), (order * 10 + step, seen + jnp.where(here, x.sum(), 0.0))


START = jnp.float32(0), jnp.float32(0)


def by_hand(host, x, start, stop):
    order, seen = START
    for i, (v, w) in list(enumerate(host.weights))[start:stop]:
        out = jnp.tanh(x @ v) @ w
        seen += out.sum() if i == 1 else 0.0
        x, order = x + out + (1.0 if i == 1 else 0.0), order * 1000 + 123
    return x, (order, seen)


def test_it_is_a_host():
    host = make()
    assert isinstance(host, HostLM)
    assert (host.n_blocks, host.d_model, host.vocab) == (3, 16, 50)


@pytest.mark.parametrize("bounds", [(0, 3), (1, 2), (1, 3), (2, 2)])
def test_static_and_traced_bounds_equal_the_loop_by_hand(bounds, tokens):
    host = make()
    x = host.embed(tokens)
    expected = by_hand(host, x, *bounds)
    static = jax.jit(lambda host, x: host.run(x, *bounds, record, START))(host, x)
    traced = jax.jit(lambda host, x, a, b: host.run(x, a, b, record, START))(host, x, *map(jnp.int32, bounds))
    for got in (static, traced):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_static_bounds_are_differentiated(tokens):
    host, sae = make(), tiny_sae()
    gradient = jax.grad(jsaeval.downstream_loss, argnums=1)(host, sae, tokens)
    direction = jax.tree.map(lambda g: g / jnp.linalg.norm(g), gradient.W_dec)

    def along(step):
        moved = eqx.tree_at(lambda sae: sae.W_dec, sae, sae.W_dec + step * direction)
        return jsaeval.downstream_loss(host, moved, tokens)

    slope = (along(0.05) - along(-0.05)) / 0.1
    np.testing.assert_allclose(slope, jnp.vdot(gradient.W_dec, direction), rtol=1e-2)


def test_the_compiled_loop_copies_no_weight():
    host = make(widths=(2048,) * 4, d_model=64)
    x, bound = jnp.ones((1, 2, 64)), jnp.int32(0)
    program = jax.jit(lambda host, x, a, b: host.run(x, a, b, no_tap)[0]).lower(host, x, bound, bound).compile()
    of_a_block = sum(weight.nbytes for weight in host.weights[0])
    assert program.memory_analysis().temp_size_in_bytes < of_a_block / 10


def test_a_hook_that_is_not_there_is_one_clear_line(tokens):
    message = r"this LM has no site 'attn.hook_z'; it passes hook_resid_pre, hook_mlp_out, hook_resid_post$"
    sae = tiny_sae(hook="blocks.1.attn.hook_z")
    with pytest.raises(InputError, match=rf"^tiny-relu: hook 'blocks.1.attn.hook_z': {message}"):
        jsaeval.evaluate(make(), [sae], tokens=np.asarray(tokens))
    with pytest.raises(InputError, match=rf"^{message}"):
        jsaeval.mse(make(), sae, tokens)


class Blind(Host):
    """Calls no tap."""

    def run(self, residual, start, stop, tap=no_tap, state=None):
        return residual, state


def test_a_host_that_shows_nothing_is_refused():
    host = make()
    with pytest.raises(InputError, match="no site 'hook_resid_post'; it passes none"):
        hook_width(Blind(host.table, host.weights), "hook_resid_post")


def test_what_is_no_host_at_all_is_refused():
    with pytest.raises(InputError, match=r"^lm: Linear has no n_blocks, .*final; wrap it in an adapter"):
        check_host(eqx.nn.Linear(2, 2, key=jax.random.key(0)))
    check_host(make())
