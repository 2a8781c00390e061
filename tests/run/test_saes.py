"""Names, paths and patterns → SAEs, each once, with names that differ."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jsaeval
from jsaeval.errors import InputError
from jsaeval.run.engine import Setting
from jsaeval.run.evaluate import Failed, SAEResult, evaluate
from jsaeval.run.saes import find_saes, load_saes, short_names
from jsaeval.sae.load import save_sae
from tests.tiny import tiny_sae


@pytest.fixture
def here(tmp_path, monkeypatch):
    """saes/{b,a}.safetensors, the folders saes/lens and saes/deep/{x,y}, and what is no SAE."""
    monkeypatch.chdir(tmp_path)
    for name in ("saes/b", "saes/a", "saes/deep/x", "saes/deep/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_sae(tiny_sae(), tmp_path / f"{name}.safetensors")
    save_sae(tiny_sae("topk"), tmp_path / "saes" / "lens", format="saelens")
    (tmp_path / "saes" / "log.jsonl").write_text("{}\n")
    (tmp_path / "saes" / "front.png").write_bytes(b"\x89PNG")
    (tmp_path / "saes" / "plots").mkdir()
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").write_text("{}")
    (tmp_path / "lm" / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_a_pattern_is_sorted_and_leaves_out_what_is_no_sae(here):
    names, notes = find_saes(["saes/*"])
    assert names == ("saes/a.safetensors", "saes/b.safetensors", "saes/lens")
    several, foreign = notes
    assert "folders of several SAEs: saes/deep" in several
    assert "no SAEs: saes/front.png, saes/log.jsonl, saes/plots" in foreign


def test_numbers_are_sorted_as_numbers(here):
    for k in (16, 8, 128):
        save_sae(tiny_sae(), here / f"topk-{k}.safetensors")
    assert find_saes(["topk-*"])[0] == ("topk-8.safetensors", "topk-16.safetensors", "topk-128.safetensors")


@pytest.mark.parametrize("pattern", ["saes/**", "saes/**/*"])
def test_any_depth(here, pattern):
    """The files of a SAELens folder are one SAE, and folders on the way are not worth a note."""
    names, notes = find_saes([pattern])
    deep = ("saes/deep/x.safetensors", "saes/deep/y.safetensors")
    assert names == ("saes/a.safetensors", "saes/b.safetensors", *deep, "saes/lens")
    assert len(notes) == 1 and "saes/deep" not in notes[0] and "cfg.json" not in notes[0]


@pytest.mark.parametrize("pattern", ["saes/lens/*", "saes/**/sae_weights.safetensors", "saes/len?", "*/l[aeiou]ns"])
def test_a_folder_is_one_sae_however_it_is_matched(here, pattern):
    assert find_saes([pattern]) == (("saes/lens",), [])


def test_the_same_sae_is_taken_once(here):
    (here / "link").symlink_to(here / "saes" / "a.safetensors")
    names, notes = find_saes(["saes/b.safetensors", "saes/[ab].*", "./saes/../saes/b.safetensors", "link"])
    assert names == ("saes/b.safetensors", "saes/a.safetensors")
    assert [note.partition(":")[0] for note in notes] == ["saes/b.safetensors", "./saes/../saes/b.safetensors", "link"]


def test_names_that_are_no_pattern_stay_as_they_are(here):
    (here / "odd[1]").mkdir()
    asked = ["smollm2-135m", "nothing", "odd[1]"]
    assert find_saes(asked) == (tuple(asked), [])


def test_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    assert find_saes(["~/saes/a.*"])[0] == (str(here / "saes" / "a.safetensors"),)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("sae/*", "--sae 'sae/*': matches nothing"),
        ("saes/*.png", "matches no SAE, only saes/front.png"),
        ("saes/dee*", "matches no SAE, only saes/deep"),
        ("lm/*", "matches no SAE, only lm/config.json, lm/model.safetensors"),
    ],
)
def test_a_pattern_without_an_sae_is_refused(here, pattern, message):
    with pytest.raises(InputError) as refused:
        find_saes(["saes/a.safetensors", pattern])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["saes/a.safetensors", "saes/lens"], ["a", "lens"]),
        (["saes/a.safetensors", "saes/deep/x.safetensors"], ["a", "deep/x"]),
        (["saes/a.safetensors", "smollm2-135m", "saes/missing"], ["a", "smollm2-135m", "saes/missing"]),
        (["nothing"], ["nothing"]),
    ],
)
def test_short_names(here, names, short):
    assert short_names(names) == short


def test_short_names_differ(here):
    save_sae(tiny_sae("topk"), here / "saes" / "a", format="saelens")
    assert short_names(["saes/a", "saes/a.safetensors"]) == ["a", "a.safetensors"]


def test_damaged_and_unfit_saes_fail_alone(here, lm):
    (here / "saes" / "cut.safetensors").write_bytes((here / "saes" / "a.safetensors").read_bytes()[:300])
    save_sae(tiny_sae(d_in=8), here / "saes" / "narrow.safetensors")
    names, _ = find_saes(["saes/*"])
    loaded = load_saes(names, None, "float32", lm)
    failed = {entry.name: entry.error for entry in loaded if isinstance(entry, Failed)}
    assert list(failed) == ["cut", "narrow"]
    assert "not a whole safetensors file" in failed["cut"] and "SAE of another LM or hook" in failed["narrow"]
    assert [entry.card.name for entry in loaded if not isinstance(entry, Failed)] == ["a", "b", "lens"]


def huge(scale):
    sae = tiny_sae(seed=7)
    return dataclasses.replace(
        sae, W_dec=sae.W_dec * jnp.float32(scale), card=dataclasses.replace(sae.card, name="bad")
    )


@pytest.mark.parametrize(("scale", "at_other_hook"), [pytest.param(1e25, True, marks=pytest.mark.slow), (1e38, False)])
def test_an_sae_of_nan_or_inf_does_not_spoil_the_others(lm, tokens, scale, at_other_hook):
    """First, so that the identity control would be made of it; at a hook of its own; and alone."""
    setting = Setting(batch=4, groups=("reconstruction", "loss"), control_rows=2)
    options = {"tokens": np.asarray(tokens), "mesh": jsaeval.make_mesh(1), "setting": setting}
    bad, elsewhere = huge(scale), dataclasses.replace(huge(scale), card=tiny_sae(hook="blocks.0.hook_mlp_out").card)
    results = evaluate(lm, [bad, tiny_sae("topk"), *([elsewhere] if at_other_hook else [])], **options)
    first, good, *last = results.entries
    assert isinstance(first, Failed) and isinstance(good, SAEResult)
    assert [type(own) for own in last] == [Failed] * at_other_hook
    assert first.name == "bad" and "NaN or Inf (" in first.error and "sse" in first.error
    assert "first in row 0" in first.error
    assert list(results.controls) == ["blocks.1.hook_resid_post"]
    assert results.controls["blocks.1.hook_resid_post"].identity_holds()
    options["setting"] = dataclasses.replace(setting, control_rows=0)
    (alone,) = evaluate(lm, [tiny_sae("topk")], **options).saes
    for id, value in alone.metrics.items():
        np.testing.assert_allclose(good[id], value.value, rtol=2e-5, err_msg=id)
        assert good.metrics[id].ci95 is not None or id in ("alive", "dense")
    with pytest.raises(InputError, match="bad: its results are NaN or Inf"):
        evaluate(lm, [bad], **options)


def test_an_lm_of_nan_is_not_blamed_on_the_sae(lm, tokens):
    broken = dataclasses.replace(lm, embedding=lm.embedding * jnp.float32(np.nan))
    for groups in (("norms", "reconstruction"), ("loss",)):
        setting = Setting(batch=4, groups=groups, control_rows=0)
        with pytest.raises(InputError, match=r"the LM gives NaN or Inf at blocks.1.hook_resid_post"):
            evaluate(broken, [tiny_sae()], tokens=np.asarray(tokens), mesh=jsaeval.make_mesh(1), setting=setting)


def test_names_of_results_differ(lm, tokens):
    setting = Setting(batch=4, groups=("norms",))
    results = evaluate(lm, [tiny_sae()] * 3, tokens=np.asarray(tokens), mesh=jsaeval.make_mesh(1), setting=setting)
    assert [sae.name for sae in results.saes] == ["tiny-relu", "tiny-relu (2)", "tiny-relu (3)"]
