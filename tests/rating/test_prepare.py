"""A study is prepared from a real pass: what is chosen, what is shown of it, and that nothing tells what it is."""

import dataclasses
import json
import re

import numpy as np
import pytest

from jsaeval.autointerp.sampling import LEAST
from jsaeval.autointerp.sparse import SparseLatents
from jsaeval.cli import main, rate_prepare
from jsaeval.corpus.masks import make_masks
from jsaeval.corpus.rows import Rows
from jsaeval.errors import InputError
from jsaeval.forward.splice import hook_width
from jsaeval.hooks import parse_hook
from jsaeval.mesh import make_mesh
from jsaeval.rating.prepare import Asked, choose, controls, prepare
from jsaeval.rating.rubric import load_rubric
from jsaeval.rating.study import GROUPS, read_key, read_study
from jsaeval.run.checkpoint import Stopped
from tests.tiny import HOOK, tiny_lm, tiny_sae


TOKENS = np.random.default_rng(0).integers(3, 50, (40, 20)).astype(np.int32)
TOKENS[:, 0] = 1
ROWS, MASKS = Rows("test", TOKENS, None, 0), make_masks(TOKENS, (0, 1, 2), 0)
SAES = [tiny_sae("topk", k=4), dataclasses.replace(tiny_sae("jumprelu"), card=tiny_sae("jumprelu").card)]


def prepared(saes=SAES[:1], rubric="bricken2023", hook=HOOK, **asked):
    asked = {"latents": "6", "controls": 3} | asked
    return prepare(
        tiny_lm(),
        saes,
        parse_hook(hook),
        ROWS,
        MASKS,
        load_rubric(rubric),
        lambda id: f"<{id}>",
        lambda id: f"[{id}]",
        "a title",
        Asked(**asked),
        mesh=make_mesh(1),
    )


@pytest.fixture(scope="module")
def found():
    return prepared(SAES)


def test_groups(found):
    names = [sae.card.name for sae in SAES]
    for name in names:
        groups = [own.group for own in found.items.values() if own.sae == name]
        assert sorted(groups) == sorted([*["latent"] * 6, *[group for group in GROUPS[1:] for _ in range(3)]])
    assert list(found.study.items) == sorted(found.study.items) == sorted(found.items)
    for name in names:
        own = [(own.group, own.latent) for own in found.items.values() if own.sae == name]
        assert len(set(own)) == len(own)
    assert found.study.title == "a title" and found.study.logits
    assert all("which tells them apart" in note for note in found.notes)
    assert re.fullmatch(rf"3\d of 40 latents, those that fire at {LEAST} tokens or more", found.drawn_from[names[0]])


def test_what_is_shown(found):
    for item in found.study.items.values():
        assert len(item.intervals) == 11 and item.intervals[-1]
        filled = [i for i, windows in enumerate(item.intervals, 1) if windows]
        assert set(item.rated) <= set(filled) and len(item.rated) == min(3, len(filled))
        assert len(item.promoted) == len(item.suppressed) == 10
        shares = [own.share for own in (*item.promoted, *item.suppressed)]
        assert max(map(abs, shares)) == 1 and item.promoted[0].share >= item.promoted[-1].share
        assert item.suppressed[0].share <= item.suppressed[-1].share
        assert item.promoted[0].token.startswith("[")
        for windows in item.intervals:
            for window in windows:
                assert len(window.tokens) <= 9 and window.tokens[window.focus].startswith("<")


def test_intervals_do_not_tell_controls_apart():
    """There are contexts in the same intervals as of the latent that one is matched with."""
    own = prepared(SAES[:1], contexts=1, latents="12", controls=8)
    filled = {group: set() for group in GROUPS}
    for id, item in own.study.items.items():
        filled[own.items[id].group].add(tuple(len(windows) for windows in item.intervals))
    assert len(filled["latent"]) > 3
    assert all(filled[group] <= filled["latent"] for group in GROUPS)


def test_controls_fire_no_more_often_than_latents(found):
    for sae in SAES:
        of = {group: [] for group in GROUPS}
        for own in found.items.values():
            if own.sae == sae.card.name:
                of[own.group].append(own.density)
        assert all(max(of[group]) <= max(of["latent"]) for group in GROUPS)


