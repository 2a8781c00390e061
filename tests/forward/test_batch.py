"""The engine against a float64 oracle at every hook, and against itself across devices and batches."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.corpus.masks import Masks, make_masks
from jsaeval.errors import InputError
from jsaeval.forward.batch import GROUPS, batch_statistics, pieces
from jsaeval.forward.calibrate import zero_final, zero_is_constant
from jsaeval.forward.splice import hook_width, prefix
from jsaeval.hooks import SITES, Hook, parse_hook
from jsaeval.mesh import make_mesh
from tests.forward import oracle
from tests.tiny import CONFIG, GEMMA2, make_lm, random_tensors, tiny_lm, tiny_sae


SPECIAL, PAD = (0, 1, 2), 0


def rows_with_everything():
    """BOS first, an EOS inside, padding at the end; a row without BOS."""
    rows = np.random.default_rng(3).integers(3, 50, (4, 18)).astype(np.int32)
    rows[:3, 0] = 1
    rows[1, 7] = 2
    rows[2, 13:] = 0
    return rows


def to(dtype, tree):
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def as_jax(masks):
    return Masks(*(jnp.asarray(m) for m in masks))


# What transcoders read and predict; one reads another width than it writes.
PAIRS = (
    Hook(1, "hook_mlp_out", "hook_resid_mid"),
    Hook(1, "hook_mlp_out", "attn.hook_z"),
    Hook(1, "hook_mlp_out", "ln2.hook_normalized"),
)
CASES = [(CONFIG, hook) for hook in (*(Hook(1, site) for site in SITES), *PAIRS)]
CASES += [(GEMMA2, Hook(1, "hook_resid_post")), (GEMMA2, Hook(1, "hook_mlp_out", "mlp.hook_in"))]
# Between blocks, inside attention, inside the MLP, a transcoder, another family; the others are like one of these.
_SHORT = [*((CONFIG, Hook(1, site)) for site in ("hook_resid_pre", "hook_resid_post", "attn.hook_z", "mlp.hook_post"))]
_SHORT += [(CONFIG, PAIRS[1]), CASES[-1]]
CASES = [case if case in _SHORT else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("config", "hook"), CASES, ids=lambda x: x.name if isinstance(x, Hook) else x.family)
def test_every_column_against_the_oracle(config, hook):
    """Gemma 2: norms after attention and MLP, windows, soft caps."""
    tokens, tensors = rows_with_everything(), random_tensors(config, out_norms=config is GEMMA2)
    choices = [make_masks(tokens, SPECIAL, PAD, *n) for n in (("no-special",), ("all",), ("no-special", "all"))]
    with jax.enable_x64(True):
        lm = make_lm(config, tensors, jnp.float64)
        read, width = hook_width(lm, hook.reads or hook.site), hook_width(lm, hook.site)
        sizes = {"d_in": read, "d_out": None if hook.reads is None else width}
        saes = [to(jnp.float64, tiny_sae(kind, **sizes)) for kind in ("relu", "topk", "jumprelu")]
        mean = jnp.linspace(-1, 1, width, dtype=jnp.float64)
        run = jax.jit(
            lambda lm, saes, tokens, masks, mean: batch_statistics(lm, saes, tokens, hook=hook, masks=masks, mean=mean)
        )
        results = [run(lm, saes, jnp.asarray(tokens), as_jax(masks), mean) for masks in choices]
    for (masks, got), (i, sae) in itertools.product(zip(choices, results, strict=True), enumerate(saes)):
        vectors = {name: np.zeros(v.shape) for name, v in got.vectors.items()}
        for r, row in enumerate(tokens):
            own = tuple(m[r] for m in masks)
            shared, per_sae, sums = oracle.line(config, tensors, sae, row, hook, own, np.asarray(mean))
            assert set(shared) == set(got.rows) and set(per_sae) == set(got.saes)
            for name, value in shared.items():
                np.testing.assert_allclose(got.rows[name][r], value, rtol=1e-9, atol=1e-9, err_msg=name)
            for name, value in per_sae.items():
                np.testing.assert_allclose(got.saes[name][i][r], value, rtol=1e-9, atol=1e-9, err_msg=name)
            vectors = {name: vectors[name] + sums[name] for name in vectors}
        for name, value in vectors.items():
            np.testing.assert_allclose(got.vectors[name], value, atol=1e-9, err_msg=name)


def test_latent_counters(lm, tokens):
    sae = tiny_sae("topk")
    masks = make_masks(np.asarray(tokens), SPECIAL, PAD)
    got = jax.jit(lambda lm, sae, t: batch_statistics(lm, [sae], t, groups=("latents",)))(lm, sae, tokens)
    z = np.asarray(sae.encode(prefix(lm, parse_hook(sae.card.hook), tokens)))
    in_row = ((z != 0) & masks.metric[..., None]).any(axis=1)
    np.testing.assert_array_equal(got.latents[0].rows, in_row.sum(0))
    assert 0 < in_row.mean() < 1
    z = z[masks.metric]
    np.testing.assert_array_equal(got.latents[0].fires, (z != 0).sum(0))
    np.testing.assert_allclose(got.latents[0].total, z.sum(0), atol=1e-4)
    np.testing.assert_allclose(got.latents[0].largest, np.maximum(z.max(0), 0), atol=1e-6)


@pytest.mark.parametrize("site", ["hook_resid_post", "hook_mlp_out"])
def test_shared_zero_ablation_equals_its_own_stream(site):
    rows = rows_with_everything()[[0, 2]]  # BOS first, one row padded
    hook, lm = Hook(1, site), tiny_lm()
    saes = [tiny_sae(d_in=hook_width(lm, site))]
    ablate = jax.jit(lambda lm, t, m: zero_final(lm, hook, t, m))
    run = jax.jit(lambda *a: batch_statistics(*a[:3], hook=hook, masks=a[3], zero=a[4], groups=("loss",)))
    for name in ("no-special", "all"):
        masks = make_masks(rows, SPECIAL, PAD, name)
        assert zero_is_constant(hook, rows, masks) == hook.whole_residual
        if not hook.whole_residual:
            continue
        zero = ablate(lm, rows[:1], masks.splice[:1])
        own, shared = (run(lm, saes, jnp.asarray(rows), as_jax(masks), z) for z in (None, zero))
        for name in ("ce_zero", "kl_zero", "ce_clean"):
            np.testing.assert_allclose(own.rows[name], shared.rows[name], rtol=2e-6, err_msg=name)


def test_zero_ablation_is_not_shared_where_rows_differ():
    rows, hook = rows_with_everything(), parse_hook("blocks.1.hook_resid_post")
    inside = make_masks(rows[:2], SPECIAL, PAD)  # an EOS inside one row keeps its activation
    assert not zero_is_constant(hook, rows[:2], inside)
    first = rows[[0, 3]]  # different first tokens keep different activations
    assert not zero_is_constant(hook, first, make_masks(first, SPECIAL, PAD))
    assert zero_is_constant(hook, first, make_masks(first, SPECIAL, PAD, "all"))


def test_groups_cost_nothing_when_not_asked_for(lm, sae, tokens):
    everything = jax.jit(batch_statistics)(lm, [sae], tokens)
    sizes = {}
    for group in GROUPS:
        run = jax.jit(lambda lm, sae, t, g=(group,): batch_statistics(lm, [sae], t, groups=g))
        some = run(lm, sae, tokens)
        for name, value in (some.rows | some.saes).items():
            np.testing.assert_allclose(value, (everything.rows | everything.saes)[name], rtol=1e-4, atol=1e-5)
        sizes[group] = dots(
            jax.make_jaxpr(lambda lm, s, t, g=(group,): batch_statistics(lm, [s], t, groups=g))(lm, sae, tokens)
        )
    assert sizes["norms"] == sizes["latents"] + 1  # the product with the decoder norms
    assert sizes["norms"] < sizes["curve"] < sizes["loss"]


def dots(jaxpr) -> int:
    """Number of matrix products in a program, those of inner programs once."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "dot_general"
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            count += dots(inner) if hasattr(inner, "eqns") else 0
    return count


