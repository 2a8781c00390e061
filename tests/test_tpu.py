"""The step through the real TPU compiler: it is accepted, gathers nothing, and needs what was counted."""

import json
import subprocess
from pathlib import Path

import pytest


pytestmark = pytest.mark.tpu

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-tpu" / "bin" / "python"

# Runs in the environment with libtpu: a job, a slice and a mesh → what the compiler says and what was counted.
ASK = """
import json, sys
from jsaeval.hooks import parse_hook
from jsaeval.lm.shapes import shape_of
from jsaeval.sizing.compiled import compile_step
from jsaeval.sizing.estimate import estimate
from jsaeval.sizing.machines import machine
from jsaeval.sizing.step import Job, step_cost

asked = json.loads(sys.argv[1])
job, where = Job(shape_of(asked["lm"]), parse_hook(asked["hook"]), **asked["job"]), machine(asked["topology"])
counted = estimate(job, where, asked["model"], asked["rows"])
said = compile_step(job, where.name, counted.data, counted.model, counted.rows)
memory = counted.memory | {"working memory": step_cost(job, counted.model, counted.rows // counted.data).working}
print(json.dumps({"arguments": said.arguments, "working": said.working, "collectives": said.collectives,
    "gathered": said.gathered, "counted": memory}))
"""
MIB = 2**20


def asked(**question):
    """Bytes per chip by the compiler, and as counted."""
    assert PYTHON.exists(), "no environment with libtpu; run `make test-tpu`"
    done = subprocess.run([PYTHON, "-c", ASK, json.dumps(question)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    print(question, {kind: f"{said[kind] / MIB:,.0f} MiB" for kind in ("arguments", "working")}, end=" ")
    print("counted", {kind: f"{size / MIB:,.0f} MiB" for kind, size in said["counted"].items()}, said["collectives"])
    assert not said["gathered"] and set(said["collectives"]) <= {"all-reduce"}
    return said


SMOL = {"context": 512, "width": 2304, "k": 48}


@pytest.mark.parametrize(
    ("model", "rows", "controls"), [(1, 64, False), (1, 16, True), (4, 8, True)], ids=["plain", "controls", "split"]
)
def test_smollm(model, rows, controls):
    hook, job = "blocks.9.hook_resid_post", SMOL | {"controls": controls}
    said = asked(lm="smollm2-135m", hook=hook, job=job, topology="v5e:2x4", model=model, rows=rows)
    assert said["working"] < 1024 * MIB


@pytest.mark.parametrize("saes", [1, 8])
def test_gemma_2_2b_on_a_pod(saes):
    """2,048 tokens a chip take less than 1 GiB beside the weights; 256 chips need what 8 need; and that was counted."""
    question = {"lm": "gemma-2-2b", "hook": "blocks.12.hook_resid_post", "model": 4}
    question["job"] = {"saes": saes, "width": 16384, "context": 1024, "dtype": "bfloat16"}
    small = asked(**question, topology="v5e:2x4", rows=16)
    large = asked(**question, topology="v5e:16x16", rows=512)
    assert small["working"] < 1024 * MIB
    for kind in ("arguments", "working"):
        assert abs(large[kind] - small[kind]) < 0.05 * small[kind]
    counted = small["counted"]
    assert small["arguments"] == pytest.approx(counted["LM"] + counted["SAEs"] + counted["batch"], rel=0.01)
    assert small["working"] == pytest.approx(counted["working memory"], rel=0.3)
