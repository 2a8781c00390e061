import json

import pytest

from jsaeval.errors import InputError
from jsaeval.sae.load import load_sae
from tests.sae.formats.check import agrees, inputs, random, topk, wide
from tests.sae.formats.torch_file import bfloat16, write_torch


D, M, K = 6, 20, 3
STATE = {"W_enc": random(M, D), "W_dec": random(D, M), "b_enc": random(M), "b_dec": random(D)}


def original(state, x):
    """Linear layers under other names; the bias of the decoder is not subtracted."""
    w = wide(state)
    z = topk(x @ w["W_enc"].T + w["b_enc"], K)
    return z, z @ w["W_dec"].T + w["b_dec"]


def test_a_file_in_its_repository(tmp_path):
    path = write_torch(tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3" / "layer7.sae.pt", STATE)
    x = inputs(D)
    sae = agrees(path.parent, x, *original(STATE, x))
    assert (sae.card.hook, sae.card.lm) == ("blocks.7.hook_resid_post", "Qwen/Qwen3-1.7B-Base")
    assert (sae.k, sae.b_pre, json.loads(sae.card.declared)) == (K, None, {"l0": K})


def test_bfloat16(tmp_path):
    state = {name: bfloat16(t) for name, t in STATE.items()}
    x = inputs(D)
    agrees(write_torch(tmp_path / "L0_3" / "layer0.sae.pt", state), x, *original(state, x))


def test_one_of_several_has_to_be_named(tmp_path):
    for layer in range(12):
        write_torch(tmp_path / "W32K-L0_3" / f"layer{layer}.sae.pt", STATE)
    with pytest.raises(InputError, match=r"holds 12 SAEs \(layer0.sae.pt, .* and 4 more\); name one"):
        load_sae(tmp_path / "W32K-L0_3")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (STATE, "k is not in the file; put it into a folder called after its repository"),
        (STATE | {"W_enc": random(D, M)}, "not recognised"),
    ],
)
def test_what_is_refused(state, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_sae(write_torch(tmp_path / "elsewhere" / "layer7.sae.pt", state))
