"""The fronts of a sweep, and the long form of a report."""

import copy
import dataclasses

import numpy as np
import pytest

import jsaeval
from jsaeval.report.fronts import FRONTS, fronts, kind_of, pareto
from jsaeval.report.json_report import report as make_report
from jsaeval.report.tidy import COLUMNS, tidy
from jsaeval.run.engine import Setting
from jsaeval.run.evaluate import Failed, evaluate
from tests.tiny import tiny_sae


@pytest.fixture(scope="module")
def report(lm, tokens):
    """Three SAEs of two kinds with controls, and one that failed."""
    saes = [tiny_sae("topk", k=k) for k in (2, 12)] + [tiny_sae("relu")]
    named = [dataclasses.replace(s, card=dataclasses.replace(s.card, name=f"sae-{i}")) for i, s in enumerate(saes)]
    setting = Setting(batch=4, control_rows=3)
    results = evaluate(lm, named, tokens=np.asarray(tokens), mesh=jsaeval.make_mesh(1), setting=setting)
    return make_report(
        dataclasses.replace(results, entries=(*results.entries, Failed("broken", "no weights"))), {"lm": "tiny"}
    )


def test_pareto():
    points = [(1.0, 5.0), (2.0, 3.0), (2.0, 2.0), (3.0, 4.0), (4.0, 1.0)]
    assert pareto(points, higher=False) == [(1, 5.0), (2, 2.0), (4, 1.0)]
    assert pareto(points, higher=True) == [(1, 5.0)]


def test_a_picture_for_each_metric(report):
    saes = [(i, sae) for i, sae in enumerate(report["saes"], 1) if "error" not in sae]
    pictures = list(fronts(saes, "blocks.1.hook_resid_post", " At the hook."))
    assert len(pictures) == len(FRONTS)
    for id, picture in zip(FRONTS, pictures, strict=True):
        assert picture.svg.startswith("<svg") and picture.caption.startswith(f"{id} against L0")
        assert picture.caption.endswith("At the hook.") and "floors" in picture.caption
        for label in ("topk", "relu", "L0 (latents)"):
            assert f">{label}" in picture.svg, (id, label)
    assert "up and" in pictures[0].caption and "down and" in pictures[1].caption
    alone = list(fronts(saes[:1], "h", ""))
    assert alone == []


def test_floors_are_drawn_or_named(report):
    """What is not in the figure is said in its caption."""
    saes = [(i, sae) for i, sae in enumerate(report["saes"], 1) if "error" not in sae]
    for picture in fronts(saes, "h", ""):
        for label in ("PCA", "permuted decoder", "random SAE"):
            assert (f">{label}<" in picture.svg) != (label in picture.caption.partition("Outside")[2]), label
    bare = copy.deepcopy(saes)
    for _, sae in bare:
        del sae["floors"]
    assert all("floor" not in picture.caption for picture in fronts(bare, "h", ""))


def test_kind():
    assert [kind_of({"architecture": a}) for a in ("topk-48", "relu", "batch_topk")] == ["topk", "relu", "batch_topk"]


def test_long_form(report):
    frame = tidy(report)
    assert tuple(frame.columns) == COLUMNS
    first = report["saes"][0]
    (line,) = frame[(frame["sae"] == "sae-0") & (frame["of"] == "sae") & (frame["metric"] == "fvu")].to_dict("records")
    assert line["value"] == first["metrics"]["fvu"]["value"] and line["d_sae"] == 40
    assert [line["ci_low"], line["ci_high"]] == first["metrics"]["fvu"]["ci95"]
    (floor,) = frame[(frame["sae"] == "sae-0") & (frame["of"] == "pca") & (frame["metric"] == "fvu")].to_dict("records")
    assert floor["difference"] == first["floors"]["pca"]["difference"]["fvu"]["value"]
    assert np.isnan(line["difference"])
    assert set(frame["of"]) == {
        *("sae", "sae_on_control_rows", "random_error", "pca", "permuted_decoder", "random_sae"),
        *("zero", "mean", "identity"),
    }
    assert frame.loc[frame["of"] == "zero", "sae"].isna().all()
    n_metrics = sum(len(sae["metrics"]) for sae in report["saes"] if "error" not in sae)
    assert (frame["of"] == "sae").sum() == n_metrics
    assert "broken" not in set(frame["sae"].dropna())
