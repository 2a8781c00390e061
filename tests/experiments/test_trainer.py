"""The trainer: resumes to the same weights, refuses another training, keeps the last good state when it diverges."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.training import trainer
from experiments.training.checkpoint import _head, load_checkpoint
from experiments.training.data import Source
from experiments.training.recipe import Recipe
from experiments.training.record import DivergedError, read_log
from experiments.training.step import Training
from experiments.training.trainer import Job, train
from jsaeval.errors import InputError
from jsaeval.hooks import parse_hook
from jsaeval.sae.load import load_sae


HOOK = parse_hook("blocks.0.hook_resid_post")
RECIPES = (Recipe("topk", sparsity=(2, 4), width=32), Recipe("relu", "e2e", (0.5,), 32))


@pytest.fixture(scope="module")
def rows():
    rows = np.random.default_rng(0).integers(3, 50, (64, 20)).astype(np.int32)
    rows[:, 0] = 1
    return rows


def job(out, rows, **changes):
    training = Training(steps=24, lr=3e-3, dead_after=5_000)
    base = Job(
        out, RECIPES, training, Source("rows", 64, 8, tokens=rows), rows[:8], 8, 8, evaluations=1, command="test"
    )
    return dataclasses.replace(base, **changes)


def weights(saes):
    return [np.asarray(w) for sae in saes.flat() for w in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec)]


def test_it_learns_logs_and_saves(lm, rows, tmp_path):
    trained = train(lm, HOOK, job(tmp_path / "a", rows), say=lambda line: None)
    lines = read_log(tmp_path / "a" / "log.jsonl")
    steps = [line for line in lines if "training" in line]
    assert [line["step"] for line in steps] == [8, 16, 24]
    for name in steps[0]["training"]:
        assert steps[-1]["training"][name]["loss"] < steps[0]["training"][name]["loss"], name
    (judged,) = [line for line in lines if "evaluation" in line]
    assert set(judged["evaluation"]) == set(steps[0]["training"])
    assert judged["evaluation"]["topk-4.local"]["l0"] == 4
    for path in ("topk-4.local.safetensors", "saelens/topk-4.local"):
        sae = load_sae(tmp_path / "a" / path)
        assert sae.card.hook == HOOK.name
        np.testing.assert_allclose(sae.W_dec, trained.saes[0][1].W_dec, rtol=1e-6)
    declared = json.loads(load_sae(tmp_path / "a" / "topk-4.local.safetensors").card.declared)
    assert declared["training_tokens"] == 24 * 8 * 20 and declared["distinct_tokens"] == 64 * 20
    assert (tmp_path / "a" / "curves.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(lm, rows, tmp_path, monkeypatch):
    whole = train(lm, HOOK, job(tmp_path / "a", rows), say=lambda line: None)

    class KilledError(Exception):
        pass

    save, saved = trainer.save_checkpoint, []

    def save_then_die(out, groups, step, seconds):
        save(out, groups, step, seconds)
        saved.append(step)
        if step == 16:
            raise KilledError

    monkeypatch.setattr(trainer, "save_checkpoint", save_then_die)
    with pytest.raises(KilledError):
        train(lm, HOOK, job(tmp_path / "b", rows), say=lambda line: None)
    monkeypatch.undo()
    said = []
    resumed = train(lm, HOOK, job(tmp_path / "b", rows, resume=True), say=said.append)
    assert "resumed at step 16" in said
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    a, b = (read_log(tmp_path / folder / "log.jsonl") for folder in "ab")
    assert [line.get("training") for line in a] == [line.get("training") for line in b]


def test_another_training_is_refused(lm, rows, tmp_path):
    train(lm, HOOK, job(tmp_path / "a", rows), say=lambda line: None)
    changed = Training(steps=24, lr=1e-3, dead_after=5_000)
    with pytest.raises(InputError, match=r"another training \(lr: 0.003, now 0.001\)"):
        train(lm, HOOK, job(tmp_path / "a", rows, training=changed, resume=True))
    wider = (dataclasses.replace(RECIPES[0], width=64), RECIPES[1])
    with pytest.raises(InputError, match=r"another recipes \(width: 32, now 64\)"):
        train(lm, HOOK, job(tmp_path / "a", rows, recipes=wider, resume=True))
    with pytest.raises(InputError, match="--resume"):
        train(lm, HOOK, job(tmp_path / "a", rows))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(lm, rows, tmp_path):
    train(lm, HOOK, job(tmp_path / "a", rows), say=lambda line: None)
    state = tmp_path / "a" / "state.eqx"
    for damaged in (state.read_bytes()[:400], b"", b"{}\n", b"garbage"):
        state.write_bytes(damaged)
        with pytest.raises(InputError, match=r"state\.eqx: damaged"):
            train(lm, HOOK, job(tmp_path / "a", rows, resume=True))
    (tmp_path / "a" / "plan.json").unlink()
    with pytest.raises(InputError, match=r"without its plan\.json"):
        train(lm, HOOK, job(tmp_path / "a", rows, resume=True))
    (tmp_path / "a" / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="not the plan of a training"):
        train(lm, HOOK, job(tmp_path / "a", rows))


def test_divergence_stops_with_the_step_and_keeps_the_checkpoint(lm, rows, tmp_path):
    class Poisoned(Source):
        def at(self, number):
            batch = super().at(number)
            return batch.at[0, 0].set(np.nan) if number == 18 else batch

    x = np.random.default_rng(0).standard_normal((512, 16)).astype(np.float32)
    source = Poisoned("x", 512, 64, activations=x)
    with pytest.raises(DivergedError, match=r"step 19, topk-2.local: the loss is nan"):
        train(lm, HOOK, job(tmp_path / "a", rows, recipes=RECIPES[:1], source=source), say=lambda line: None)
    groups = tuple(trainer.start(r, trainer.measure_units(lm, HOOK, source), Training(24, 3e-3)) for r in RECIPES[:1])
    kept, _ = load_checkpoint(tmp_path / "a", groups)
    assert _head(tmp_path / "a" / "state.eqx")["step"] == 16
    assert all(np.isfinite(w).all() for w in (kept[0].weights.W_enc, kept[0].weights.W_dec))


def test_weights_that_diverge_in_the_last_step_are_not_saved(lm, rows, tmp_path, monkeypatch):
    """The loss of a step is that of the weights before it, so it cannot tell."""
    made = trainer.make_step

    def broken(*arguments):
        step = made(*arguments)

        def run(groups, arrays, batch, number):
            groups, observed = step(groups, arrays, batch, number)
            if number == 23:
                weights = groups[0].weights
                weights = dataclasses.replace(weights, W_dec=weights.W_dec.at[1, 0, 0].set(np.nan))
                groups = (dataclasses.replace(groups[0], weights=weights), *groups[1:])
            return groups, observed

        return run

    monkeypatch.setattr(trainer, "make_step", broken)
    with pytest.raises(DivergedError, match=r"step 24, topk-4.local: its weights are NaN or Inf"):
        train(lm, HOOK, job(tmp_path / "a", rows), say=lambda line: None)
    assert _head(tmp_path / "a" / "state.eqx")["step"] == 16
    assert not list((tmp_path / "a").glob("*.safetensors"))


def test_equal_names_are_refused(lm, rows, tmp_path):
    with pytest.raises(InputError, match=r"would be called topk-2\.local"):
        train(lm, HOOK, job(tmp_path / "a", rows, recipes=(RECIPES[0], dataclasses.replace(RECIPES[0], width=16))))


def test_dead_latents_are_reported(lm, rows, tmp_path):
    said = []
    deadly = (Recipe("relu", sparsity=(1e6,), width=32),)
    training = Training(steps=120, lr=3e-2, dead_after=200)
    train(lm, HOOK, job(tmp_path / "a", rows, recipes=deadly, training=training), say=said.append)
    assert any("all 32 latents are dead" in line for line in said)
    assert sum("no latent fires any more" in line for line in said) == 1
    last = [line for line in read_log(tmp_path / "a" / "log.jsonl") if "training" in line][-1]
    assert last["training"]["relu-1e+06.local"]["dead"] == 32
