"""Shapes without weights are those of real decoders."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jsaeval.lm.shapes import SHAPES, abstract_decoder
from tests.tiny import CONFIG, GEMMA, GEMMA2, GEMMA3, make_lm, random_tensors


CASES = {
    "llama": (CONFIG, {}),
    "qwen3": (dataclasses.replace(CONFIG, family="qwen3"), {"qk_norm": True}),
    "gemma": (GEMMA, {}),
    "gemma2": (GEMMA2, {"out_norms": True}),
    "gemma3": (GEMMA3, {"out_norms": True, "qk_norm": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_shape_is_that_of_a_decoder(case):
    config, options = CASES[case]
    real, abstract = (
        make_lm(config, random_tensors(config, **options), jnp.bfloat16),
        abstract_decoder(config, jnp.dtype(jnp.bfloat16)),
    )
    real = dataclasses.replace(real, card=abstract.card)
    assert jax.tree.structure(real) == jax.tree.structure(abstract)
    for x, y in zip(jax.tree.leaves(real), jax.tree.leaves(abstract), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)


def test_gemma2_by_its_report():
    """Parameters without the embedding by table 2 of arXiv 2408.00118; windows and soft caps by its section 2."""
    lm = SHAPES["gemma-2-2b"]
    assert lm.windows == (4096, 0) * 13 and (lm.attn_logit_cap, lm.logit_cap) == (50.0, 30.0)
    counts = {"gemma-2-2b": 2_024_517_888, "gemma-2-9b": 8_324_201_984, "gemma-2-27b": 26_047_480_320}
    for name, expected in counts.items():
        weights = abstract_decoder(SHAPES[name], jnp.dtype(jnp.bfloat16))
        assert sum(x.size for x in jax.tree.leaves((weights.blocks, weights.final_norm))) == expected, name
