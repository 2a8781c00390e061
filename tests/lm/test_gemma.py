"""Gemma folders: what their configurations mean, and where their weights go."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.lm.config import LinearRope
from jsaeval.lm.hf_config import decoder_config
from jsaeval.lm.load import load_lm
from tests.lm import oracle
from tests.lm.test_hf import same
from tests.tiny import GEMMA, GEMMA2, GEMMA3, HF_CONFIG, make_lm, random_tensors, write_hf_folder


LEFT_OUT = ("tie_word_embeddings", "hidden_act", "rope_theta", "torch_dtype")
SHARED = {key: value for key, value in HF_CONFIG.items() if key not in LEFT_OUT}
CONFIGS = {
    "gemma": SHARED | {"model_type": "gemma", "hidden_act": "gelu"},
    "gemma2": SHARED
    | {
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 5,
        "query_pre_attn_scalar": 11,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "cache_implementation": "hybrid",
    },
    "gemma3": SHARED
    | {
        "model_type": "gemma3_text",
        "sliding_window": 5,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 11,
        "rope_local_base_freq": 100.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
}
SHAPES = {"gemma": GEMMA, "gemma2": GEMMA2, "gemma3": GEMMA3}
THEIRS = {
    "self_attn.out_norm": "post_attention_layernorm",
    "post_attention_layernorm": "pre_feedforward_layernorm",
    "mlp.out_norm": "post_feedforward_layernorm",
}


def gemma_tensors(family):
    """Weights of a tiny Gemma under our names, and as a folder stores them: norms less 1, in bfloat16."""
    ours = random_tensors(SHAPES[family], out_norms=family != "gemma", qk_norm=family == "gemma3")
    stored = {}
    for name, tensor in ours.items():
        tensor = (tensor - 1 if name.endswith("norm.weight") else tensor).astype(ml_dtypes.bfloat16)
        ours[name] = tensor.astype(np.float32) + np.float32(name.endswith("norm.weight"))
        theirs = next((b for a, b in THEIRS.items() if a in name), None) if family != "gemma" else None
        stored[f"{name[: name.index('layers.') + 9]}{theirs}.weight" if theirs else name] = tensor
    return ours, stored


@pytest.mark.parametrize("family", CONFIGS)
def test_a_folder_loads(family, tmp_path):
    ours, stored = gemma_tensors(family)
    lm = load_lm(write_hf_folder(tmp_path / "lm", stored, CONFIGS[family]))
    assert lm.config == SHAPES[family] and lm.card.family == family
    same(lm, make_lm(SHAPES[family], ours))


def test_bfloat16_keeps_the_gain_of_norms(tmp_path, tokens):
    """1 + w is not rounded, and neither is the product with it: transformers rounds once, after."""
    ours, stored = gemma_tensors("gemma2")
    lm = load_lm(write_hf_folder(tmp_path / "lm", stored, CONFIGS["gemma2"]), jnp.bfloat16)
    np.testing.assert_array_equal(lm.final_norm, ours["model.norm.weight"])
    assert lm.blocks.attn_out_norm.dtype == jnp.float32 and lm.blocks.qkv.dtype == jnp.bfloat16
    residual, _ = jax.jit(lambda lm, t: lm.run(lm.embed(t), 0, 3))(lm, tokens)
    assert residual.dtype == lm.final(residual).dtype == jnp.bfloat16
    expected, _ = oracle.run(GEMMA2, ours, np.asarray(tokens[0]))
    exact = expected["blocks.2.hook_resid_post"]
    np.testing.assert_allclose(residual[0].astype(jnp.float32), exact, atol=0.05 * np.abs(exact).max())
    x = jnp.asarray(exact[None], jnp.bfloat16)
    wide = np.asarray(x[0], np.float32)
    normed = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + GEMMA2.norm_eps) * ours["model.norm.weight"]
    np.testing.assert_array_equal(lm.final(x)[0], normed.astype(ml_dtypes.bfloat16))


def test_a_norm_that_is_missing_is_named(tmp_path):
    _, stored = gemma_tensors("gemma2")
    stored = {name: tensor for name, tensor in stored.items() if "post_feedforward" not in name}
    with pytest.raises(InputError, match=r"0\.mlp\.out_norm\.weight' is missing"):
        load_lm(write_hf_folder(tmp_path / "lm", stored, CONFIGS["gemma2"]))


def test_both_spellings_of_gemma3():
    new = {k: v for k, v in CONFIGS["gemma3"].items() if k not in ("rope_local_base_freq", "rope_scaling")}
    new |= {
        "sliding_window_pattern": None,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    }
    assert decoder_config(new, "") == decoder_config(CONFIGS["gemma3"], "") == GEMMA3


@pytest.mark.parametrize("prefixes", [("language_model.model.", ""), ("model.language_model.", "model.")])
def test_the_language_model_of_one_that_sees_pictures(prefixes, tmp_path):
    """In the names of transformers 4 and 5."""
    own, other = prefixes
    ours, stored = gemma_tensors("gemma3")
    stored = {name.replace("model.", own, 1): tensor for name, tensor in stored.items()}
    stored |= {f"{other}vision_tower.a.weight": np.zeros(3), f"{other}multi_modal_projector.b": np.zeros(3)}
    config = {"model_type": "gemma3", "text_config": CONFIGS["gemma3"], "vision_config": {}, "eos_token_id": [1, 5]}
    lm = load_lm(write_hf_folder(tmp_path / "lm", stored, config))
    assert lm.config == GEMMA3 and lm.card.eos == 1
    same(lm, make_lm(GEMMA3, ours))


def test_what_is_left_out():
    """As in the folder of gemma-3-4b, whose `text_config` states six numbers."""
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = decoder_config({"model_type": "gemma3", "text_config": text, "mm_tokens_per_image": 256}, "")
    assert (config.n_heads, config.n_kv_heads, config.d_head, config.vocab) == (8, 4, 256, 262_208)
    assert (config.rope_theta, config.local_rope_theta, config.query_scalar) == (1e6, 1e4, 256.0)
    assert config.windows is not None and [i for i, w in enumerate(config.windows) if not w] == [5, 11, 17, 23, 29]
    assert config.rope_scaling == LinearRope(8.0) and config.logit_cap is None and config.tied_embedding


def test_windows_of_gemma2():
    config = decoder_config(CONFIGS["gemma2"] | {"num_hidden_layers": 4}, "")
    assert config.windows == (5, 0, 5, 0)
    assert dataclasses.replace(config, n_blocks=3, windows=(5, 0, 5)) == GEMMA2


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True is not supported"),
        ("gemma3", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping = 5.0 is not supported"),
        ("gemma3", {"sliding_window": None}, "a gemma3 without a sliding_window"),
        ("gemma", {"hidden_act": "silu"}, "hidden_act = 'silu' is not supported"),
        ("gemma", {"sliding_window": 3}, "unknown attribute.s. sliding_window"),
        ("gemma3", {"rope_parameters": {"some_attention": {}}}, "unknown rope attribute.s. some_attention"),
        ("gemma3", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn' in some blocks only"),
    ],
)
def test_configurations_that_are_refused(family, change, words):
    with pytest.raises(InputError, match=words):
        decoder_config(CONFIGS[family] | change, "config.json")
