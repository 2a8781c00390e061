"""Feature data: every key of SAEDashboard's classes with its type, and the limits of Neuronpedia's API."""

import json

import pytest

from jsaeval.errors import InputError
from jsaeval.report.dashboard import batch, write_dashboard
from jsaeval.report.neuronpedia import uploads
from tests.report.latents import ABOUT, make


INTS, FLOATS, STRINGS = (list, int), (list, float), (list, str)
BATCH = {"model_id": str, "layer": int, "sae_set": str, "sae_id_suffix": type(None), "features": (list, dict)}
FEATURE = {
    "feature_index": int,
    **{f"{of}_indices": INTS for of in ("neuron_alignment", "correlated_neurons", "correlated_features")},
    **{f"{of}_l1": FLOATS for of in ("neuron_alignment", "correlated_neurons", "correlated_features")},
    "neuron_alignment_values": FLOATS,
    "correlated_neurons_pearson": FLOATS,
    "correlated_features_pearson": FLOATS,
    **{f"{end}_str": STRINGS for end in ("neg", "pos")},
    **{f"{end}_values": FLOATS for end in ("neg", "pos")},
    "frac_nonzero": float,
    **{f"{of}_hist_data_bar_{what}": FLOATS for of in ("freq", "logits") for what in ("values", "heights")},
    "n_prompts_total": int,
    "n_tokens_in_prompt": int,
    "dataset": str,
    "decoder_weights_dist": FLOATS,
    "vector": FLOATS,
    "activations": (list, dict),
}
ACTIVATION = {
    **dict.fromkeys(("bin_min", "bin_max", "bin_contains"), float),
    "tokens": STRINGS,
    "values": FLOATS,
    "qualifying_token_index": int,
}


def check(found, keys):
    """Exactly these keys, of exactly these types; a bool is no int."""
    assert set(found) == set(keys)
    for key, kind in keys.items():
        if isinstance(kind, tuple):
            assert type(found[key]) is list and all(type(own) is kind[1] for own in found[key]), key
        else:
            assert type(found[key]) is kind, key


@pytest.fixture(scope="module")
def records():
    return [make(latent) for latent in range(3)]


def test_every_key_has_its_type(records):
    found = json.loads(json.dumps(batch(records, ABOUT), allow_nan=False))
    check(found, BATCH)
    assert (found["model_id"], found["layer"], found["sae_set"]) == ("tiny-LM", 1, "an-SAE")
    for own, record in zip(found["features"], records, strict=True):
        check(own, FEATURE)
        for activation in own["activations"]:
            check(activation, ACTIVATION)
            assert len(activation["tokens"]) == len(activation["values"])
            assert 0 <= activation["qualifying_token_index"] < len(activation["tokens"])
        assert own["frac_nonzero"] == record["density"] == 0.04
        assert own["pos_str"] == [top["text"] for top in record["logits"]["top"]]
        assert own["pos_values"] == sorted(own["pos_values"], reverse=True)
        assert own["neg_values"] == sorted(own["neg_values"])
        assert (own["n_prompts_total"], own["n_tokens_in_prompt"], own["dataset"]) == (12, 64, "news")


def test_groups(records):
    """Those with the largest activations first, then the intervals from the highest, open below and closed above."""
    (found,) = batch(records[1:2], ABOUT)["features"]
    groups = [(own["bin_min"], own["bin_max"], own["bin_contains"]) for own in found["activations"]]
    n_top = sum(own["kind"] == "top" for split in records[1]["examples"].values() for own in split)
    assert groups[:n_top] == [(-1.0, 4.0, -1.0)] * n_top and -1.0 not in [low for low, *_ in groups[n_top:]]
    assert groups[n_top:] == sorted(groups[n_top:], reverse=True) and len(groups) > n_top
    for own in found["activations"][n_top:]:
        assert own["bin_min"] < max(own["values"]) <= own["bin_max"] + 1e-6
    counts = records[1]["histogram"]["counts"]  # 40 bins: four in each of ten intervals
    for low, _, share in groups[n_top:]:
        first = round(low / 4 * 40)
        assert share == pytest.approx(sum(counts[first : first + 4]) / 1000)


def test_a_rare_latent_is_not_a_dead_one(records):
    """SAEDashboard reads a density back from a title of three decimals, where this one is 0."""
    (found,) = batch([records[0] | {"density": 3e-7}], ABOUT)["features"]
    assert found["frac_nonzero"] == 3e-7


