"""The step through the real TPU compiler: it is accepted, and no collective gathers activations."""

import re
import subprocess
from pathlib import Path

import pytest


pytestmark = pytest.mark.tpu

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-tpu" / "bin" / "python"


@pytest.mark.parametrize(
    "flags", [["--topology", "v5e:2x4"], ["--topology", "v5e:2x4", "--controls", "--rows-per-chip", "2"]]
)
def test_the_step_compiles(flags):
    assert PYTHON.exists(), "no environment with libtpu; run `make test-tpu`"
    command = [PYTHON, ROOT / "tpu" / "compile_step.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    assert "compiled" in done.stdout
    for kind in ("all-gather", "all-to-all", "collective-permute"):
        assert re.search(rf"{kind} +0$", done.stdout, re.MULTILINE)
