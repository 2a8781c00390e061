"""The SAE that ships with the package, on held-out text, as `make run` evaluates it."""

import json
import os

from jsaeval.cli import main
from jsaeval.sae.load import SHIPPED, load_sae, shipped_path


def test_the_default_run(tmp_path):
    assert main(["run", "--mesh", "1,1", "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (sae,) = report["saes"]
    metrics = {name: m["value"] for name, m in sae["metrics"].items()}
    assert metrics["explained_variance"] >= 0.80
    assert metrics["ce_recovered_zero"] >= 0.93
    assert metrics["l0"] <= 48
    assert metrics["downstream_loss"] > 0
    assert report["corpus"]["name"] == "ag-news" and report["corpus"]["rows"] == 16
    assert report["masks"]["metric"] == report["masks"]["splice"] == "no-special"
    for name in ("pca", "permuted_decoder", "random_sae"):
        for id in ("ce_increase", "downstream_loss"):
            low, high = sae["floors"][name]["difference"][id]["ci95"]
            assert low <= high < 0, (name, id)
    assert sae["floors"]["pca"]["difference"]["ce_recovered_zero"]["value"] >= 0.05
    identity = report["controls"]["identity"]["metrics"]
    assert max(abs(identity[id]["value"]) for id in ("ce_increase", "downstream_loss")) < 1e-4
    assert (tmp_path / "out" / "report.html").stat().st_size < 1_500_000
    # position 0 is left out, so its bucket is absent
    assert list(sae["by_position"]["mse"]) == ["1-3", "4-15", "16-63", "64+"]


def test_size_and_card():
    for lm in SHIPPED:
        assert os.path.getsize(shipped_path(lm)) <= 6_000_000
        card = load_sae(lm).card
        assert card.hook == {"smollm2-135m": "blocks.9.hook_resid_post", "tiny": "blocks.1.hook_resid_post"}[lm]
        assert card.lm == lm
        assert json.loads(card.declared)["training_tokens"] > 1_000_000
        assert card.name in (shipped_path(lm).parent / "README.md").read_text()
