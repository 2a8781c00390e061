"""The command line, killed: real processes, real signals. The long form (`make test-slow`) kills 20 times at random."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from jsaeval.cli import main
from jsaeval.sae.load import save_sae
from tests.tiny import tiny_sae, write_hf_folder


ROWS = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with an LM, an SAE and tokens; compiled programs are shared by all processes."""
    home = tmp_path_factory.mktemp("killed")
    write_hf_folder(home / "lm")
    save_sae(tiny_sae("topk"), home / "topk.safetensors")
    tokens = np.random.default_rng(0).integers(3, 50, (ROWS, 20)).astype(np.int32)
    np.save(home / "tokens.npy", tokens)
    return home


def started(home, out, *flags):
    words = ["run", "--lm", "lm", "--sae", "topk.safetensors", "--tokens", "tokens.npy", "--mesh", "1,1"]
    words += ["--batch", "2", "--control-rows", "4", "--checkpoint-every", "0", "--out", out, *flags]
    environment = os.environ | {"JSAEVAL_CACHE": str(home / "cache"), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "jsaeval.cli", *words],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process, sent=None):
    """Exit code and all that was printed."""
    if sent is not None:
        process.send_signal(sent)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output + errors


def finished(home, out, *flags):
    return end(started(home, out, *flags))


@pytest.fixture(scope="module")
def whole(home):
    code, printed = finished(home, "whole")
    assert code == 0, printed
    return home / "whole"


def wait_for_checkpoints(home, out, number, process):
    """Until so many have been written; checkpoints are numbered."""
    folder = home / out / "checkpoint"
    while process.poll() is None:
        names = sorted(folder.glob("0*.safetensors")) if folder.is_dir() else []
        if names and int(names[-1].name[:6]) >= number:
            return
        time.sleep(0.01)
    raise AssertionError(f"ended too early: {process.communicate()}")


def same(one, other):
    a, b = (json.loads((folder / "report.json").read_text()) for folder in (one, other))
    for report in (a, b):
        report["provenance"] = report["provenance"]["hashes"]
    assert a == b
    for name in ("rows.parquet", "latents.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(one / name), pd.read_parquet(other / name), check_exact=True)
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())


def test_kill_9(home, whole):
    process = started(home, "killed")
    wait_for_checkpoints(home, "killed", 9, process)
    assert end(process, signal.SIGKILL)[0] == -signal.SIGKILL
    code, printed = finished(home, "killed")
    assert code == 2 and "--resume goes on with it" in printed
    code, printed = finished(home, "killed", "--resume", "--seed", "3")
    assert code == 2 and "plan seed was 0, now 3" in printed
    code, printed = finished(home, "killed", "--resume")
    assert code == 0 and "going on after" in printed
    assert 0 < json.loads((home / "killed" / "report.json").read_text())["provenance"]["resumed_rows"] < ROWS
    same(whole, home / "killed")


def test_sigterm(home, whole):
    """A preempted run says how to go on, and exits with 128 + 15."""
    process = started(home, "stopped")
    wait_for_checkpoints(home, "stopped", 5, process)
    code, printed = end(process, signal.SIGTERM)
    assert code == 143 and "add --resume --out stopped to go on" in printed
    assert len(list((home / "stopped" / "checkpoint").iterdir())) == 2
    assert finished(home, "stopped", "--resume")[0] == 0
    same(whole, home / "stopped")


def test_a_run_that_ended_is_shown_again(home, whole, monkeypatch, capsys):
    monkeypatch.chdir(home)
    monkeypatch.setenv("JSAEVAL_CACHE", str(home / "cache"))
    before = (whole / "report.json").read_bytes()
    words = ["run", "--lm", "lm", "--sae", "topk.safetensors", "--tokens", "tokens.npy", "--mesh", "1,1"]
    words += ["--batch", "2", "--control-rows", "4", "--out", "whole", "--resume"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "came to its end before" in printed.err and "Faithfulness" in printed.out
    assert (whole / "report.json").read_bytes() == before
    save_sae(tiny_sae("topk", seed=7), home / "topk.safetensors")
    try:
        assert main(words) == 2
    finally:
        save_sae(tiny_sae("topk"), home / "topk.safetensors")
    assert "SAE tiny-topk was" in capsys.readouterr().err
    assert (whole / "report.json").read_bytes() == before


@pytest.mark.slow
def test_20_kills_at_random_moments(home, whole):
    """During start, compilation, batches, checkpoints and report."""
    start = time.monotonic()
    assert finished(home, "timed")[0] == 0
    length, rng, killed = time.monotonic() - start, random.Random(0), 0
    for i in range(20):
        process = started(home, f"random-{i}")
        time.sleep(rng.uniform(0, length))
        killed += end(process, signal.SIGKILL)[0] == -signal.SIGKILL
        code, printed = finished(home, f"random-{i}", "--resume")
        assert code == 0, printed
        same(whole, home / f"random-{i}")
    print(f"{killed} of 20 runs of {length:.1f} s were killed; all ended with the same report")
    assert killed >= 15
