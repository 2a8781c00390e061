"""`jsaeval show` of a folder with a `config.json`: an SAE's, or an LM's."""

import json

import numpy as np

from jsaeval.report.describe import describe
from jsaeval.run.saes import find_saes
from tests.sae.formats.torch_file import write_torch
from tests.tiny import write_hf_folder


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_a_config_beside_an_sae_is_no_lms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"encoder.weight": random(20, 16), "encoder.bias": random(20), "decoder.weight": random(16, 20)}
    write_torch(tmp_path / "saes" / "trainer_0" / "ae.pt", state | {"bias": random(16)})
    trainer = {"dict_class": "AutoEncoder", "layer": 1, "submodule_name": "mlp1"}
    config = {"trainer": trainer, "buffer": {"io": "in_and_out"}}
    (tmp_path / "saes" / "trainer_0" / "config.json").write_text(json.dumps(config))
    write_hf_folder(tmp_path / "lm")
    assert describe("lm").startswith("language model")
    shown = describe("saes/trainer_0")
    assert shown.startswith("sparse autoencoder")
    for key, value in {
        "hook": "blocks.1.mlp.hook_in",
        "predicts": "model.layers.1.mlp.output",
        "format": "dictionary-learning (a torch file with the tensors of AutoEncoder)",
    }.items():
        assert f"\n{key:19}  {value}\n" in shown
    assert "affine skip" not in shown
    assert find_saes(["saes/*"])[0] == ("saes/trainer_0/ae.pt",)
    assert find_saes(["saes/trainer_0", "saes/trainer_0/ae.pt"])[0] == ("saes/trainer_0",)
