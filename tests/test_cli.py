"""The command line with a tiny LM on disk: results, refusals, exit codes."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from jsaeval.cli import main
from jsaeval.metrics.registry import REGISTRY
from jsaeval.sae.load import save_sae
from tests.tiny import tiny_sae, write_hf_folder


@pytest.fixture
def here(tmp_path, monkeypatch, tokens):
    """A folder with an LM, two SAEs and tokens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSAEVAL_CACHE", str(tmp_path / "cache"))
    write_hf_folder(tmp_path / "lm")
    save_sae(tiny_sae("relu"), tmp_path / "relu.safetensors")
    save_sae(tiny_sae("topk"), tmp_path / "topk", format="saelens")
    np.save(tmp_path / "tokens.npy", np.asarray(tokens))
    return tmp_path


pytestmark = pytest.mark.usefixtures("plain_pictures")

BASE = ["run", "--lm", "lm", "--tokens", "tokens.npy", "--mesh", "1,1", "--batch", "4", "--control-rows", "3"]
FEW = ["--metrics", "reconstruction", "--no-controls"]


def test_a_run_leaves_its_folder(here, capsys):
    assert main([*BASE, "--sae", "relu.safetensors", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    assert "Faithfulness" in printed and "Interpretability" in printed and "out/report.json" in printed
    report = json.loads((here / "out" / "report.json").read_text())
    assert report["schema"] == 1
    (sae,) = report["saes"]
    assert sae["name"] == "tiny-relu" and sae["hook"] == "blocks.1.hook_resid_post" and sae["d_sae"] == 40
    assert set(sae["metrics"]) == {
        id for id, metric in REGISTRY.items() if metric.needs not in ("probes", "explanations", "ratings")
    }
    for id, metric in sae["metrics"].items():
        declared = REGISTRY[id]
        assert (metric["axis"], metric["unit"], metric["direction"]) == (
            declared.axis,
            declared.unit,
            declared.direction,
        )
        assert metric["n"] > 0 and metric["value"] is not None
        low, high = metric.get("ci95", (-np.inf, np.inf))
        assert low <= metric["value"] <= high
        assert ("ci95" in metric) == (id not in ("alive", "dense"))
    assert report["masks"]["metric_tokens"] == 6 * 19 == sae["metrics"]["mse"]["n"]
    assert sae["metrics"]["ce_clean"]["n"] == 6 * 18
    assert report["calibration"]["tokens"] == 6 * 19
    zero = report["controls"]["zero"]["metrics"]
    assert set(zero) == {"ce_clean", "ce_spliced", "ce_increase", "downstream_loss"}
    assert {
        "versions",
        "plan",
        "devices",
        "mesh",
        "dtype",
        "precision",
        "wall_s",
        "tokens_per_s",
        "peak_rss_mb",
    } <= set(report["provenance"])
    rows = pd.read_parquet(here / "out" / "rows.parquet")
    assert len(rows) == 6 and rows["row"].tolist() == list(range(6))
    np.testing.assert_allclose(np.stack(rows["sse"]).sum() / (6 * 19), sae["metrics"]["mse"]["value"])
    latents = pd.read_parquet(here / "out" / "latents.parquet")
    assert len(latents) == 40
    np.testing.assert_allclose((latents["fires"] > 0).mean(), sae["metrics"]["alive"]["value"])
    assert sum(sae["density_histogram"]["latents"]) == (latents["fires"] > 0).sum()


def test_two_saes_and_one_bad_one(here, capsys):
    """Exit code 3: the others finish, in the order of the command line."""
    (here / "bad.safetensors").write_bytes(b"nothing")
    saes = ["--sae", "bad.safetensors", "--sae", "topk", "--sae", "relu.safetensors"]
    assert main([*BASE, *saes, "--metrics", "norms", "--out", "out"]) == 3
    entries = json.loads((here / "out" / "report.json").read_text())["saes"]
    assert [e["name"] for e in entries] == ["bad", "topk", "relu"]
    assert "not a whole safetensors file" in entries[0]["error"] and set(entries[1]["metrics"]) == {
        "l0",
        "l1",
        "l1_scaled",
    }
    assert "failed" in capsys.readouterr().out


def test_a_config_file_says_the_same_as_flags(here):
    flags = [*BASE, "--sae", "topk", "--metrics", "norms,latents"]
    assert main([*flags, "--out", "a"]) == 0
    plan = (here / "a" / "plan.toml").read_text()
    (here / "plan.yaml").write_text(
        "lm: lm\ntokens: tokens.npy\nmesh: 1,1\nbatch: 4\ncontrol-rows: 3\nsae: topk\nmetrics: norms,latents\n"
    )
    assert main(["run", "--config", "plan.yaml", "--out", "b"]) == 0
    assert (here / "b" / "plan.toml").read_text() == plan
    assert main(["run", "--config", "a/plan.toml", "--batch", "2", "--sae", "relu.safetensors", "--out", "c"]) == 0
    changed = (here / "c" / "plan.toml").read_text()
    assert "batch = 2" in changed and "relu.safetensors" in changed and "topk" not in changed
    a, b = (json.loads((here / x / "report.json").read_text())["saes"][0]["metrics"] for x in "ab")
    assert a == b


def test_a_folder_of_another_plan_is_left_alone(here, capsys):
    flags = [*BASE, "--sae", "topk", "--metrics", "norms", "--out", "out"]
    assert main(flags) == 0
    before = (here / "out" / "report.json").read_bytes()
    assert main([*flags, "--rows", "2"]) == 2
    assert "holds the run of another plan" in capsys.readouterr().err
    assert (here / "out" / "report.json").read_bytes() == before
    assert main(flags) == 0  # the same plan may run again
    (here / "out" / "plan.toml").unlink()
    assert main(flags) == 2


def test_without_out_a_fresh_folder_is_made(here):
    for _ in range(2):
        assert main([*BASE, "--sae", "topk", "--metrics", "norms"]) == 0
    assert len(list((here / "runs").iterdir())) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hook", "blocks.7.hook_resid_post"], "blocks 0..2, there is no block 7"),
        (["--hook", "blocks.1.hook_resid_pots"], "did you mean 'hook_resid_post'"),
        (["--hook", "blocks.1.attn.hook_z"], "has 24; is it an SAE of another LM or hook"),
        (["--rows", "-3"], "--rows -3: at least 1"),
        (["--rows", "0"], "--rows 0: at least 1"),
        (["--rows", "x"], "invalid literal for int"),
        (["--batch", "0"], "--batch 0: at least 1"),
        (["--rwos", "3"], "--rwos: no such flag; did you mean '--rows'"),
        (["--metrics", "norm"], "'norm': no such group; did you mean 'norms'"),
        (["--metric-mask", "al"], "al"),
        (["--mesh", "9,1"], "9 devices are needed, there are 8"),
        (["--mesh", "4,4"], "16 devices are needed, there are 8"),
        (["--mesh", "x"], "DATA,MODEL was expected"),
        (["--lm", "nolm"], "no such language model"),
        (["--sae", "nosae"], "no such file, folder or name"),
        (["--tokens", "nothing.npy"], "no such file"),
        (["--tokens", "float.npy"], "integers were expected"),
        (["--tokens", "large.npy"], "token id 999 at row 2, position 1 is outside"),
        (["--tokens", "long.npy"], "rows of 65 positions, but the LM's context is 64"),
        (["--config", "none.toml"], "no such file"),
        (["--config", "lm"], "--config lm: cannot be read (Is a directory)"),
        (["--config", "bad.toml"], "'rowz' is no flag; did you mean 'rows'"),
        (["--config", "type.toml"], "batch = 'four'; int was expected"),
        (["--config", "choice.toml"], "splice_mask = 'some'; known: no-special, all"),
        (["--config", "bool.toml"], "controls = 1; bool was expected"),
        (["--out", "tokens.npy"], "exists and is not a folder"),
    ],
)
def test_bad_input_is_one_clear_line(here, capsys, flags, message):
    np.save(here / "float.npy", np.zeros((2, 3)))
    large = np.ones((3, 4), np.int64)
    large[2, 1] = 999
    np.save(here / "large.npy", large)
    np.save(here / "long.npy", np.ones((3, 65), np.int32))
    (here / "bad.toml").write_text("rowz = 3")
    (here / "type.toml").write_text('batch = "four"')
    (here / "choice.toml").write_text('splice_mask = "some"')
    (here / "bool.toml").write_text("controls = 1")
    base = BASE if "--sae" in flags else [*BASE, "--sae", "topk"]
    before = sorted(p for p in here.rglob("*") if "cache" not in p.parts)
    assert main([*base, *flags]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith("jsaeval: ") and message in err[-1]
    assert not [line for line in err[:-1] if not line.startswith("loading")]
    assert sorted(p for p in here.rglob("*") if "cache" not in p.parts) == before


def test_no_sae_ships_with_a_folder(here, capsys):
    assert main(BASE) == 2
    assert "--sae is missing: no SAE ships with 'lm'" in capsys.readouterr().err


def test_nan_in_an_sae(here, capsys):
    tensors = load_file(here / "topk" / "sae_weights.safetensors")
    tensors["W_dec"][3, 4] = np.nan
    save_file(tensors, here / "topk" / "sae_weights.safetensors")
    assert main([*BASE, "--sae", "topk"]) == 2
    assert "NaN or Inf in W_dec" in capsys.readouterr().err


def test_show(here, capsys):
    assert main(["show", "topk"]) == 0
    printed = capsys.readouterr().out
    assert "topk-5" in printed and "blocks.1.hook_resid_post" in printed and "16 → 40 latents → 16" in printed
    assert main(["show", "lm"]) == 0
    assert "llama" in capsys.readouterr().out
    assert main(["show", "smollm2"]) == 2
    assert "did you mean 'smollm2-135m'" in capsys.readouterr().err


def test_commands(capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "jsaeval run" in capsys.readouterr().out
    assert main(["rnu"]) == 2
    assert "did you mean 'run'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["run", "--help"])
    assert stop.value.code == 0 and "--metric-mask" in capsys.readouterr().out


def test_the_page_is_made_again(here, capsys):
    assert main([*BASE, "--sae", "relu.safetensors", "--metrics", "norms,latents", "--out", "out"]) == 0
    page = here / "out" / "report.html"
    first = page.read_text()
    assert "Is this SAE any good?" in first and "tiny-relu" in first
    page.unlink()
    assert main(["report", "out"]) == 0
    assert page.read_text() == first and "out/report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no report.json in it; the folder of a finished run was expected"),
        ("{", "not valid JSON"),
        ('{"schema": 7}', "schema 7, but this version reads schema 1"),
        ("[]", "schema None"),
    ],
)
def test_reports_that_cannot_be_made_again(here, capsys, content, message):
    (here / "out").mkdir()
    if content is not None:
        (here / "out" / "report.json").write_text(content)
    assert main(["report", "out"]) == 2
    assert message in capsys.readouterr().err and not (here / "out" / "report.html").exists()


