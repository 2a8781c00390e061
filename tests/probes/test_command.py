"""`jsaeval probe` in the tiny LM that ships: its folder, going on, a run's folder, refusals."""

import json
import shutil

import jax
import jax.numpy as jnp
import pandas as pd
import pytest

from jsaeval.cli import main
from jsaeval.errors import InputError
from jsaeval.hooks import parse_hook
from jsaeval.probes import evaluate
from jsaeval.sae.load import save_sae
from jsaeval.sae.module import SAE, SAECard
from tests.tiny import tiny_lm


HOOK = "blocks.2.hook_resid_post"
FAST = ["--k", "1", "--k", "4", "--penalty", "l2", "--mesh", "1,1"]
BASE = ["probe", "--lm", "tiny", "--sae", "a.safetensors", "--tasks", "weather.csv,colours.jsonl", *FAST]


def random_sae(seed, hook=HOOK):
    keys = jax.random.split(jax.random.key(seed), 2)
    parts = [jax.random.normal(key, (96, 60)) / 10 for key in keys]
    card = SAECard(name=f"random-{seed}", hook=hook, lm="tiny", sha256=str(seed))
    return SAE(parts[0], jnp.zeros(60), parts[1].T, jnp.zeros(96), activation="topk", k=8, card=card)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """SAEs and two files of tasks: three different ones, for colours are three."""
    home = tmp_path_factory.mktemp("home")
    for name, sae in (("a", random_sae(0)), ("b", random_sae(1)), ("c", random_sae(2, "blocks.1.hook_resid_post"))):
        save_sae(sae, home / f"{name}.safetensors")
    days = [f"Day {i}: the {'sun' if i % 3 else 'rain'} comes" for i in range(60)]
    pd.DataFrame({"text": days, "label": [i % 3 > 0 for i in range(60)]}).to_csv(home / "weather.csv", index=False)
    colours = [("red", "green", "blue")[i % 3] for i in range(60)]
    frame = pd.DataFrame({"text": [f"It is {c} {i}" for i, c in enumerate(colours)], "label": colours})
    frame.to_json(home / "colours.jsonl", orient="records", lines=True)
    return home


