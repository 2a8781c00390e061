"""The launch files of `tpu/` with stand-ins for `gcloud`, `kubectl` and Slurm: what they call, when they try again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


TPU = Path(__file__).parents[1] / "tpu"
SCRIPTS = sorted(TPU.glob("*.sh"))
QUEUED = ["--name", "sweep", "--type", "v5litepod-16", "--zone", "z", "--bucket", "B"]
GKE = ["--name", "sweep", "--image", "I", "--accelerator", "A", "--topology", "4x4", "--hosts", "4", "--bucket", "B"]

# Writes down its arguments, and answers with the next line of a file of answers: "EXIT_CODE OUTPUT".
STAND_IN = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
[[ ! -t 0 && $(basename "$0") == kubectl ]] && cat > "$CALLS.stdin"
case "$*" in
  *delete* | *describe* | *"jsaeval run"*)
    [[ "$*" == *delete* ]] && { [[ -e "$ANSWERS.delete" ]] || exit 0; rm "$ANSWERS.delete"; exit 1; }
    read -r code output < "$ANSWERS"
    sed -i 1d "$ANSWERS"
    echo "$output"
    exit "$code" ;;
esac
exit 0
"""


@pytest.fixture
def launch(tmp_path):
    """Runs a script; returns its result and the calls that it made."""
    for name in ("gcloud", "kubectl", "srun", "scontrol", "python"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)

    def run(script, *arguments, answers=(), gcloud=None, **more):
        if gcloud is not None:
            (tmp_path / "gcloud").write_text(gcloud)
        (tmp_path / "answers").write_text("".join(f"{answer}\n" for answer in answers))
        environment = os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "ANSWERS": str(tmp_path / "answers"),
            "PYTHON": str(tmp_path / "python"),
            "POLL": "0",
        }
        done = subprocess.run(
            [TPU / script, *arguments], env=environment | more, capture_output=True, text=True, check=False
        )
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


def count(calls, word):
    return sum(word in call for call in calls)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    checker = Path(sys.executable).with_name("shellcheck")
    subprocess.run([checker if checker.exists() else shutil.which("shellcheck"), script], check=True)
    assert len(script.read_text().splitlines()) <= 100 and os.access(script, os.X_OK)


def test_a_queued_resource_is_tried_again_until_the_run_is_done(launch):
    """No capacity; then preempted in the middle; then done."""
    answers = ["0 WAITING_FOR_RESOURCES", "0 FAILED", "0 ACTIVE", "143 ", "0 PROVISIONING", "0 ACTIVE", "0 "]
    done, calls = launch("queued_resource.sh", *QUEUED, "--spot", "--", "--sae", "a b/*", answers=answers)
    assert done.returncode == 0, done.stderr
    assert count(calls, "queued-resources create sweep") == count(calls, "queued-resources delete sweep --force") == 3
    assert count(calls, "--runtime-version v2-alpha-tpuv5-lite --spot --zone z") == 3
    assert count(calls, "tpu-vm scp") == 2
    assert count(calls, r"jsaeval run --out sweep --resume --sae a\ b/\*") == 2
    assert "try 1 of 5" in done.stderr and "try 2 of 5 ended with 143" in done.stderr


@pytest.mark.parametrize("code", [2, 3])
def test_bad_input_is_not_tried_again(code, launch):
    done, calls = launch("queued_resource.sh", *QUEUED, "--", answers=["0 ACTIVE", f"{code} "])
    assert done.returncode == code
    assert count(calls, "queued-resources create") == count(calls, "queued-resources delete") == 1
    assert "--spot" not in " ".join(calls)
    assert calls[-2].endswith("jsaeval run --out sweep --resume  --zone z")


def test_a_slice_is_given_back_whatever_happens(launch, tmp_path):
    """The first deletion fails, and what asks for its state is broken."""
    (tmp_path / "answers.delete").touch()
    done, calls = launch("queued_resource.sh", *QUEUED, "--retries", "1", "--", answers=["1 "] * 10)
    assert done.returncode == 1 and count(calls, "describe") == 10
    assert count(calls, "queued-resources delete sweep --force") == 2


def test_ctrl_c_gives_the_slice_back(launch, tmp_path):
    """While the run is on its way: `gcloud` sends the signal to the script, which waits for it."""
    interrupt = STAND_IN.replace('case "$*" in', '[[ "$*" == *scp* ]] && kill -TERM "$PPID"\ncase "$*" in')
    done, calls = launch("queued_resource.sh", *QUEUED, "--", answers=["0 ACTIVE"], gcloud=interrupt)
    assert done.returncode == 130 and count(calls, "queued-resources delete sweep --force") == 1


def test_it_gives_up(launch):
    done, calls = launch("queued_resource.sh", *QUEUED, "--retries", "2", "--", answers=["0 FAILED"] * 2)
    assert done.returncode == 1 and count(calls, "queued-resources delete") == 2


def test_the_manifest_for_gke(launch, tmp_path):
    words = ["--sae", 'a "q" \\ *', "--rows", "64"]
    done, calls = launch("gke.sh", *GKE, "--", *words)
    assert done.returncode == 0 and calls == ["kubectl apply -f -"], done.stderr
    manifest = yaml.safe_load((tmp_path / "calls.stdin").read_text())
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2, 3]
    assert manifest["metadata"]["name"] == "sweep" and job["parallelism"] == job["completions"] == 4
    assert container["args"] == ["run", "--out", "sweep", "--resume", *words]
    assert container["image"] == "I" and container["resources"]["limits"]["google.com/tpu"] == 4
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (2, False), (143, True)])
def test_slurm_queues_itself_again_after_a_checkpoint(code, requeued, launch):
    done, calls = launch("slurm.sh", "--sae", "a/*", answers=[f"{code} "], SLURM_JOB_ID="7", VENV="v")
    assert done.returncode == code
    assert calls[0] == "srun --kill-on-bad-exit=1 v/bin/jsaeval run --resume --sae a/*"
    assert calls[1:] == (["scontrol requeue 7"] if requeued else [])
    _, calls = launch("slurm.sh", answers=[f"{code} "], SLURM_JOB_ID="7", SLURM_RESTART_COUNT="20")
    assert count(calls, "requeue") == requeued  # of before


@pytest.mark.parametrize(
    ("script", "flags", "printed"),
    [
        ("queued_resource.sh", [*QUEUED, "--retries", "1"], "gcloud compute tpus queued-resources create sweep"),
        ("gke.sh", GKE, "kind: JobSet"),
        ("slurm.sh", [], "srun"),
    ],
)
def test_dry_run_calls_nothing(script, flags, printed, launch):
    done, calls = launch(script, "--dry-run", *flags)
    assert done.returncode == 0 and calls == [] and printed in done.stdout, done.stderr


@pytest.mark.parametrize("script", ["queued_resource.sh", "gke.sh"])
@pytest.mark.parametrize(
    ("flags", "message"), [(["--nam", "x"], "was expected"), (["--name"], "was expected"), ([], "--name is missing")]
)
def test_bad_flags(script, flags, message, launch):
    done, calls = launch(script, *flags)
    assert done.returncode == 2 and calls == [] and message in done.stderr


def test_other_files_are_well_formed():
    sky = yaml.safe_load((TPU / "skypilot.yaml").read_text())
    assert sky["resources"]["accelerators"].startswith("tpu-") and "$ARGUMENTS" in sky["run"]
    assert 'ENTRYPOINT ["jsaeval"]' in (TPU / "Containerfile").read_text()
