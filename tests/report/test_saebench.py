"""Files for SAEBench: every key that it needs, our numbers under its names, and nothing that was not measured."""

import json

import numpy as np
import pandas as pd
import pytest

from jsaeval.cli import main
from jsaeval.metrics.registry import REGISTRY
from jsaeval.report.saebench import write_saebench
from jsaeval.run.folder import to_text
from jsaeval.sae.load import load_sae, save_sae
from tests.report.test_probe_page import fake_report, fake_task
from tests.tiny import tiny_sae, write_hf_folder


CORE = {
    "model_behavior_preservation": ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": (
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    ),
    "reconstruction_quality": ("explained_variance", "explained_variance_legacy", "mse", "cossim"),
    "shrinkage": ("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1"),
    "token_stats": ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"),
    "misc_metrics": (
        "freq_over_1_percent",
        "freq_over_10_percent",
        "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim",
        "frac_alive",
    ),
}
DETAIL = {"index", "feature_density", "consistent_activation_heuristic", "encoder_bias", "encoder_norm"}
DETAIL |= {"encoder_decoder_cosine_sim", "max_decoder_cosine_sim", "max_encoder_cosine_sim"}
TOP = {"eval_type_id", "eval_config", "eval_id", "datetime_epoch_millis", "eval_result_metrics", "eval_result_details"}
TOP |= {"sae_bench_commit_hash", "sae_lens_id", "sae_lens_release_id", "sae_lens_version", "sae_cfg_dict"}
TOP |= {"eval_result_unstructured"}
ROWS = 19  # a batch of SAEBench and a part of another


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of two SAEs and of one that fails."""
    home = tmp_path_factory.mktemp("home")
    write_hf_folder(home / "lm")
    (home / "saes" / "deep").mkdir(parents=True)
    save_sae(tiny_sae("relu"), home / "saes" / "relu.safetensors")
    save_sae(tiny_sae("topk", d_sae=120), home / "saes" / "deep" / "topk.safetensors")
    (home / "saes" / "bad.safetensors").write_bytes(b"nothing")
    rows = np.random.default_rng(0).integers(2, 50, (ROWS, 12)).astype(np.int32)
    rows[:, 0] = 1
    np.save(home / "tokens.npy", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        saes = [part for name in ("relu", "deep/topk", "bad") for part in ("--sae", f"saes/{name}.safetensors")]
        run = ["run", "--lm", "lm", "--tokens", "tokens.npy", "--mesh", "1,1", "--no-controls"]
        assert main([*run, *saes, "--metrics", "norms,reconstruction,loss,latents", "--out", "run"]) == 3
    return home


@pytest.fixture
def here(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def read(folder, kind):
    """Files of an evaluation by name; a constant that is no JSON fails."""

    def refuse(name):
        raise AssertionError(name)

    files = sorted((folder / "saebench" / kind).iterdir())
    return {file.name: json.loads(file.read_text(), parse_constant=refuse) for file in files}


def export(folder):
    """What is written, by path below the folder of the export, and the notes."""
    written = write_saebench(folder)
    names = [str(path.relative_to(folder / "saebench")) for path in written.paths]
    return {name: read(folder, name.split("/")[0])[name.split("/")[1]] for name in names}, written.notes


def test_core_files(here, capsys):
    assert main(["report", "run", "--format", "saebench"]) == 0
    out, err = capsys.readouterr()
    assert out == "run/saebench/core\n"
    assert "holds no probes, so there are no sparse_probing files" in err and "bad: left out, it failed" in err
    report = json.loads((here / "run" / "report.json").read_text())
    files = read(here / "run", "core")
    assert list(files) == ["deep_topk_custom_sae_eval_results.json", "relu_custom_sae_eval_results.json"]
    rows, latents = (pd.read_parquet(here / "run" / f"{name}.parquet") for name in ("rows", "latents"))
    for name, sae in (("relu", report["saes"][0]), ("deep_topk", report["saes"][1])):
        made = files[f"{name}_custom_sae_eval_results.json"]
        assert set(made) == TOP and made["eval_type_id"] == "core"
        assert (made["sae_lens_release_id"], made["sae_lens_id"]) == (sae["name"], "custom_sae")
        metrics = made["eval_result_metrics"]
        assert {name: set(keys) for name, keys in CORE.items()} == {name: set(keys) for name, keys in metrics.items()}
        check_values(metrics, sae["metrics"], rows[rows["sae"] == sae["name"]])
        check_latents(made, sae, latents[latents["sae"] == sae["name"]])
        config = made["eval_config"]
        assert config["exclude_special_tokens_from_reconstruction"] and config["context_size"] == 12
        assert config["batch_size_prompts"] == 16 and config["n_eval_reconstruction_batches"] == 2
        assert made["sae_cfg_dict"]["hook_layer"] == 1 and made["sae_cfg_dict"]["d_sae"] == sae["d_sae"]
        assert made["eval_result_unstructured"]["metrics"] == sae["metrics"]
    assert files["relu_custom_sae_eval_results.json"]["sae_cfg_dict"]["architecture"] == "standard"
    topk = next(iter(files.values()))
    assert topk["sae_cfg_dict"]["architecture"] == "topk" and topk["sae_cfg_dict"]["k"] == 5
    assert 0 < topk["eval_result_metrics"]["misc_metrics"]["freq_over_10_percent"] < 0.5


def check_values(metrics, ours, rows):
    flat = {key: value for group in metrics.values() for key, value in group.items()}
    same = {
        "kl_div_score": "kl_recovered_zero",
        "kl_div_with_sae": "downstream_loss",
        "ce_loss_score": "ce_recovered_zero",
        "ce_loss_with_sae": "ce_spliced",
        "ce_loss_without_sae": "ce_clean",
        "explained_variance": "explained_variance_saebench_0_6",
        "explained_variance_legacy": "explained_variance_legacy",
        "cossim": "cosine",
        "l2_ratio": "l2_ratio",
        "relative_reconstruction_bias": "relative_bias",
        "l0": "l0",
        "l1": "l1",
        "frac_alive": "alive",
        "freq_over_10_percent": "dense",
    }
    assert {key: flat[key] for key in same} == {key: ours[id]["value"] for key, id in same.items()}
    for key, column in (("l2_norm_in", "x_norm"), ("l2_norm_out", "xhat_norm")):
        assert flat[key] == pytest.approx(rows[column].sum() / ours["mse"]["n"], rel=1e-12) and flat[key] > 0
    assert flat["total_tokens_eval_reconstruction"] == ROWS * 12
    # The scores are made of what stands beside them.
    ablated = flat["kl_div_with_ablation"]
    assert 1 - flat["kl_div_with_sae"] / ablated == pytest.approx(flat["kl_div_score"], rel=1e-9)
    lost = flat["ce_loss_with_ablation"] - flat["ce_loss_with_sae"]
    assert lost / (flat["ce_loss_with_ablation"] - flat["ce_loss_without_sae"]) == pytest.approx(flat["ce_loss_score"])
    batches, total = [rows.iloc[:16], rows.iloc[16:]], 0.0
    for batch in batches:
        total += sum(map(sum, batch["sse"])) / sum(map(sum, batch["n"]))
    assert flat["mse"] == pytest.approx(total / ours["mse"]["n"], rel=1e-12)


def check_latents(made, sae, table):
    details, misc = made["eval_result_details"], made["eval_result_metrics"]["misc_metrics"]
    assert [line["index"] for line in details] == list(range(sae["d_sae"]))
    assert all(set(line) == DETAIL for line in details)
    density = np.array([line["feature_density"] for line in details])
    np.testing.assert_array_equal(density, table["density"])
    assert misc["freq_over_1_percent"] == (density > 0.01).mean()
    assert misc["normalized_freq_over_10_percent"] == pytest.approx(density[density > 0.1].sum() / density.sum())
    loaded = load_sae(sae["source"]["path"])
    encoder, decoder = np.asarray(loaded.W_enc).T, np.asarray(loaded.W_dec)
    norms = np.linalg.norm(encoder, axis=1)
    unit = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    cosines = unit @ unit.T - 9 * np.eye(len(unit))
    for key, expected in (
        ("encoder_bias", np.asarray(loaded.b_enc)),
        ("encoder_norm", norms),
        ("encoder_decoder_cosine_sim", (encoder / norms[:, None] * unit).sum(axis=1)),
        ("max_decoder_cosine_sim", cosines.max(axis=1)),
    ):
        np.testing.assert_allclose([line[key] for line in details], expected, rtol=1e-5, atol=1e-6)
    assert misc["average_max_decoder_cosine_sim"] == pytest.approx(cosines.max(axis=1).mean(), rel=1e-5)
    per_row = [line["consistent_activation_heuristic"] for line in details]
    fires, rows = (table[name].to_numpy() for name in ("fires", "rows"))
    assert per_row == [a / b if b else -1 for a, b in zip(fires.tolist(), rows.tolist(), strict=True)]
    assert (fires >= rows).all() and (fires > rows).any() and rows.max() <= ROWS
    assert made["eval_result_unstructured"]["not_measured"] == []


def test_a_run_of_an_earlier_version(here, tmp_path):
    """It has no sums of norms, and no counts of rows."""
    (tmp_path / "report.json").write_bytes((here / "run" / "report.json").read_bytes())
    for name, columns in (("rows", ["x_norm", "xhat_norm"]), ("latents", ["rows"])):
        table = pd.read_parquet(here / "run" / f"{name}.parquet")
        table.drop(columns=columns).to_parquet(tmp_path / f"{name}.parquet")
    for made in export(tmp_path)[0].values():
        shrinkage = made["eval_result_metrics"]["shrinkage"]
        assert shrinkage["l2_norm_in"] == shrinkage["l2_norm_out"] == -1 < shrinkage["l2_ratio"]
        assert {line["consistent_activation_heuristic"] for line in made["eval_result_details"]} == {-1}
        missing = ["shrinkage.l2_norm_in", "shrinkage.l2_norm_out", "details.consistent_activation_heuristic"]
        assert made["eval_result_unstructured"]["not_measured"] == missing


def test_the_same_report_makes_the_same_file(here):
    first = export(here / "run")
    assert export(here / "run") == first and len({own["eval_id"] for own in first[0].values()}) == 1


def test_without_the_file_of_an_sae(here, monkeypatch, tmp_path):
    """Another SAE under its name is not taken for it, either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saes").mkdir()
    save_sae(tiny_sae("relu", seed=5), tmp_path / "saes" / "relu.safetensors")
    files, notes = export(here / "run")
    assert any("relu.safetensors has changed since the run" in note for note in notes)
    assert any("topk.safetensors': no such file" in note for note in notes)
    for content in files.values():
        line, misc = content["eval_result_details"][0], content["eval_result_metrics"]["misc_metrics"]
        assert {line[key] for key in DETAIL if "coder" in key} == {-1}
        assert misc["average_max_encoder_cosine_sim"] == -1 < misc["frac_alive"]
        assert "details.encoder_norm" in content["eval_result_unstructured"]["not_measured"]