@pytest.fixture
def here(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    monkeypatch.setenv("JSAEVAL_CACHE", str(home / "cache"))
    return tmp_path


def report_in(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def plain(home):
    """What an undisturbed call leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("JSAEVAL_CACHE", str(home / "cache"))
        assert main([*BASE, "--out", "plain"]) == 0
    return home / "plain"


def test_the_folder(plain, here, capsys):
    report = report_in(plain)
    names = ["weather", "colours:blue", "colours:green", "colours:red"]
    assert [task["name"] for task in report["probe_summary"]["tasks"]] == names
    (sae,) = report["saes"]
    entries = report["probes"]
    single = [own for own in entries if own["features"] == "latents" and own["probe"] == "single"]
    assert [own["task"] for own in single] == names and {own["sae"] for own in single} == {"random-0"}
    loss = sae["metrics"]["probe_loss"]
    assert loss["value"] == pytest.approx(sum(own["bce"]["value"] for own in single) / 4) and loss["n"] == 4
    assert loss["ci95"][0] < loss["value"] < loss["ci95"][1]
    in_sample = sae["metrics"]["probe_loss_in_sample"]["value"]
    assert in_sample == pytest.approx(sum(own["bce_in_sample"] for own in single) / 4)
    assert {own["features"] for own in entries} == {
        "latents", "reconstruction", "error", "random_sae", "shuffled_labels", "x", "bag_of_words", "none"
    }  # fmt: skip
    # The words say it: a bag of them is enough, and x knows what the text says.
    words = [own for own in entries if own["features"] == "bag_of_words"]
    assert all(own["bce"]["value"] < 0.1 and own["accuracy"]["value"] == 1 for own in words)
    frame = pd.read_parquet(plain / "probes.parquet")
    assert len(frame) == len(entries) and (frame["bce_low"] <= frame["bce"]).all()
    assert not (plain / "probes").exists()
    page = (plain / "report.html").read_text()
    assert main(["report", str(plain)]) == 0
    assert (plain / "report.html").read_text() == page
    capsys.readouterr()
    assert main(["compare", str(plain)]) == 2
    assert "holds probes and no run" in capsys.readouterr().err


def test_an_interrupted_call_goes_on(plain, here, monkeypatch, capsys):
    fitted, calls = evaluate.probe_task, []

    def fit(*words):
        calls.append(words[0].task.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fitted(*words)

    monkeypatch.setattr(evaluate, "probe_task", fit)
    flags = [*BASE, "--out", str(here / "out")]
    assert main(flags) == 130
    assert "--resume" in capsys.readouterr().err and not (here / "out" / "report.json").exists()
    assert main(flags) == 2
    assert "did not end; --resume goes on" in capsys.readouterr().err
    assert main([*flags, "--seed", "1", "--resume"]) == 2
    assert "holds other probes (seed" in capsys.readouterr().err
    assert main([*flags, "--resume"]) == 0
    assert calls == ["weather", "colours:blue", "colours:green", "colours:green", "colours:red"]
    first, second = report_in(plain), report_in(here / "out")
    assert first["probes"] == second["probes"] and first["saes"] == second["saes"]


def test_a_run_gets_a_section(plain, here, capsys):
    out = str(here / "out")
    run = ["run", "--lm", "tiny", "--rows", "4", "--context", "32", "--mesh", "1,1", "--metrics", "norms"]
    assert main([*run, "--sae", "a.safetensors", "--sae", "b.safetensors", "--out", out]) == 0
    before = report_in(here / "out")
    assert main([*BASE, "--out", out]) == 0
    report = report_in(here / "out")
    # The name is that of the run, in which there are two of them.
    assert report["probes"] == [own | {"sae": own["sae"] and "a"} for own in report_in(plain)["probes"]]
    assert report["provenance"] == before["provenance"] and report["corpus"] == before["corpus"]
    a, b = report["saes"]
    assert set(a["metrics"]) == set(before["saes"][0]["metrics"]) | {"probe_loss", "probe_loss_in_sample"}
    assert b == before["saes"][1]
    # The run again, which takes its numbers from the folder or makes them again, keeps the probes.
    assert main([*run, "--sae", "a.safetensors", "--sae", "b.safetensors", "--out", out]) == 0
    assert report_in(here / "out")["probes"] == report["probes"]
    page = (here / "out" / "report.html").read_text()
    assert "on an average token (L0)" in page and 'id="probes"' in page
    capsys.readouterr()
    stopped = here / "stopped" / "checkpoint"
    stopped.mkdir(parents=True)
    (stopped / "1-aa.safetensors").write_bytes(b"")
    assert main([*BASE, "--out", str(here / "stopped")]) == 2
    assert "holds a run that did not end" in capsys.readouterr().err
    other = [word if word != "a.safetensors" else "c.safetensors" for word in BASE]
    shutil.rmtree(here / "out" / "probe.toml", ignore_errors=True)
    (here / "out" / "probe.toml").unlink()
    assert main([*other, "--out", out]) == 2
    assert "holds a run of other SAEs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--tasks", "113_movie_sentt"], "no such task; did you mean '113_movie_sent'"),
        (["--tasks", ","], "--tasks is empty"),
        (["--tasks", "none.csv"], "--tasks 'none.csv': no such file"),
        (["--text-column", "words"], "no column 'words'; --text-column may be text, label"),
        (["--pool", "first"], "probe: "),
        (["--context", "1"], "--context 1: at least 2 is needed"),
        (["--resume"], "--resume: say which probes with --out DIR"),
        (["--out", "weather.csv"], "exists and is not a folder"),
        (["--sae", "c.safetensors"], "they read different hooks"),
        (["--sae", "none.safetensors"], "none.safetensors"),
        (["--hook", "blocks.9.hook_resid_post"], "there is no block 9"),
        (["--lm-cache", "weather.csv"], "--lm-cache weather.csv: exists and is not a folder"),
        (["--penalty", "l3"], "probe: "),
        (["--k", "99"], "--k 99: random-0 has 60 latents"),
        (["--tasks", "weather.csv,./weather.csv"], "there is a task weather already"),
    ],
)
def test_bad_input_gets_one_line(here, capsys, flags, line):
    assert main([*BASE, *flags]) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert line in complaint


def test_a_model_without_an_adapter(monkeypatch):
    """Type checks of the tests would be faster."""

    def refuse(lm):
        raise InputError("lm: no host")

    monkeypatch.setattr(evaluate, "check_host", refuse)
    with pytest.raises(InputError, match="lm: no host"):
        evaluate.probe(tiny_lm(), [random_sae(0)], parse_hook(HOOK), [])


def table(folder, name, labels, end=""):
    frame = pd.DataFrame({"text": [f"text {i} {end}" for i in range(len(labels))], "label": labels})
    frame.to_csv(folder / f"{name}.csv", index=False)
    return folder / f"{name}.csv"


def test_small_and_one_sided_tasks(here, capsys):
    alike = "the same end of a text that is longer than the context"
    assert main([*BASE, "--context", "8", "--tasks", str(table(here, "alike", [0, 1] * 30, end=alike))]) == 2
    assert "texts are not of both labels" in capsys.readouterr().err
    for name, labels in (("few", [0, 1] * 9), ("one", [1] * 30), ("none", list(range(60)))):
        assert main([*BASE, "--tasks", str(table(here, name, labels))]) == 2
    lines = capsys.readouterr().err
    assert "18 different examples; at least 20 are needed" in lines
    assert "has 1 different labels" in lines and "has 60 different labels" in lines
