"""`jsaeval explain` in the tiny LM that ships: its folder, its pages, going on, a run's folder, refusals."""

import dataclasses
import io
import json
import re
import socket
import zlib

import numpy as np
import pandas as pd
import pytest

from jsaeval.autointerp import n2g
from jsaeval.autointerp.kept import KeptExplainer
from jsaeval.autointerp.scores import WHERE
from jsaeval.cli import main
from jsaeval.cli.explain import Explain
from jsaeval.cli.explainers import tools
from jsaeval.hooks import parse_hook
from jsaeval.mesh import make_mesh
from jsaeval.report.latent_records import read_records
from jsaeval.report.progress import Progress
from tests.autointerp.server.conftest import SECRET
from tests.autointerp.server.fake_server import Reply, chat, error, running
from tests.autointerp.test_host import host
from tests.autointerp.test_host_prompt import tiny
from tests.tiny import HOOK, tiny_sae


BASE = ["explain", "--lm", "tiny", "--rows", "16", "--latents", "3", "--floor-latents", "1", "--mesh", "1,1"]
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
    assert summary["latents"]["asked"] == 3
    own = [line for line in made["saes"][0]["latents"] if line["dictionary"] is None]
    loss = summary["scores"]["activation_prediction_loss"]["all"]
    there = [line["scores"]["activation_prediction_loss"] for line in own if line["problem"] is None]
    assert sae["metrics"]["activation_prediction_loss"]["value"] == loss["value"]
    # One that failed counts as one of which nothing was said.
    assert loss["value"] == pytest.approx(np.mean([1.0 if value is None else value for value in there]))
    assert set(loss["floors"]) == {"empty", "another", "constant", "token", "random_sae", "neurons"}
    # Nothing can be predicted from nothing; a latent of a trained SAE is told better than that.
    assert loss["floors"]["empty"]["value"] > 0.95 and loss["floors"]["empty"]["difference"]["value"] < -0.1
    frame = pd.read_parquet(plain / "explanations.parquet")
    assert len(frame) == 3 + 1 + 1 and set(WHERE) <= set(frame.columns)
    assert set(frame["dictionary"].dropna()) == {"random_sae", "neurons"}
    assert not (plain / "explaining").exists()


def test_pages(plain, here, capsys):
    page = (plain / "report.html").read_text()
    links = re.findall(r'href="(latents/[^"]+)"', page)
    assert "latents/index.html" in links and len(links) > 2
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
    assert len(features) == 3
    assert main(["compare", str(plain)]) == 2
    assert "and no run" in capsys.readouterr().err


def test_an_interrupted_call_goes_on(plain, here, monkeypatch, capsys):
    explain, calls = n2g.N2G.explain, []
    lines = report_in(plain)["explanations"]["saes"][0]["latents"]
    asked = [own["latent"] for own in lines if own["problem"] is None]
    ours = sum(own["problem"] is None for own in lines if own["dictionary"] is None)

    def interrupted(self, evidence):
        calls.extend(own.latent for own in evidence)
        if len(calls) > ours:
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
    assert calls[:ours] == asked[:ours]  # they are kept
    calls.clear()
    monkeypatch.setattr(
        n2g.N2G, "explain", lambda self, known: calls.extend(o.latent for o in known) or explain(self, known)
    )
    assert main([*flags, "--resume"]) == 0
    assert calls == asked[ours:]
    assert report_in(here / "out")["explanations"]["saes"][0]["latents"] == lines


def test_explanations_are_kept_by_how_they_were_asked_for(lm, tmp_path):
    hook, mesh = parse_hook(HOOK), make_mesh(1)

    def about(**flags):
        made = tools(Explain(**flags), lm, hook, mesh, tmp_path, Progress(), lambda: None)
        kept = made.explainer(tiny_sae(), None)
        assert isinstance(kept, KeptExplainer)
        return kept.about

    assert about() == about(rows=9)
    others = {about(), about(seed=1), about(precision="default"), about(dtype="bfloat16")}
    assert len(others) == 4 and all(str(n2g.SHOWN) in own for own in others)


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


def test_words_have_no_rule_to_follow(here, capsys):
    texts = here / "texts.csv"
    texts.write_text("latent,text\n3,days of the week\n")
    flags = [*BASE, "--latents", "3,4", "--explainer", "file", "--explanations", str(texts), "--rows", "8"]
    assert main([*flags, "--simulator", "rule"]) == 2
    assert "--simulator rule: follows the rules of n2g and lookup" in capsys.readouterr().err


def test_the_lm_that_simulates_is_named(here, monkeypatch, capsys):
    simulates = host(context=1024)
    simulates = dataclasses.replace(simulates, card=dataclasses.replace(simulates.card, name="another [LM]"))
    monkeypatch.setattr("jsaeval.cli.explainers.load_lm", lambda *known: simulates)
    monkeypatch.setattr("jsaeval.cli.explainers.load_tokenizer", lambda lm: tiny())
    texts, out = here / "texts.csv", here / "out"
    texts.write_text("latent,text\n387,days of the week\n")
    flags = [*BASE, "--latents", "387,", "--rows", "8", "--context", "64", "--floor-latents", "0", "--out", str(out)]
    assert main([*flags, "--explainer", "file", "--explanations", str(texts), "--simulator-lm", "another"]) == 0
    assert "simulator host (another [LM])" in capsys.readouterr().out
    made = report_in(out)["explanations"]
    settings, summary = made["settings"], made["saes"][0]["summary"]
    assert (settings["simulator"], settings["simulator_lm"]) == ("host", "another [LM]")
    assert re.search(r"a simulator\s+\(host \(another \[LM\]\)\)", (out / "report.html").read_text())
    assert "simulated by host (another [LM])" in (out / "latents" / "387.html").read_text()
    (record,) = read_records(out)
    assert (
        record["mass_on_levels"] == pytest.approx(summary["mass_on_levels"], rel=1e-5) and summary["mass_on_levels"] > 0
    )


