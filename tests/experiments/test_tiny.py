"""A small SAE trained for real on the LM that ships, and judged on text it never saw: it must beat the floors."""

import numpy as np
import pytest

import jsaeval
from experiments.training.data import token_source
from experiments.training.recipe import Recipe
from experiments.training.step import Training
from experiments.training.study import evaluated, judged_tokens
from experiments.training.text import PROSE, split
from experiments.training.trainer import Job, train
from jsaeval.hooks import parse_hook
from jsaeval.report.comparison import FLOORS


@pytest.fixture(scope="module")
def lm():
    return jsaeval.load_lm("tiny")


@pytest.mark.slow
def test_training_beats_the_floors(lm, tmp_path):
    hook = parse_hook("blocks.1.hook_resid_post")
    source = token_source(lm, split(PROSE).train, 150_000, 128, 8)
    tokens = judged_tokens(lm, 32)
    recipes = (Recipe("topk", sparsity=(16,), width=384), Recipe("batch_topk", sparsity=(16,), width=384))
    job = Job(tmp_path, recipes, Training(steps=290, lr=2e-3), source, tokens[:8], evaluations=1)
    saes = train(lm, hook, job, say=lambda line: None).flat()
    for entry in evaluated(lm, saes, tokens, control_rows=32).saes:
        assert entry.controls is not None
        for name in FLOORS:
            for id in ("downstream_loss", "ce_increase", "fvu"):
                ends = entry.controls.floors[name].difference[id].ci95
                assert ends is not None and ends[1] < 0, (entry.name, name, id, ends)
        assert entry["explained_variance"] > 0.6
        assert 12 < entry["l0"] < 20
    assert np.isfinite([entry["alive"] for entry in evaluated(lm, saes, tokens[:4]).saes]).all()
