"""Result files for SAEBench: its own loaders and plots read them, and its own core evaluation finds the same values."""

import json
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jsaeval.cli import main
from jsaeval.sae.load import save_sae
from jsaeval.sae.module import SAE, SAECard
from tests.tiny import tiny_sae, write_hf_folder


pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-saebench" / "bin" / "python"
SCRIPT = Path(__file__).parent / "saebench_reference.py"
KINDS = ("relu", "topk", "jumprelu", "gated")
# Name → --splice-mask and --rows. SAEBench takes 16 rows at a time.
RUNS = {"every token": ("all", 16), "no special token": ("no-special", 16), "two batches": ("all", 32)}
# SAEBench ablates every token, and averages these over batches.
APART = {
    "every token": set(),
    "no special token": {"kl_div_score", "kl_div_with_ablation", "ce_loss_score", "ce_loss_with_ablation"},
    "two batches": {"explained_variance", "explained_variance_legacy", "relative_reconstruction_bias"},
}


def saebench(*arguments) -> None:
    assert PYTHON.exists(), "no environment of SAEBench; run `make test-peers`"
    result = subprocess.run([PYTHON, SCRIPT, *map(str, arguments)], capture_output=True, text=True)
    assert not result.returncode, result.stderr[-2000:]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """What SAEBench finds and what we do, on the same LM, tokens and SAEs: NAME-KIND.json and NAME/saebench/core."""
    home = tmp_path_factory.mktemp("home")
    write_hf_folder(home / "lm")
    tokens = np.random.default_rng(0).integers(3, 50, (32, 24)).astype(np.int32)
    tokens[:, 0], tokens[3, 7], tokens[5, 11], tokens[20, 4] = 1, 2, 0, 1
    np.save(home / "tokens.npy", tokens)
    for kind in KINDS:
        save_sae(tiny_sae(kind), home / kind, format="saelens")
    cases = [
        {"sae": kind, "rows": rows, "batch": 16, "exclude": mask == "no-special", "out": f"{name}-{kind}.json"}
        for name, (mask, rows) in RUNS.items()
        for kind in KINDS
    ]
    (home / "cases.json").write_text(json.dumps(cases))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        saebench("core", "lm", "tokens.npy", "cases.json")
        for name, (mask, rows) in RUNS.items():
            run = ["run", "--lm", "lm", "--tokens", "tokens.npy", "--rows", str(rows), "--mesh", "1,1", "--no-controls"]
            run += ["--metrics", "norms,reconstruction,loss,latents", "--splice-mask", mask, "--out", name]
            assert main([*run, *(word for kind in KINDS for word in ("--sae", kind))]) == 0
            assert main(["report", name, "--format", "saebench"]) == 0
    return home


def both(home, name, kind):
    """SAEBench's file and ours."""
    ours = home / name / "saebench" / "core" / f"{kind}_custom_sae_eval_results.json"
    return [json.loads(path.read_text()) for path in (home / f"{name}-{kind}.json", ours)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RUNS)
def test_values_of_its_core_evaluation(home, name, kind):
    """1e-4 relative, the formulas that are known to be wrong among them."""
    theirs, ours = (
        {key: value for group in made["eval_result_metrics"].values() for key, value in group.items()}
        for made in both(home, name, kind)
    )
    assert set(theirs) == set(ours)
    worst = {key: abs(ours[key] / value - 1) for key, value in theirs.items()}
    print(f"{name}, {kind}: " + ", ".join(f"{key} {worst[key]:.0e}" for key in sorted(worst, key=worst.get)[-4:]))
    assert {key for key, found in worst.items() if not found < 1e-4} <= APART[name], worst
    assert all(worst[key] < 0.01 for key in ("explained_variance", "explained_variance_legacy"))


@pytest.mark.parametrize("kind", KINDS)
def test_latents_of_its_core_evaluation(home, kind):
    theirs, ours = (made["eval_result_details"] for made in both(home, "every token", kind))
    for key in theirs[0]:
        np.testing.assert_allclose([one[key] for one in ours], [one[key] for one in theirs], atol=1e-6, err_msg=key)


def test_settings_of_its_core_evaluation(home):
    """What our files say of a run is how SAEBench has to be called for the same."""
    for name in RUNS:
        theirs, ours = (made["eval_config"] for made in both(home, name, "relu"))
        other = {"model_name", "dataset", "context_size"}
        assert {key: ours[key] for key in theirs.keys() - other} == {key: theirs[key] for key in theirs.keys() - other}


def test_its_loaders_and_plots(tmp_path, monkeypatch):
    """A run with probes: its dataclasses take every file in strict mode, its plots find the SAE in both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSAEVAL_CACHE", str(tmp_path / "cache"))
    keys = jax.random.split(jax.random.key(0), 2)
    parts = [jax.random.normal(key, (96, 60)) / 10 for key in keys]
    card = SAECard(name="random", hook="blocks.2.hook_resid_post", lm="tiny")
    sae = SAE(parts[0], jnp.zeros(60), parts[1].T, jnp.zeros(96), activation="topk", k=8, card=card)
    save_sae(sae, tmp_path / "random.safetensors")
    days = [f"Day {i}: the {'sun' if i % 3 else 'rain'} comes" for i in range(60)]
    pd.DataFrame({"text": days, "label": [i % 3 > 0 for i in range(60)]}).to_csv("weather.csv", index=False)
    np.save("tokens.npy", np.random.default_rng(0).integers(3, 500, (4, 32)).astype(np.int32))
    common = ["--lm", "tiny", "--sae", "random.safetensors", "--mesh", "1,1", "--out", "out"]
    assert main(["run", *common, "--tokens", "tokens.npy", "--no-controls"]) == 0
    ks = ["--k", "1", "--k", "2", "--k", "5", "--penalty", "l2"]
    assert main(["probe", *common, "--tasks", "weather.csv", "--probes", "k_sparse,dense", *ks]) == 0
    assert main(["report", "out", "--format", "saebench"]) == 0
    saebench("read", "out/saebench", "read.json")
    read = json.loads(Path("read.json").read_text())
    name = "random_custom_sae"
    for kind in ("core", "sparse_probing"):
        file = f"{kind}/{name}_eval_results.json"
        made = json.loads(Path("out/saebench", file).read_text())
        for key in ("eval_result_metrics", "eval_result_details", "sae_cfg_dict", "eval_result_unstructured"):
            assert without_none(read[file][key]) == without_none(made[key]), key
        assert made["eval_config"].items() <= read[file]["eval_config"].items()
    report = json.loads(Path("out/report.json").read_text())
    metrics = report["saes"][0]["metrics"]
    assert read["core"][name] == {
        id: metrics[ours]["value"] for id, ours in (("l0", "l0"), ("ce_loss_score", "ce_recovered_zero"))
    }
    for k in (1, 2, 5):
        (line,) = [
            own
            for own in report["probe_summary"]["overall"]
            if (own["features"], own["probe"], own["k"]) == ("latents", "k_sparse", k)
        ]
        assert read["eval"][name][f"sae_top_{k}_test_accuracy"] == line["accuracy"]["value"]
    assert read["eval"][name]["sae_class"] == "topk"
    assert {path.name for path in tmp_path.glob("plot*.png")} == {"plot_2var_sae_type.png", "plot_2var_dict_size.png"}


def without_none(tree):
    if isinstance(tree, dict):
        return {key: without_none(value) for key, value in tree.items() if value is not None}
    return [without_none(value) for value in tree] if isinstance(tree, list) else tree