def a_table(fires):
    """A dictionary whose i-th unit fires at so many of 500 tokens."""
    rng = np.random.default_rng(0)
    flat = [np.sort(rng.choice(500, n, replace=False)) for n in fires]
    offsets = np.cumsum([0, *fires])
    row, position = (np.concatenate([part(own) for own in flat]) for part in (lambda x: x // 20, lambda x: x % 20))
    value = rng.gamma(1.0, 1.0, offsets[-1]).astype(np.float32) + np.float32(0.1)
    latents = np.arange(len(fires), dtype=np.int32)
    return SparseLatents(latents, offsets, row.astype(np.int32), position.astype(np.int32), value, 500)


def test_controls_are_drawn_from_those_that_fire_often_enough():
    table, sae = a_table([10, 30, 60, 300, 19, 120, 100]), a_table([25, 90, 400])
    latents = [sae.of(i) for i in range(3)]
    chosen, entries = controls(table, latents, 3, 0, 1)
    assert len(chosen) == 3 and not {0, 4} & set(chosen.tolist())
    # To 400 there is no unit that fires as often: the one that fires most is taken, with all that it has.
    assert sorted(len(own.value) for own in entries) == [25, 90, 300]
    for unit, own in zip(chosen.tolist(), entries, strict=True):
        assert len(own.value) <= table.fires[unit]
    everything, _ = controls(table, latents, 99, 0, 1)
    assert everything.tolist() == [1, 2, 3, 5, 6]
    draws = {tuple(controls(table, latents[:1], 2, seed, 1)[0].tolist()) for seed in range(20)}
    assert len(draws) > 3


def test_ids_are_new_and_all_else_stays(found):
    again = prepared(SAES)
    assert not set(again.items) & set(found.items)
    shown = [{dataclasses.replace(item, id="") for item in own.study.items.values()} for own in (found, again)]
    assert shown[0] == shown[1]
    assert sorted(map(str, found.items.values())) == sorted(map(str, again.items.values()))


def test_a_hook_without_logits():
    sae = tiny_sae("topk", k=4, hook="blocks.1.attn.hook_z", d_in=hook_width(tiny_lm(), "attn.hook_z"))
    study = prepared([sae], hook="blocks.1.attn.hook_z", controls=0).study
    assert not study.logits and all(not item.promoted and not item.suppressed for item in study.items.values())


def test_no_controls_and_named_latents():
    dead = dataclasses.replace(SAES[0], b_enc=SAES[0].b_enc.at[3].set(-1e3))
    some = prepared([dead], controls=0, latents="3,5", rubric="interpretability")
    assert [(own.group, own.latent) for own in some.items.values()] == [("latent", 5)]
    assert some.notes == (f"{dead.card.name}: latent 3 fires 0 times, {LEAST} are needed: left out",)
    assert {item.units for item in some.study.items.values()} == {(0,)}  # the rubric asks about the item as a whole
    with pytest.raises(InputError, match=f"no latent fires at {LEAST} tokens or more; give more --rows"):
        prepared([dead], controls=0, latents="3,")


def test_what_is_chosen():
    table = a_table([10, 30, 60, 300, 19, 120, 100])
    assert [own.tolist() if i == 0 else own for i, own in enumerate(choose("all", table, None, 0))] == [
        [1, 2, 3, 5, 6],
        [(0, 10), (4, 19)],
    ]
    chosen, rare = choose("3", table, [0, 1, 2, 3], 0)
    assert chosen.tolist() == [1, 2, 3] and not rare
    assert not set(choose("2", table, None, 0)[0].tolist()) & {0, 4}
    with pytest.raises(InputError, match="there is no latent 4000"):
        choose("4000,", table, None, 0)


def test_among():
    pool = [1, 2, 7, 9, 12, 20, 30]
    options = {"among": [pool], "mesh": make_mesh(1)}
    shown = (load_rubric("bricken2023"), str, str, "t", Asked(latents="4", controls=0))
    chosen = prepare(tiny_lm(), SAES[:1], parse_hook(HOOK), ROWS, MASKS, *shown, **options)
    assert {own.latent for own in chosen.items.values()} <= set(pool) and 0 < len(chosen.items) <= 4
    (said,) = chosen.drawn_from.values()
    assert re.fullmatch(rf"[4-7] of 7 given latents, those that fire at {LEAST} tokens or more", said)


def test_the_command(tmp_path, capsys):
    flags = ["rate", "prepare", "--lm", "tiny", "--rows", "16", "--latents", "3", "--controls", "1"]
    assert main([*flags, "--out", str(tmp_path / "study")]) == 0
    told = capsys.readouterr().out
    assert "3 latents and 3 controls, 18 ratings of 5 questions each; every rater gets 1 of the 6 items twice" in told
    study = read_study(tmp_path / "study" / "rating")
    key = read_key(tmp_path / "study" / "rating", study)
    assert key.lm["name"] == "tiny" and study.title == "tiny on ag-news" and len(key.saes) == 1
    assert key.settings["latents"] == "3" and key.provenance["plan"]["lm"] == "tiny"
    assert sorted(path.name for path in (tmp_path / "study").rglob("*")) == ["key.json", "rating", "study.json"]
    assert json.loads((tmp_path / "study" / "rating" / "study.json").read_text())["items"]
    before = (tmp_path / "study" / "rating" / "study.json").read_bytes()
    assert main([*flags, "--out", str(tmp_path / "study")]) == 2
    assert "holds a study; choose another folder" in capsys.readouterr().err
    assert (tmp_path / "study" / "rating" / "study.json").read_bytes() == before


def test_stopped(tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise Stopped

    monkeypatch.setattr(rate_prepare, "_prepared", stop)
    assert main(["rate", "prepare", "--lm", "tiny", "--out", str(tmp_path / "study")]) == 143
    assert capsys.readouterr().err == "jsaeval: stopped; nothing was written\n" and not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rubric", "nothing"], "--rubric nothing: no such file"),
        (["--intervals", "0"], "--intervals 0: at least 1 is needed"),
        (["--controls", "-1"], "--controls -1: at least 0 is needed"),
        (["--repeats", "0.9"], "--repeats 0.9: a share from 0 to 0.5"),
        (["--repeats", "nan"], "--repeats nan: a share from 0 to 0.5"),
        (["--sae", "no/such.file"], "no/such.file"),
    ],
)
def test_bad_input(flags, message, tmp_path, capsys):
    assert main(["rate", "prepare", "--lm", "tiny", *flags, "--out", str(tmp_path / "study")]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1] and "Traceback" not in err
    assert not (tmp_path / "study").exists()