@pytest.mark.parametrize("group", ["norms", "reconstruction", "loss", "curve", "latents"])
@pytest.mark.parametrize("controls", [[], ["--no-controls"]], ids=["controls", "no-controls"])
def test_every_group_alone_makes_a_report(here, capsys, group, controls):
    assert main([*BASE, *controls, "--sae", "topk", "--metrics", group, "--out", "out"]) == 0
    report = json.loads((here / "out" / "report.json").read_text())
    (sae,) = report["saes"]
    assert sae["metrics"] and {REGISTRY[id].needs for id in sae["metrics"]} <= {group, "controls"}
    floors = not controls and group in ("reconstruction", "loss", "curve")
    assert bool(sae.get("floors")) == floors and ("control rows" in capsys.readouterr().out) == floors


def test_a_hook_behind_the_last_block_has_no_curve(here):
    flags = ["--sae", "topk", "--hook", "blocks.2.hook_resid_post", "--no-controls", "--out", "out"]
    assert main([*BASE, *flags]) == 0
    (sae,) = json.loads((here / "out" / "report.json").read_text())["saes"]
    assert "downstream_reconstruction" not in sae["metrics"] and sae["metrics"]["downstream_loss"]["value"] > 0


def test_control_rows_without_a_counted_token(here):
    """What is undefined on them is null, and the identity control does not fail for it."""
    tokens = np.load(here / "tokens.npy")
    tokens[0, 1:] = 0
    np.save(here / "tokens.npy", tokens)
    assert main([*BASE[:-1], "1", "--sae", "topk", "--metrics", "loss", "--out", "out"]) == 0
    report = json.loads((here / "out" / "report.json").read_text())
    assert report["controls"]["identity"]["holds"] and report["controls"]["n"] == 0