def test_rules_need_no_lm(plain):
    assert report_in(plain)["explanations"]["settings"]["simulator_lm"] is None
    assert re.search(r"a simulator\s+\(rule\)", (plain / "report.html").read_text())


ASKING = [*BASE, "--rows", "8", "--context", "64", "--latents", "387,429", "--floor-latents", "0"]
ASKING += ["--simulator", "server-json"]


def answered(body):
    """By a chat model: levels where they are asked for, else a phrase."""
    content = body["messages"][-1]["content"]
    if "response_format" in body:
        return json.dumps({row.split("\t")[0]: len(row) % 11 for row in content.splitlines() if "\t" in row})
    return "words of some length"


@pytest.fixture
def asking(here, monkeypatch):
    """A key, answers that are kept for one test, and nobody to ask."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("jsaeval.autointerp.server.client.cache_dir", lambda name: here / name)
    monkeypatch.setattr("sys.stdin", io.StringIO())


def test_a_server_explains_and_simulates(asking, here, capsys):
    refused = Reply(200, chat(None, refusal=f"no \ud800\x1b[2J {SECRET}"))
    with running(models=("small",), usual=answered, answer=lambda path, body, n: None if n else refused) as fake:
        flags = [*ASKING, "--explainer", "llm", "--base-url", fake.url, "--out", str(here / "out")]
        assert main(flags) == 2
        said, asked = capsys.readouterr(), "say --yes to make them"
        assert asked in said.err.splitlines()[-1] and not fake.requests and not (here / "out" / "report.json").exists()
        assert main([*flags, "--yes"]) == 0
        calls, told = len(fake.requests), capsys.readouterr()
    assert set(fake.keys) == {f"Bearer {SECRET}"}
    made = report_in(here / "out")["explanations"]
    refusals = [line["error"] for line in made["saes"][0]["latents"] if line["error"]]
    assert refusals == ["refused: no \\ud800\\x1b[2J [OPENAI_API_KEY]"]
    summary = f"small: {calls} calls answered, 0 answers kept from before; 1 failed: 1 refused"
    assert made["settings"]["server"] == summary
    frame = pd.read_parquet(here / "out" / "explanations.parquet")
    assert sorted(frame["text"]) == ["", "words of some length"]
    written = [path.read_bytes() for path in here.rglob("*") if path.is_file()]
    assert len(written) > calls
    for text in (*written, *(own.encode() for own in (*said, *told))):
        assert SECRET.encode() not in text and b"\x1b[2J" not in text


@pytest.mark.parametrize("explainer", ["llm", "file", "lookup"])
def test_what_is_said_before_the_first_call_is_true(asking, here, capsys, explainer):
    texts = here / "texts.csv"
    texts.write_text("latent,text\n387,days of the week\n429,names\n")

    def usual(body):
        content = body["messages"][-1]["content"]
        return answered(body) if "response_format" in body else f"words of kind {zlib.crc32(content.encode())}"

    with running(models=("small",), usual=usual) as fake:
        flags = [*ASKING, "--floor-latents", "1", "--explainer", explainer, "--base-url", fake.url]
        flags += ["--explanations", str(texts)] if explainer == "file" else []
        assert main([*flags, "--yes", "--out", str(here / "out")]) == 0
        calls, told = len(fake.requests), capsys.readouterr().err
        assert f"small: {calls:,} calls to make (0 answers are kept; " in told
        assert main([*flags, "--out", str(here / "again")]) == 0  # nobody is there to ask
        assert f"small: no calls to make ({calls:,} answers are kept)" in capsys.readouterr().err.splitlines()
        assert len(fake.requests) == calls
    first, second = (report_in(here / name)["explanations"]["saes"] for name in ("out", "again"))
    assert first == second


def test_a_mistyped_address_or_model_can_be_put_right(asking, here, capsys):
    flags = [*ASKING, "--explainer", "lookup", "--yes", "--out", str(here / "out")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        assert main([*flags, "--base-url", nowhere, "--model", "small"]) == 2
    assert "cannot be reached" in capsys.readouterr().err and (here / "out" / "explain.toml").exists()

    def known(path, body, n):
        if body["model"] != "small":
            return error(404, "no such model", "model_not_found")

    with running(models=("small",), usual=answered, answer=known) as fake:
        flags += ["--base-url", fake.url]
        assert main([*flags, "--model", "smal"]) == 2
        assert "did you mean 'small'" in capsys.readouterr().err
        assert main([*flags, "--model", "small"]) == 0
    plan = (here / "out" / "explain.toml").read_text()
    assert 'model = "small"' in plan and fake.url in plan
    assert main([*flags, "--model", "large"]) == 2
    assert "holds other explanations (model was small, now large)" in capsys.readouterr().err


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
