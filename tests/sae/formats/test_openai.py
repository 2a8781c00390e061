import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.sae.load import load_sae
from tests.sae.formats.check import agrees, inputs, random, relu, topk, wide
from tests.sae.formats.torch_file import write_legacy, write_torch


D, M, K = 6, 20, 4
STATE = {
    "pre_bias": random(D),
    "latent_bias": random(M),
    "encoder.weight": random(M, D),
    "decoder.weight": random(D, M),
    "stats_last_nonzero": np.zeros(M, np.int64),
}
TOPK = {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}


def original(state, x):
    w = wide({name: t for name, t in state.items() if isinstance(t, np.ndarray)})
    normalises = state.get("activation") == "TopK"
    mu = x.mean(1, keepdims=True)
    std = np.sqrt(((x - mu) ** 2).sum(1, keepdims=True) / (D - 1))  # torch divides by n - 1
    u = (x - mu) / (std + 1e-5) if normalises else x
    p = (u - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    z = topk(p, K) if normalises else relu(p)
    y = z @ w["decoder.weight"].T + w["pre_bias"]
    return z, y * std + mu if normalises else y


@pytest.mark.parametrize("write", [write_torch, write_legacy])
@pytest.mark.parametrize("extra", [{}, {"activation": "ReLU"}, TOPK])
def test_versions(extra, write, tmp_path):
    folder = tmp_path / ("resid_post_mlp_v5_32k" if "TopK" in extra.values() else "mlp_post_act") / "autoencoders"
    folder.mkdir(parents=True)
    state, x = STATE | extra, inputs(D)
    sae = agrees(write(folder / "8.pt", state), x, *original(state, x))
    site = "hook_resid_post" if "TopK" in extra.values() else "mlp.hook_post"
    assert (sae.card.hook, sae.card.lm, sae.card.format) == (f"blocks.8.{site}", "gpt2", "openai")
    assert sae.card.name == f"{folder.parent.name}/8"


@pytest.mark.parametrize(
    ("location", "site"),
    [("resid_delta_attn", "hook_attn_out"), ("resid_post_attn", "hook_resid_mid"), ("resid_delta_mlp", "hook_mlp_out")],
)
def test_locations(location, site, tmp_path):
    path = write_torch(tmp_path / f"{location}_v5_128k" / "autoencoders" / "0.pt", STATE | TOPK)
    assert load_sae(path).card.hook == f"blocks.0.{site}"
    assert load_sae(write_torch(tmp_path / "0.pt", STATE | TOPK)).card.hook is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"activation": "Identity"}, "activation 'Identity' is not supported"),
        ({"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "Identity"}}, "with a ReLU after it"),
        ({"activation": "TopK"}, "k belongs to topk"),
        ({"pre_bias": random(D + 1)}, "b_dec has shape"),
    ],
)
def test_what_is_refused(extra, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_sae(write_torch(tmp_path / "8.pt", STATE | extra))
