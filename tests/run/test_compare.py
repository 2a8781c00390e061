"""Paired differences of two runs against plain numpy, and what cannot be compared."""

import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from jsaeval.cli import main
from jsaeval.errors import InputError
from jsaeval.report.compared import compared, show_compared
from jsaeval.run.compare import _ACROSS_HOOKS, compare
from jsaeval.sae.load import save_sae
from jsaeval.stats.bootstrap import row_counts
from tests.tiny import tiny_sae, write_hf_folder


def noisy(sae, size):
    """The SAE with its decoder moved a little: nearly the same, and a little worse or better everywhere."""
    return dataclasses.replace(sae, W_dec=sae.W_dec * (1 - size))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs on the same rows: SAE x alone, y alone, both."""
    here = tmp_path_factory.mktemp("compare")
    write_hf_folder(here / "lm")
    rows = np.random.default_rng(3).integers(3, 50, (24, 20)).astype(np.int32)
    rows[:, 0] = 1
    np.save(here / "tokens.npy", rows)
    np.save(here / "others.npy", rows[::-1])
    save_sae(tiny_sae("relu"), here / "x.safetensors")
    save_sae(noisy(tiny_sae("relu"), 0.1), here / "y.safetensors")
    save_sae(tiny_sae("relu", hook="blocks.0.hook_resid_post"), here / "z.safetensors")
    base = ["run", "--lm", str(here / "lm"), "--mesh", "1,1", "--no-controls", "--batch", "8"]

    def run(out, *saes, tokens="tokens.npy", rest=()):
        flags = [flag for sae in saes for flag in ("--sae", str(here / f"{sae}.safetensors"))]
        assert main([*base, *flags, "--tokens", str(here / tokens), "--out", str(here / out), *rest]) == 0

    (here / "empty").mkdir()
    (here / "empty" / "report.json").write_text('{"schema": 1}')
    run("x", "x")
    run("y", "y")
    run("both", "x", "y")
    run("z", "z")
    run("others", "x", tokens="others.npy")
    run("all-tokens", "x", rest=("--metric-mask", "all"))
    return here


def test_against_numpy(runs):
    (pair,) = compare(runs / "x", runs / "y")
    frames = [pd.read_parquet(runs / name / "rows.parquet") for name in ("x", "y")]
    counts = row_counts(24, 0)
    fvus, resampled = [], []
    for frame in frames:
        sse, sst = np.stack(frame["sse"]).sum(1), np.stack(frame["sst"]).sum(1)
        fvus.append(sse.sum() / sst.sum())
        resampled.append(counts @ sse / (counts @ sst))
    difference = pair.differences["fvu"]
    np.testing.assert_allclose(difference.value, fvus[0] - fvus[1], rtol=1e-12)
    low, high = np.quantile(resampled[0] - resampled[1], [0.025, 0.975])
    np.testing.assert_allclose(difference.ci95(), (low, high), rtol=1e-12)
    for name, side in (("x", 0), ("y", 1)):
        report = json.loads((runs / name / "report.json").read_text())["saes"][0]["metrics"]
        for id, values in pair.values.items():
            np.testing.assert_allclose(values[side].value, report[id]["value"], rtol=1e-9, err_msg=id)
    assert {"fvu", "downstream_loss", "ce_increase", "downstream_fvu", "l0"} <= set(pair.differences)
    assert "ce_clean" not in pair.differences and "alive" not in pair.differences


def test_pairing_is_what_makes_it_sharp(runs):
    """The interval of the difference is far narrower than that of two runs on different text would be."""
    (pair,) = compare(runs / "x", runs / "y")
    for id in ("ce_increase", "fvu"):
        low, high = pair.differences[id].ci95()
        apart = np.hypot(*(np.diff(side.ci95())[0] for side in pair.values[id]))
        assert high - low < 0.5 * apart, id


def test_two_saes_of_one_run_are_the_same_as_two_runs(runs):
    (one,), (two,) = compare(runs / "both"), compare(runs / "x", runs / "y")
    for id, difference in one.differences.items():
        np.testing.assert_allclose(difference.value, two.differences[id].value, rtol=1e-4, atol=1e-6, err_msg=id)
    (chosen,) = compare(runs / "both", sae_a="y", sae_b="x")
    np.testing.assert_allclose(chosen.differences["mse"].value, -one.differences["mse"].value)


def test_one_by_one(runs):
    pairs = compare(runs / "both", runs / "both")
    assert [(p.a.sae["name"], p.b.sae["name"]) for p in pairs] == [("x", "x"), ("y", "y")]
    made = compared(pairs)
    assert made["rows"] == 24
    for pair in made["pairs"]:
        assert all(m["difference"] == 0 and m["verdict"] in ("unclear", "") for m in pair["metrics"].values())


def test_verdicts_and_table(runs):
    made = compared(compare(runs / "x", runs / "y"))["pairs"][0]["metrics"]
    worse = [id for id, m in made.items() if m["verdict"] == "B better"]
    better = [id for id, m in made.items() if m["verdict"] == "A better"]
    assert better or worse
    for id in better + worse:
        low, high = made[id]["ci95"]
        assert low > 0 or high < 0
        assert ((made[id]["difference"] > 0) == (made[id]["direction"] == "higher")) == (id in better)
    assert made["l0"]["difference"] == 0 and made["l0"]["verdict"] == "unclear"
    assert made["l2_ratio"]["verdict"] == ""
    console = Console(width=120, record=True, file=io.StringIO())
    show_compared(compare(runs / "x", runs / "y"), console)
    text = console.export_text()
    assert "fvu" in text and "A − B" in text and "same 24 rows" in text


def test_across_hooks_only_the_end_is_compared(runs):
    (pair,) = compare(runs / "x", runs / "z")
    assert not pair.same_hook
    assert {"downstream_loss", "ce_increase", "l0"} <= set(pair.differences)
    assert set(pair.differences) == set(_ACROSS_HOOKS)


@pytest.mark.parametrize(
    "b, names, message",
    [
        ("others", (None, None), "another text"),
        ("all-tokens", (None, None), r"another metric mask \(no-special and all\)"),
        ("both", (None, None), "holds 2 SAEs; choose one with --sae-b"),
        ("empty", (None, None), "'provenance' is missing"),
        ("both", (None, "w"), r"--sae-b 'w': not in .*\(x, y\)"),
        ("nothing", (None, None), "no report.json"),
        (None, (None, None), "compared with itself"),
    ],
)
def test_what_cannot_be_compared(runs, b, names, message):
    with pytest.raises(InputError, match=message):
        compare(runs / "x", None if b is None else runs / b, *names)


def test_command(runs, capsys):
    out = runs / "compare.json"
    assert main(["compare", str(runs / "x"), str(runs / "y"), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["pairs"][0]["a"]["sae"] == "tiny-relu"
    assert "A − B" in capsys.readouterr().out
    assert main(["compare", str(runs / "x"), str(runs / "y"), "--out", str(runs / "no" / "c.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["compare", "-h"])
    assert stop.value.code == 0 and "FOLDER_A" in capsys.readouterr().out
    assert main(["compare"]) == 2
    assert "FOLDER_A is missing" in capsys.readouterr().err
