"""`jsaeval explain` in the tiny LM that ships: its folder, its pages, going on, a run's folder, refusals."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from jsaeval.autointerp import n2g
from jsaeval.autointerp.scores import WHERE
from jsaeval.cli import main


BASE = ["explain", "--lm", "tiny", "--rows", "24", "--latents", "5", "--floor-latents", "2", "--mesh", "1,1"]
LOOKUP = [*BASE, "--explainer", "lookup"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def here(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    return tmp_path


@pytest.fixture(scope="module")
def plain(home):
    """What an undisturbed call of N2G leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main([*BASE, "--out", "plain"]) == 0
    return home / "plain"


def report_in(folder):
    return json.loads((folder / "report.json").read_text())


def test_the_folder(plain, here):
    report = report_in(plain)
    (sae,), made = report["saes"], report["explanations"]
    summary = made["saes"][0]["summary"]
    assert summary["latents"]["asked"] == 5
    own = [line for line in made["saes"][0]["latents"] if line["dictionary"] is None]
    loss = summary["scores"]["activation_prediction_loss"]["all"]
    there = [line["scores"]["activation_prediction_loss"] for line in own if line["problem"] is None]
    assert sae["metrics"]["activation_prediction_loss"]["value"] == loss["value"]
    # One that failed counts as one of which nothing was said.
    assert loss["value"] == pytest.approx(np.mean([1.0 if value is None else value for value in there]))
    assert set(loss["floors"]) == {"empty", "another", "constant", "token", "random_sae", "neurons"}
    # Nothing can be predicted from nothing; a latent of a trained SAE is told better than that.
    assert loss["floors"]["empty"]["value"] > 0.95 and loss["floors"]["empty"]["difference"]["ci95"][1] < 0
    frame = pd.read_parquet(plain / "explanations.parquet")
    assert len(frame) == 5 + 2 + 2 and set(WHERE) <= set(frame.columns)
    assert set(frame["dictionary"].dropna()) == {"random_sae", "neurons"}
    assert not (plain / "explaining").exists()


def test_pages(plain, here, capsys):
    page = (plain / "report.html").read_text()
    links = re.findall(r'href="(latents/[^"]+)"', page)
    assert "latents/index.html" in links and len(links) > 3
    assert all((plain / link).is_file() for link in links)
    latent = next(line for line in report_in(plain)["explanations"]["saes"][0]["latents"] if line["text"])
    assert (plain / "latents" / f"{latent['latent']}.html").is_file()
    (plain / "latents" / "index.html").unlink()
    assert main(["report", str(plain)]) == 0
    assert (plain / "latents" / "index.html").is_file() and (plain / "report.html").read_text() == page
    capsys.readouterr()
    assert main(["report", str(plain), "--format", "saedashboard"]) == 0
    (batch,) = (plain / "saedashboard").glob("batch-*.json")
    features = json.loads(batch.read_text())["features"]
    assert len(features) == 5
    assert main(["compare", str(plain)]) == 2
    assert "and no run" in capsys.readouterr().err


def test_an_interrupted_call_goes_on(plain, here, monkeypatch, capsys):
    explain, calls = n2g.N2G.explain, []

    def interrupted(self, evidence):
        calls.extend(own.latent for own in evidence)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return explain(self, evidence)

    monkeypatch.setattr(n2g.N2G, "explain", interrupted)
    flags = [*BASE, "--out", str(here / "out")]
    assert main(flags) == 130
    assert "--resume" in capsys.readouterr().err and not (here / "out" / "report.json").exists()
    assert main(flags) == 2
    assert "holds explanations that did not end; --resume goes on" in capsys.readouterr().err
    assert main([*flags, "--seed", "1", "--resume"]) == 2
    assert "holds other explanations (seed" in capsys.readouterr().err
    first = calls[:5]
    calls.clear()
    monkeypatch.setattr(
        n2g.N2G, "explain", lambda self, known: calls.extend(o.latent for o in known) or explain(self, known)
    )
    assert main([*flags, "--resume"]) == 0
    assert len(calls) == 4 and len(first) == 5  # those of the look-alikes alone
    assert report_in(here / "out")["explanations"]["saes"] == report_in(plain)["explanations"]["saes"]


def test_a_run_gets_a_section(here):
    out = str(here / "out")
    run = ["run", "--lm", "tiny", "--rows", "4", "--context", "32", "--mesh", "1,1", "--metrics", "norms"]
    assert main([*run, "--out", out]) == 0
    before = report_in(here / "out")
    assert main([*LOOKUP, "--out", out]) == 0
    report = report_in(here / "out")
    assert report["provenance"] == before["provenance"] and report["corpus"] == before["corpus"]
    new = set(report["saes"][0]["metrics"]) - set(before["saes"][0]["metrics"])
    assert "activation_prediction_loss" in new and "firing_f1" in new
    assert main([*run, "--out", out]) == 0
    assert report_in(here / "out")["explanations"] == report["explanations"]
    page = (here / "out" / "report.html").read_text()
    assert "on an average token (L0)" in page and 'id="explanations"' in page


def test_texts_of_a_file_and_a_host_that_reads_them(here, capsys):
    texts = here / "texts.csv"
    texts.write_text("latent,text\n3,days of the week\n")
    flags = [*BASE, "--latents", "3,4", "--explainer", "file", "--explanations", str(texts), "--rows", "8"]
    assert main([*flags, "--simulator", "rule"]) == 2
    assert "--simulator rule: follows the rules of n2g and lookup" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--latents", "9999,"], "there is no latent 9999"),
        (["--latents", "some"], "'all', a number of latents, or a list"),
        (["--latents", "0"], "at least 1 is needed"),
        (["--floor-latents", "-1"], "--floor-latents -1: at least 0 is needed"),
        (["--explainer", "llm"], "--explainer llm: needs --base-url"),
        (["--simulator", "server-json"], "--simulator server-json: needs --base-url"),
        (["--base-url", "http://localhost:1/v1"], "neither --explainer lookup nor --simulator rule asks a server"),
        (["--explainer", "file"], "--explanations FILE and --explainer file belong together"),
        (["--explanations", "x.csv"], "--explanations FILE and --explainer file belong together"),
        (["--simulator-lm", "tiny"], "it belongs to --simulator host"),
        (["--explainer", "n3g"], "explain: "),
        (["--resume"], "--resume: say which explanations with --out DIR"),
        (["--corpus", "none.txt"], "none.txt"),
        (["--rows", "-1"], "rows"),
    ],
)
def test_bad_input_gets_one_line(here, capsys, flags, line):
    assert main([*LOOKUP, *flags]) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert line in complaint