def test_the_splice_is_exact_in_bfloat16(here):
    flags = ["--sae", "topk", "--dtype", "bfloat16", "--metrics", "reconstruction,loss", "--out", "out"]
    assert main([*BASE, *flags]) == 0
    identity = json.loads((here / "out" / "report.json").read_text())["controls"]["identity"]
    assert identity["holds"] and abs(identity["metrics"]["downstream_loss"]["value"]) < 1e-4


def test_version_and_missing_arguments(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jsaeval 0.")
    for command, argument in (("report", "FOLDER"), ("show", "NAME"), ("compare", "FOLDER_A")):
        assert main([command]) == 2
        error = capsys.readouterr().err
        assert f"{command}: {argument} is missing" in error and error.count("\n") == 1


def test_a_sweep(here, capsys):
    """A pattern with what is no SAE, a damaged one and one of NaN in it: the others finish, the exit code is 3."""
    (here / "saes").mkdir()
    for kind in ("relu", "jumprelu", "gated"):
        save_sae(tiny_sae(kind), here / "saes" / f"{kind}.safetensors")
    save_sae(tiny_sae("topk", hook="blocks.0.hook_mlp_out"), here / "saes" / "topk", format="saelens")
    (here / "saes" / "cut.safetensors").write_bytes((here / "relu.safetensors").read_bytes()[:500])
    huge = tiny_sae()
    save_sae(dataclasses.replace(huge, W_dec=huge.W_dec * 1e30), here / "saes" / "huge.safetensors")
    (here / "saes" / "log.jsonl").write_text("{}\n")
    assert main([*BASE, "--sae", "saes/*", "--sae", "saes/relu.safetensors", *FEW, "--out", "out"]) == 3
    out, err = capsys.readouterr()
    assert "left out, no SAEs: saes/log.jsonl" in err and "the same SAE as saes/relu" in err
    entries = json.loads((here / "out" / "report.json").read_text())["saes"]
    assert [e["name"] for e in entries] == ["cut", "gated", "huge", "jumprelu", "relu", "topk"]
    errors = {e["name"]: e["error"] for e in entries if "error" in e}
    assert list(errors) == ["cut", "huge"] and all("\n" not in error for error in errors.values())
    assert "not a whole safetensors file" in errors["cut"] and "NaN or Inf" in errors["huge"]
    assert out.count("failed") == 2 and set(pd.read_parquet(here / "out" / "rows.parquet")["sae"]) == {
        "gated",
        "jumprelu",
        "relu",
        "topk",
    }
    plan = (here / "out" / "plan.toml").read_text()  # names what was run, so that it can be run again
    assert "saes/gated.safetensors" in plan and "*" not in plan


def test_a_sweep_of_which_nothing_is_left(here, capsys):
    assert main([*BASE, "--sae", "nothing/*"]) == 2
    assert "--sae 'nothing/*': matches nothing" in capsys.readouterr().err
    huge = tiny_sae()
    save_sae(dataclasses.replace(huge, W_dec=huge.W_dec * 1e30), here / "huge.safetensors")
    assert main([*BASE, "--sae", "huge.safetensors", *FEW, "--out", "out"]) == 2
    assert "NaN or Inf" in capsys.readouterr().err and not (here / "out").exists()


def test_the_long_form_is_there_and_made_again(here):
    assert (
        main([*BASE, "--sae", "relu.safetensors", "--sae", "topk", "--metrics", "reconstruction", "--out", "out"]) == 0
    )
    table = pd.read_csv(here / "out" / "report.csv")
    assert set(table["sae"].dropna()) == {"relu", "topk"}
    other = pd.read_parquet(here / "out" / "report.parquet")
    assert table["metric"].tolist() == other["metric"].tolist() and list(table) == list(other)
    np.testing.assert_allclose(table["value"], other["value"])
    (here / "out" / "report.csv").unlink()
    assert main(["report", "out"]) == 0 and (here / "out" / "report.csv").is_file()