def test_a_dead_latent_without_logits(records):
    dead = records[0] | {"logits": None, "density": 0.0, "fires": 0, "largest": 0.0, "examples": {}, "problem": "dead"}
    dead["histogram"] = {"edges": [0.0, 0.0], "counts": [0]}
    (found,) = batch([dead], ABOUT)["features"]
    check(found, FEATURE)
    assert not any(found[key] for key, value in found.items() if isinstance(value, list))
    bodies, notes = uploads([dead, records[1]], ABOUT)
    assert [own["index"] for own in bodies[0]["features"]] == [1] and notes == [
        "upload: left out, without activations or above 10,000,000: latents 0"
    ]
    assert uploads([dead], ABOUT)[0] == []


def test_files(records, tmp_path):
    many = [records[0] | {"latent": i} for i in range(130)] + [records[1] | {"floor": "random_sae"}]
    written = write_dashboard(tmp_path, many, ABOUT)
    names = [str(path.relative_to(tmp_path)) for path in written.paths]
    assert names == [
        *("batch-0.json", "batch-1.json", "upload-0.json", "upload-1.json"),
        *("random_sae/batch-0.json", "random_sae/upload-0.json"),
    ]
    sizes = [len(json.loads(path.read_text())["features"]) for path in written.paths]
    assert sizes == [128, 2, 128, 2, 1, 1] and written.notes == ()
    assert json.loads(written.paths[-2].read_text())["sae_set"] == "an-SAE-random_sae"
    with pytest.raises(InputError, match="no latents to write feature data of"):
        write_dashboard(tmp_path, [], ABOUT)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_dashboard(tmp_path / "file", records, ABOUT)


def check_upload(body):
    """The schema of the API."""
    assert set(body) == {"modelId", "source", "features"}
    assert body["modelId"] and body["modelId"] == body["modelId"].lower()
    assert body["source"] and body["source"] == body["source"].lower()
    indices = [own["index"] for own in body["features"]]
    assert 1 <= len(indices) <= 128 and len(set(indices)) == len(indices)
    for own in body["features"]:
        assert set(own) <= {"index", "density", "topLogits", "bottomLogits", "explanations", "activations"}
        assert type(own["index"]) is int and 0 <= own["index"] <= 10**7 and 0 <= own["density"] <= 1
        for key in ("topLogits", "bottomLogits"):
            assert len(own.get(key, [])) <= 20
            assert all(set(one) == {"token", "value"} and type(one["value"]) is float for one in own.get(key, []))
        for one in own.get("explanations", []):
            assert set(one) == {"text"} and 1 <= len(one["text"]) <= 512
        assert own["activations"]
        for one in own["activations"]:
            assert set(one) <= {"tokens", "values", "quantileMin", "quantileMax", "quantileFraction"}
            assert 1 <= len(one["tokens"]) <= 1024 and len(one["tokens"]) == len(one["values"])
            assert all(type(token) is str and token and "\x00" not in token for token in one["tokens"])
            assert 0 <= one.get("quantileFraction", 0) <= 1


def test_limits_of_an_upload():
    texts = ["", "\x00", "\ud800", " a", "ü"]
    nasty = make(1, token_text=lambda id: texts[id % 5], text="x" * 513)
    long = nasty["examples"]["score"][0]
    long |= {key: long[key] * 300 for key in ("ids", "text", "activations", "simulated")} | {"focus": 2300}
    nasty["logits"]["top"] *= 3
    silent = make(2, text=" ")
    bodies, notes = uploads([nasty, silent, make(10**7 + 1)], ABOUT)
    (body,) = json.loads(json.dumps(bodies))
    check_upload(body)
    json.dumps(body, ensure_ascii=False).encode()
    assert (body["modelId"], body["source"]) == ("tiny-lm", "1-an-sae")
    assert len(body["features"]) == 2 and "explanations" not in body["features"][1]
    lengths = [len(own["tokens"]) for own in body["features"][0]["activations"]]
    assert max(lengths) == 1024
    assert notes == [
        f"upload: left out, without activations or above 10,000,000: latents {10**7 + 1}",
        "upload: explanations cut to 512 characters: latents 1",
    ]
