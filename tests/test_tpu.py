"""The step through the real TPU compiler: it is accepted, and no collective gathers activations."""

import re
import subprocess
from pathlib import Path

import pytest


pytestmark = pytest.mark.tpu

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-tpu" / "bin" / "python"


GEMMA = ["--lm", "gemma-2-2b", "--width", "16384", "--k", "None", "--context", "1024", "--rows-per-chip", "2"]
GEMMA += ["--dtype", "bfloat16", "--model", "4"]
MIB = re.compile(r"(argument|temp) +([\d.]+) MiB")


def compiled(*flags):
    """What the script prints, and MiB per chip by kind."""
    assert PYTHON.exists(), "no environment with libtpu; run `make test-tpu`"
    command = [PYTHON, ROOT / "tpu" / "compile_step.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    assert "compiled" in done.stdout
    for kind in ("all-gather", "all-to-all", "collective-permute"):
        assert re.search(rf"{kind} +0$", done.stdout, re.MULTILINE)
    return {kind: float(size) for kind, size in MIB.findall(done.stdout)}


@pytest.mark.parametrize(
    "flags",
    [
        ["--topology", "v5e:2x4"],
        ["--topology", "v5e:2x4", "--controls", "--rows-per-chip", "2"],
        ["--topology", "v5e:2x4", "--model", "4", "--controls", "--rows-per-chip", "2"],
    ],
)
def test_the_step_compiles(flags):
    compiled(*flags)


@pytest.mark.parametrize("saes", ["1", "8"])
def test_gemma_2_2b_on_a_pod(saes):
    """2,048 tokens a chip take less than 1 GiB beside the weights, and 256 chips need what 8 need."""
    small = compiled(*GEMMA, "--saes", saes, "--topology", "v5e:2x4")
    large = compiled(*GEMMA, "--saes", saes, "--topology", "v5e:16x16")
    assert small["temp"] < 1024
    for kind, size in small.items():
        assert abs(large[kind] - size) < 0.05 * size
