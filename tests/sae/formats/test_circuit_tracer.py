import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from jsaeval.errors import InputError
from jsaeval.sae.load import load_sae
from tests.sae.formats.check import agrees, inputs, random, relu, wide


D, M, D_OUT = 6, 20, 9
STATE = {"W_enc": random(M, D), "W_dec": random(M, D_OUT), "b_enc": random(M), "b_dec": random(D_OUT)}
SKIP, THRESHOLD = {"W_skip": random(D_OUT, D)}, {"activation_function.threshold": np.abs(random(M))}
CONFIG = {
    "model_name": "Qwen/Qwen3-0.6B",
    "model_kind": "transcoder_set",
    "feature_input_hook": "mlp.hook_in",
    "feature_output_hook": "hook_mlp_out",
}


def original(state, x):
    w = wide(state)
    p = x @ w["W_enc"].T + w["b_enc"]
    z = relu(p) * (p > w.get("activation_function.threshold", 0))
    return z, z @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if "W_skip" in w else 0)


def write(root, state, config=None, name="layer_7.safetensors"):
    save_file(state, root / name, metadata={"format": "pt"})
    if config:
        (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root / name


@pytest.mark.parametrize("extra", [{}, SKIP, THRESHOLD, SKIP | THRESHOLD])
def test_kinds(extra, tmp_path):
    x = inputs(D)
    sae = agrees(write(tmp_path, STATE | extra, CONFIG), x, *original(STATE | extra, x))
    assert (sae.card.hook, sae.card.hook_out) == ("blocks.7.mlp.hook_in", "blocks.7.hook_mlp_out")
    assert sae.card.lm == "Qwen/Qwen3-0.6B" and sae.card.name == f"{tmp_path.name}/layer_7"


def test_without_a_config_and_with_the_other_decoder(tmp_path):
    x = inputs(D)
    turned = STATE | {"W_dec": np.ascontiguousarray(STATE["W_dec"].T)} | SKIP
    sae = agrees(write(tmp_path, turned), x, *original(STATE | SKIP, x))
    assert sae.card.hook is None


def test_one_threshold_for_all(tmp_path):
    x, one = inputs(D), {"activation_function.threshold": np.full((1,), 0.2, np.float32)}
    agrees(write(tmp_path, STATE | one, CONFIG), x, *original(STATE | one, x))


@pytest.mark.parametrize(
    ("state", "config", "message"),
    [
        (STATE, CONFIG | {"model_kind": "cross_layer_transcoder"}, "'cross_layer_transcoder' is not supported"),
        (STATE | {"W_skip": random(D, D_OUT)}, CONFIG, "W_skip has shape"),
        (STATE | {"W_dec": random(M, 5)}, CONFIG, "b_dec has shape"),
    ],
)
def test_what_is_refused(state, config, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_sae(write(tmp_path, state, config))


def test_yaml_runs_nothing(tmp_path):
    path = write(tmp_path, STATE)
    (tmp_path / "config.yaml").write_text(f"model_name: !!python/object/apply:os.mkdir ['{tmp_path}/canary']")
    with pytest.raises(InputError, match="not valid YAML of plain values"):
        load_sae(path)
    assert not (tmp_path / "canary").exists()
