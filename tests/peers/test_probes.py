"""Our probes beside scikit-learn and sae-probes on made-up latents: the numbers of `experiments/compare_probes.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jsaeval.probes.fit import STRENGTHS


pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-probes" / "bin" / "python"
SCRIPT = ROOT / "experiments" / "compare_probes.py"
CONVERGED = 1e-4


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """1,024 training examples of 16,384 latents."""
    assert PYTHON.exists(), "no environment of sae-probes; run `make test-peers`"
    out = tmp_path_factory.mktemp("probes") / "found.json"
    command = [sys.executable, SCRIPT, "--tasks", "", "--parts", "fits,peer,single", "--long", "0", "--singles", "200"]
    command += ["--ks", "1", "16", "64", "--peer-ks", "1", "2", "5", "16", "--out", out]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(out.read_text())


def test_objectives_are_no_worse_than_those_of_scikit_learn(found):
    assert len(found["fits"]) == 7
    for row in found["fits"]:
        assert row["objective"] < 1e-4, row


def test_objectives_and_scores_are_those_of_the_optimum(found):
    for row in found["every_fit"]:
        ours, exact = row["ours"], row["exact"]
        assert max(exact["excess"]) < 1e-5, row  # else nothing is known of the optimum
        assert max(ours["excess"]) < 1e-4 and max(ours["nats"]) < 1e-4, row
        # With weaker penalties labels can be separated; the optimum is flat then, and test losses are large.
        usual = [i for i, strength in enumerate(STRENGTHS) if strength < 1]
        for score in ("bce", "auc"):
            assert max(abs(ours[score][i] - exact[score][i]) for i in usual) < 1e-3, row


def test_scores_are_those_of_scikit_learn_where_it_converged(found):
    for row in found["fits"]:
        assert row["bce"] < 1e-3 and row["auc"] < 1e-3, row


def test_features_in_the_order_of_sae_probes(found):
    (order,) = found["order"]
    assert order["same_to"] == order["most"] == 16, order
    assert all(row["same_features"] for row in found["peer"])


def test_scores_of_sae_probes(found):
    assert len(found["peer"]) == 8
    for row in found["peer"]:
        assert row["definition"] < 1e-6, row  # of the same logits
    converged = [row for row in found["peer"] if row["excess"]["theirs"] < CONVERGED]
    assert converged
    for row in converged:
        assert row["apart"] < 2e-3, row


def test_single_probes_of_scikit_learn(found):
    (row,) = found["single"]
    assert row["converged"] and row["bce"] < 1e-4 and row["objective"] < 1e-6, row
