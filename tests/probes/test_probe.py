"""`jsaeval probe` on the command line."""

import json

import numpy as np
import pytest

from jsaeval.cli import main
from tests.probes.test_fits import data


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSAEVAL_CACHE", str(tmp_path / "cache"))
    x, y = data(n=200, k=20)
    made = {"x_train": x[:120], "y_train": y[:120].astype(int), "x_test": x[120:], "y_test": y[120:].astype(float)}
    np.savez("mine.npz", **made)
    return made


def test_features_are_probed(arrays, tmp_path, capsys):
    assert main(["probe", "--features", "mine.npz", "--k", "2", "--out", "probes.json"]) == 0
    printed = capsys.readouterr().out
    assert "mine.npz: 20 features, 120 training and 80 test examples" in printed
    made = json.loads((tmp_path / "probes.json").read_text())
    kinds = [(own["probe"], own["k"], own["penalty"]) for own in made["probes"]]
    assert kinds == [("single", 1, None), ("k_sparse", 2, "l1"), ("k_sparse", 2, "l2"), ("dense", None, "l2")]
    for own in made["probes"]:
        low, high = own["bce"]["ci95"]
        assert 0 < low < own["bce"]["value"] < high and own["features"] == "mine.npz"
        assert {"accuracy", "auc", "f1", "latents", "strength", "bce_in_sample", "converged"} <= set(own)
    assert made["probes"][1]["latents"] == made["probes"][2]["latents"] and len(made["probes"][1]["latents"]) == 2


@pytest.mark.parametrize(
    ("change", "flags", "line"),
    [
        ({}, ["--probes", "sparse"], "no such probe; did you mean 'k_sparse'"),
        ({}, ["--probes", ","], "--probes is empty"),
        ({}, ["--k", "99"], "--k 99: bad.npz has 20 features"),
        ({}, ["--k", "0"], "at least 1 is needed"),
        ({}, ["--out", "none/probes.json"], "there is no folder none"),
        ({"y_test": np.arange(80)}, [], "y_test holds [0, 1, 2, 3]; 0 and 1 were expected"),
        ({"y_test": np.zeros(80)}, [], "the 80 test examples have one label only"),
        ({"x_test": np.zeros((80, 3))}, [], "found (120, 20) and (80, 3)"),
        ({"x_train": np.full((120, 20), "a")}, [], "x_train holds <U1; numbers were expected"),
        ({"x_train": None}, [], "no array x_train; it holds y_train, x_test, y_test"),
    ],
)
def test_bad_input_gets_one_line(arrays, capsys, change, flags, line):
    np.savez("bad.npz", **{name: array for name, array in (arrays | change).items() if array is not None})
    assert main(["probe", "--features", "bad.npz", *flags]) == 2
    complaint = capsys.readouterr().err
    assert line in complaint and complaint.count("\n") == 1


def test_files_that_hold_no_arrays(arrays, tmp_path, capsys):
    (tmp_path / "text.npz").write_text("no archive")
    for name, line in (("none.npz", "no such file"), ("text.npz", "cannot be read as .npz")):
        assert main(["probe", "--features", name]) == 2
        assert line in capsys.readouterr().err