def test_an_undefined_value_is_minus_one(here, tmp_path):
    copied = tmp_path / "run"
    copied.mkdir()
    for name in ("rows.parquet", "latents.parquet"):
        (copied / name).write_bytes((here / "run" / name).read_bytes())
    report = json.loads((here / "run" / "report.json").read_text())
    report["saes"][0]["metrics"]["ce_recovered_zero"]["value"] = None
    (copied / "report.json").write_text(to_text(report))
    made = export(copied)[0]["core/relu_custom_sae_eval_results.json"]
    assert made["eval_result_metrics"]["model_performance_preservation"]["ce_loss_score"] == -1


def test_one_line_where_there_is_nothing_to_make(here, capsys, tmp_path):
    assert main(["report", str(tmp_path), "--format", "saebench"]) == 2
    assert "no report.json in it" in capsys.readouterr().err
    report = json.loads((here / "run" / "report.json").read_text())
    metrics = report["saes"][1]["metrics"]
    kept = ("norms", "reconstruction")
    report["saes"][1]["metrics"] = {id: own for id, own in metrics.items() if REGISTRY[id].needs in kept}
    (tmp_path / "report.json").write_text(to_text(report))
    assert main(["report", str(tmp_path), "--format", "saebench"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}: nothing for SAEBench; the run lacks loss and latents" in line and "holds no probes" in line
    assert not (tmp_path / "saebench").exists()
    assert main(["report", "run", "--format", "csv"]) == 2
    assert "saebench" in capsys.readouterr().err


def probed(home, tmp_path, which=None, run=False, saes=1):
    """A folder with probes, alone or beside those of the run."""
    results = [fake_task(name, "place", saes) for name in ("first", "second")]
    report = fake_report(results, saes=saes)
    report["probe_summary"]["provenance"] = {"dtype": "float32"}
    if run:
        text = json.dumps(report).replace('"sae 1"', '"deep/topk"')
        probes = json.loads(text)
        report = json.loads((home / "run" / "report.json").read_text())
        report |= {key: probes[key] for key in ("probes", "probe_summary")}
        for name in ("rows.parquet", "latents.parquet"):
            (tmp_path / name).write_bytes((home / "run" / name).read_bytes())
    else:
        for sae in report["saes"]:
            sae |= {"architecture": "relu", "d_in": 16, "d_sae": 1000}
    (tmp_path / "report.json").write_text(to_text(report))
    return report


def test_probe_files(here, tmp_path, capsys):
    report = probed(here, tmp_path, saes=2)
    assert main(["report", str(tmp_path), "--format", "saebench"]) == 0
    err = capsys.readouterr().err
    assert "holds no run, so there are no core files" in err and "no probes of k = 2, 5" in err
    files = read(tmp_path, "sparse_probing")
    assert list(files) == [f"sae {i}_custom_sae_eval_results.json" for i in (1, 2)]
    made = files["sae 2_custom_sae_eval_results.json"]
    assert set(made) == TOP and made["eval_type_id"] == "sparse_probing"
    assert made["eval_config"]["dataset_names"] == ["first", "second"] and made["eval_config"]["k_values"] == [1]

    def accuracy(lines, sae, features, probe, k, penalty):
        (found,) = [
            line["accuracy"]["value"]
            for line in lines
            if (line["sae"], line["features"], line["probe"], line["k"]) == (sae, features, probe, k)
            and line["penalty"] == penalty
        ]
        return found

    asked = {
        "llm_test_accuracy": (None, "x", "dense", None, "l2"),
        "llm_top_1_test_accuracy": (None, "x", "k_sparse", 1, "l2"),
        "sae_test_accuracy": ("sae 2", "latents", "dense", None, "l2"),
        "sae_top_1_test_accuracy": ("sae 2", "latents", "k_sparse", 1, "l2"),
    }
    metrics = made["eval_result_metrics"]
    overall = {key: accuracy(report["probe_summary"]["overall"], *own) for key, own in asked.items()}
    assert metrics["llm"] | metrics["sae"] == overall
    assert set(metrics["llm"]) == {key for key in asked if key.startswith("llm")}
    for line, task in zip(made["eval_result_details"], ("first", "second"), strict=True):
        own = [probe for probe in report["probes"] if probe["task"] == task]
        assert line == {"dataset_name": task} | {key: accuracy(own, *which) for key, which in asked.items()}
    means = [np.mean([line[key] for line in made["eval_result_details"]]) for key in asked]
    np.testing.assert_allclose(means, [overall[key] for key in asked], rtol=1e-12)
    assert "sae_top_16_test_accuracy" in made["eval_result_unstructured"]["accuracy"]


def test_a_run_with_probes_has_files_of_one_name(here, tmp_path):
    probed(here, tmp_path, run=True)
    files, _ = export(tmp_path)
    name = "deep_topk_custom_sae_eval_results.json"
    assert {file for file in files if name in file} == {f"core/{name}", f"sparse_probing/{name}"}
    assert len(files) == 3


def test_probes_that_do_not_suffice(here, tmp_path):
    report = probed(here, tmp_path)
    report["probes"] = [line for line in report["probes"] if line["probe"] != "dense"]
    report["probe_summary"]["overall"] = [
        line for line in report["probe_summary"]["overall"] if line["probe"] != "dense"
    ]
    (tmp_path / "report.json").write_text(to_text(report))
    (made,) = export(tmp_path)[0].values()
    assert made["eval_result_metrics"]["llm"]["llm_test_accuracy"] == -1  # SAEBench cannot do without it
    assert "sae_test_accuracy" not in made["eval_result_metrics"]["sae"]
    report["probes"] = [line for line in report["probes"] if line["probe"] == "single"]
    (tmp_path / "report.json").write_text(to_text(report))
    assert main(["report", str(tmp_path), "--format", "saebench"]) == 2


def test_names(here, tmp_path):
    """A public SAE goes by release and id, no file is written over that of another SAE, a transcoder has two hooks."""
    report = probed(here, tmp_path, saes=3)
    text = json.dumps(report).replace("sae 1", "release/some/id").replace("sae 2", "a/b").replace("sae 3", "a_b")
    report = json.loads(text)
    report["provenance"]["plan"]["sae"] = ["release/some/id", "a/b", "a_b"]
    for sae, path in zip(report["saes"], ("/hub/snapshots/f00", "a/b", "a_b"), strict=True):
        sae["source"]["path"] = path
    report["saes"][2]["hook"] = "blocks.1.hook_resid_mid:hook_mlp_out"
    (tmp_path / "report.json").write_text(to_text(report))
    made, _ = export(tmp_path)
    assert [(own["sae_lens_release_id"], own["sae_lens_id"]) for own in made.values()] == [
        ("release", "some/id"),
        ("a/b", "custom_sae"),
        ("a_b (2)", "custom_sae"),
    ]
    hooks = [own["sae_cfg_dict"].get("hook_name_out") for own in made.values()]
    assert hooks == [None, None, "blocks.1.hook_mlp_out"]
    assert next(iter(made)) == "sparse_probing/release_some_id_eval_results.json" and len(made) == 3


def test_a_path_that_their_plots_misread(here, tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    probed(here, folder)
    assert any("see 'scr' in its path" in note and "1 of 1 files" in note for note in export(folder)[1])
    assert any("'scr'" in note for note in export(here / "run")[1]) == ("scr" in str(here.resolve()))
