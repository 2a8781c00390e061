"""The objectives of Braun et al. 2024, as printed and as run, against plain numpy and the metrics of the package."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training import dictionary
from experiments.training.losses import check, end_to_end, penalty_weight
from experiments.training.recipe import Recipe
from jsaeval.errors import InputError
from jsaeval.forward.batch import default_masks
from jsaeval.forward.splice import at_hook, prefix
from jsaeval.hooks import parse_hook
from jsaeval.metrics.objectives import downstream_loss
from tests.tiny import tiny_sae


HOOK = parse_hook("blocks.0.hook_resid_post")


@pytest.fixture(scope="module")
def spliced(lm, tokens):
    """Reconstructions of two SAEs, and by hand: KL both ways and ‖â − a‖² after each block, a mean over tokens."""
    saes = [tiny_sae("topk", seed=s, hook=HOOK.name) for s in (1, 2)]
    masks, residual = default_masks(lm, tokens), prefix(lm, HOOK, tokens)
    x = at_hook(lm, HOOK, residual)
    reconstructions = jnp.stack([sae.decode(sae.encode(x)) for sae in saes])
    mask = np.asarray(masks.metric)

    def forward(start):
        after, r = [], start
        for block in range(1, lm.n_blocks):
            r, _ = lm.run(r, block, block + 1)
            after.append(np.asarray(r, np.float64))
        logits = np.asarray(lm.final(r), np.float64) @ np.asarray(lm.unembedding, np.float64).T
        return after, logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    clean, log_p = forward(x)
    by_hand = []
    for reconstruction in reconstructions:
        after, log_q = forward(jnp.where(masks.splice[..., None], reconstruction, x))
        code = (np.exp(log_p) * (log_p - log_q)).sum(-1)[mask].mean()
        paper = (np.exp(log_q) * (log_q - log_p)).sum(-1)[mask].mean()
        errors = [np.square(b - a).sum(-1)[mask].mean() for a, b in zip(clean, after, strict=True)]
        by_hand.append((paper, code, errors))
    return saes, masks, residual, x, reconstructions, by_hand


def loss(lm, tokens, spliced, recipe):
    _, masks, residual, x, reconstructions, _ = spliced
    return end_to_end(lm, HOOK, tokens, masks, residual, x, reconstructions, recipe)


@pytest.mark.slow
def test_e2e_in_both_directions(lm, tokens, spliced):
    paper = loss(lm, tokens, spliced, Recipe(objective="e2e"))
    code = loss(lm, tokens, spliced, Recipe(objective="e2e", form="code"))
    np.testing.assert_allclose(paper, [hand[0] for hand in spliced[-1]], rtol=1e-4)
    np.testing.assert_allclose(code, [hand[1] for hand in spliced[-1]], rtol=1e-4)
    assert not np.allclose(paper, code, rtol=1e-2)
    metric = [downstream_loss(lm, sae, tokens) for sae in spliced[0]]
    np.testing.assert_allclose(code, metric, rtol=1e-5)


def test_downstream_sum_stops_before_the_last_block(lm, tokens, spliced):
    """Three blocks, SAE before block 1: of the later residual streams only the one before block 2 counts."""
    paper = loss(lm, tokens, spliced, Recipe(objective="e2e+ds", beta=0.3))
    code = loss(lm, tokens, spliced, Recipe(objective="e2e+ds", beta=0.3, form="code"))
    np.testing.assert_allclose(paper, [hand[0] + 0.3 / 2 * hand[2][0] for hand in spliced[-1]], rtol=1e-4)
    np.testing.assert_allclose(code, [hand[1] / 2 + 0.3 / 1 * hand[2][0] / 16 for hand in spliced[-1]], rtol=1e-4)


def test_penalty_in_the_units_of_the_paper():
    """λ/d ‖c‖₁ beside ‖a − â‖², in units of the variance; latents are scaled like the activation."""
    rng = np.random.default_rng(0)
    x, raw = rng.standard_normal((1, 30, 16)), Recipe("relu", sparsity=(2.0,), width=8)
    scale, mask = 3.0, jnp.ones((1, 30), bool)
    spread = 7.0 * scale**2
    p = dictionary.initial(raw, np.zeros(16))
    coded = dictionary.encode(p, raw, jnp.asarray(2.0), jnp.asarray(x * scale, jnp.float32), mask)
    z = np.asarray(coded.z[0]) / scale
    error = np.square(x[0] - z @ np.asarray(p.W_dec)).sum(-1).mean()
    for form, share in (("paper", 1 / 16), ("code", 1.0)):
        recipe = dataclasses.replace(raw, form=form)
        scaled = dictionary.squared_error(p, recipe, coded.z, jnp.asarray(x * scale, jnp.float32))[1].mean() / spread
        total = scaled + penalty_weight(recipe, 16, scale, spread) * 2.0 * coded.penalty
        np.testing.assert_allclose(total, (error + 2.0 * share * z.sum(-1).mean()) / 7.0, rtol=1e-5)
    end = penalty_weight(dataclasses.replace(raw, objective="e2e"), 16, scale, spread) * coded.penalty
    np.testing.assert_allclose(end, z.sum(-1).mean() / 16, rtol=1e-5)


def test_the_decoder_learns_through_the_lm(lm, tokens, spliced):
    """A gradient step on e2e lowers it."""
    _, masks, residual, x, _, _ = spliced
    recipe = Recipe("topk", "e2e", (4,), 40)
    p = dictionary.initial(recipe, np.zeros(16, np.float32))

    def value(p):
        z = dictionary.encode(p, recipe, jnp.asarray(4.0), x, masks.metric).z
        return end_to_end(lm, HOOK, tokens, masks, residual, x, dictionary.decode(p, z)[None], recipe)[0]

    before, gradient = jax.value_and_grad(value)(p)
    after = value(jax.tree.map(lambda w, g: w - 0.02 * g, p, gradient))
    assert after < before
    assert all(np.asarray(g).any() for g in (gradient.W_enc, gradient.W_dec, gradient.b_dec))


def test_objectives_without_meaning_are_refused():
    with pytest.raises(InputError, match="none lies between"):
        check(Recipe(objective="e2e+ds"), parse_hook("blocks.1.hook_resid_post"), 3)
    check(Recipe(objective="e2e+ds"), parse_hook("blocks.0.hook_resid_post"), 3)
    for architecture, part in (("matryoshka", "nested"), ("gated", "gate")):
        with pytest.raises(InputError, match=part):
            check(Recipe(architecture, "e2e"), HOOK, 3)
    with pytest.raises(InputError, match=r"1\.\.1024"):
        Recipe("topk", sparsity=(2000,))
    with pytest.raises(InputError, match="not negative"):
        Recipe("relu", sparsity=(-1.0,))