def shapes(jaxpr):
    """Shapes of all intermediate arrays of a program."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes(inner)


def test_no_array_of_all_logits():
    """rows × positions × vocabulary exists at no time, nor blocks × tokens × d_model."""
    config = dataclasses.replace(CONFIG, n_blocks=5, vocab=5003, context=96)
    lm, tokens = make_lm(config, random_tensors(config)), jnp.ones((7, 96), jnp.int32)
    jaxpr = jax.make_jaxpr(lambda lm, sae, t: batch_statistics(lm, [sae], t))(lm, tiny_sae(), tokens)
    largest = max(np.prod(shape, dtype=int) for shape in shapes(jaxpr))
    assert largest < 7 * 96 * 5003 / 4
    of_blocks = [np.prod(shape, dtype=int) for shape in shapes(jaxpr) if 5 in shape]
    assert max(of_blocks) < 5 * 7 * 96 * 16


@pytest.mark.parametrize("data", [1, pytest.param(2, marks=pytest.mark.slow), 8])
def test_devices_agree(data, lm, tokens):
    """6 rows on 1, 2 and 8 devices: the last has rows to spare."""
    saes = [tiny_sae("relu"), tiny_sae("jumprelu")]
    expected = jax.jit(batch_statistics)(lm, saes, tokens)
    mesh = make_mesh(data)
    got = jax.jit(lambda lm, saes, t: batch_statistics(lm, saes, t, mesh=mesh))(lm, saes, tokens)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if a.dtype == jnp.int32:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("at_once", [1, pytest.param(200, marks=pytest.mark.slow), 10**6])
def test_rows_in_pieces(at_once, lm, tokens):
    """One row at a time, some, all: the same sums."""
    saes, mesh = [tiny_sae("relu"), tiny_sae("topk")], make_mesh(1)
    run = jax.jit(lambda lm, saes, t: batch_statistics(lm, saes, t, mesh=mesh, keep=True, tokens_at_once=at_once))
    got, expected = run(lm, saes, tokens), jax.jit(lambda *a: batch_statistics(*a, keep=True))(lm, saes, tokens)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


def test_pieces_are_equal_and_fit():
    assert [pieces(12, 100, most) for most in (1200, 1199, 400, 399, 100, 1)] == [1, 2, 3, 4, 12, 12]
    assert pieces(7, 10, 69) == 7 and pieces(1, 10, 1) == 1


def test_one_program_serves_every_block(lm, sae, tokens):
    run = jax.jit(
        lambda lm, sae, t, block: batch_statistics(lm, [sae], t, hook=Hook(block, "hook_resid_post"), groups=("loss",))
    )
    for block in range(3):
        traced = run(lm, sae, tokens, jnp.int32(block))
        static = jax.jit(
            lambda lm, sae, t, i=block: batch_statistics(
                lm, [sae], t, hook=Hook(i, "hook_resid_post"), groups=("loss",)
            )
        )(lm, sae, tokens)
        np.testing.assert_allclose(traced.saes["kl"], static.saes["kl"], rtol=1e-4, atol=1e-5)
    assert run._cache_size() == 1


def test_bad_calls(lm, sae, tokens):
    with pytest.raises(InputError, match="reads 8 and writes 8 dimensions, but hook_resid_post of this LM has 16"):
        batch_statistics(lm, [tiny_sae(d_in=8)], tokens)
    with pytest.raises(InputError, match=r"groups .'loss '. do not exist"):
        batch_statistics(lm, [sae], tokens, groups=("loss ",))
    with pytest.raises(InputError, match="no SAE says where it hooks"):
        batch_statistics(lm, [tiny_sae(hook=None)], tokens)
