"""Several processes on one machine (gloo): the same report, agreement before the start, and ends that lose nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from jsaeval import processes
from jsaeval.cli import main
from jsaeval.errors import InputError
from jsaeval.sae.load import save_sae
from tests.tiny import tiny_sae, write_hf_folder


ROWS = 60
WORDS = ["run", "--lm", "lm", "--sae", "topk.safetensors", "--tokens", "tokens.npy", "--batch", "8"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("processes")
    write_hf_folder(home / "lm")
    save_sae(tiny_sae("topk"), home / "topk.safetensors")
    np.save(home / "tokens.npy", np.random.default_rng(0).integers(3, 50, (ROWS, 20)).astype(np.int32))
    return home


def start(home, *flags, own=((), ())):
    """Two processes of two devices each; `own` are flags of one alone."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JSAEVAL_CACHE": str(home / "cache"),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "jsaeval.cli", *WORDS, "--processes", f"localhost:{port},2,{i}", *flags, *own[i]],
            cwd=home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]


def ended(started):
    outputs = [process.communicate(timeout=300)[0] for process in started]
    return [process.returncode for process in started], outputs


@pytest.fixture(scope="module")
def whole(home):
    """What one process says."""
    here = os.getcwd()
    os.chdir(home)
    try:
        assert main([*WORDS, "--mesh", "1,1", "--control-rows", "4", "--out", "whole"]) == 0
    finally:
        os.chdir(here)
    return home / "whole"


def same(one, other):
    """METRICS.md, Numerics: counts exactly, floats to 1e-5 of the scale of the column."""
    for name in ("rows.parquet", "latents.parquet"):
        a, b = (pd.read_parquet(folder / name) for folder in (one, other))
        assert list(a) == list(b)
        for column in a:
            x, y = (np.array(frame[column].tolist()) for frame in (a, b))
            if x.dtype.kind == "f":
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max(), err_msg=column)
            else:
                np.testing.assert_array_equal(x, y, err_msg=column)


def provenance(folder):
    return json.loads((folder / "report.json").read_text())["provenance"]


@pytest.mark.parametrize("mesh", [pytest.param("4,1", marks=pytest.mark.slow), "1,4"])
def test_two_processes_agree_with_one(mesh, home, whole):
    """Also where the model axis spans both: neither has all of the weights or latents."""
    out = f"mesh-{mesh}"
    codes, outputs = ended(start(home, "--mesh", mesh, "--control-rows", "4", "--out", out))
    assert codes == [0, 0], outputs
    assert "Faithfulness" in outputs[0] and "Faithfulness" not in outputs[1]
    assert provenance(home / out)["processes"] == 2
    same(home / out, whole)


@pytest.mark.slow
def test_sigterm_to_one_stops_both(home, whole):
    flags = ["--control-rows", "4", "--checkpoint-every", "0", "--batch", "1", "--out", "stopped"]
    started = start(home, *flags)
    wait_for_lines(started[0], "measuring")
    started[1].send_signal(signal.SIGTERM)
    codes, outputs = ended(started)
    assert codes == [143, 143], outputs
    assert "add --resume --out stopped to go on" in outputs[0]
    codes, outputs = ended(start(home, *flags, "--resume"))
    assert codes == [0, 0] and "going on after" in outputs[0], outputs
    assert 0 < provenance(home / "stopped")["resumed_rows"] < ROWS
    same(home / "stopped", whole)


def wait_for_lines(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError("it never came")


def test_both_have_to_do_the_same(home):
    codes, outputs = ended(start(home, "--out", "no", own=((), ("--seed", "1"))))
    assert codes == [2, 2], outputs
    assert all("process 1 of 2 has another plan than process 0" in output for output in outputs)
    codes, outputs = ended(start(home, "--mesh", "1,4", "--out", "no", own=((), ("--lm", "missing"))))
    assert codes == [2, 2], outputs
    assert "process 1 of 2 cannot start" in outputs[0] and "LM 'missing': no such" in outputs[1]
    codes, outputs = ended(start(home, "--mesh", "2,1", "--out", "no"))
    assert codes == [2, 2] and "all 4 devices have to be used" in outputs[0], outputs
    assert not (home / "no").exists()


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "a"}, "Slurm"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "GKE"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, None),  # needs a package of its own
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # of sbatch, without srun
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "a"}, None),
        ({}, None),
    ],
)
def test_launchers(environment, name, monkeypatch):
    for key in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert processes.launcher() == name


@pytest.mark.parametrize("asked", ["on", "host,2,0", "host:1,2", "host:1,2,2", "host:1,a,0"])
def test_processes_that_cannot_be_meant(asked):
    with pytest.raises(InputError, match="--processes"):
        processes.start(asked)


@pytest.mark.slow
def test_one_that_dies_ends_the_other(home, whole):
    """Within a minute, with its name, and the checkpoint is whole."""
    flags = ["--control-rows", "4", "--checkpoint-every", "0", "--batch", "1", "--out", "died"]
    started = start(home, *flags)
    wait_for_lines(started[0], "measuring")
    started[1].kill()
    begun = time.monotonic()
    codes, outputs = ended(started)
    print(f"the other ended after {time.monotonic() - begun:.0f} s")
    assert codes == [1, -signal.SIGKILL] and time.monotonic() - begun < 60
    assert "process 1 of 2 is gone" in outputs[0] and "start all with --resume" in outputs[0], outputs[0]
    codes, outputs = ended(start(home, *flags, "--resume"))
    assert codes == [0, 0], outputs
    assert 0 < provenance(home / "died")["resumed_rows"] < ROWS
    same(home / "died", whole)
