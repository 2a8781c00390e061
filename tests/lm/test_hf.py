import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from jsaeval.errors import InputError
from jsaeval.lm.config import Llama3Rope
from jsaeval.lm.hf_config import decoder_config
from jsaeval.lm.load import load_lm, load_tokenizer
from jsaeval.lm.weights import LazyArray, Tensors, build, stack
from jsaeval.mesh import make_mesh, place
from tests.tiny import CARD, CONFIG, GEMMA3, HF_CONFIG, make_lm, random_tensors, write_hf_folder


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LLAMA3 |= {"rope_type": "llama3"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def same(a, b):
    assert jax.tree.structure(a.blocks) == jax.tree.structure(b.blocks)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_folder_loads(tmp_path):
    folder = write_hf_folder(tmp_path / "lm")
    lm = load_lm(folder)
    assert lm.config == CONFIG
    same(lm, make_lm(CONFIG, random_tensors()))
    assert (lm.card.bos, lm.card.eos, lm.card.pad, lm.card.context) == (1, 2, 0, 64)
    assert lm.card.special_ids == (0, 1, 2)
    assert len(lm.card.sha256) == 64 and load_lm(write_hf_folder(tmp_path / "same")).card.sha256 == lm.card.sha256
    # The same weights with another shape are another LM: whatever is kept of one is not used for the other.
    other = load_lm(write_hf_folder(tmp_path / "other", config=HF_CONFIG | {"rope_theta": 500.0}))
    np.testing.assert_array_equal(other.embedding, lm.embedding)
    assert other.card.sha256 != lm.card.sha256
    assert load_lm(folder, jnp.bfloat16).embedding.dtype == jnp.bfloat16


def test_shards_load_like_one_file(tmp_path):
    tensors = random_tensors()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    folder = write_hf_folder(tmp_path / "lm")
    whole = load_lm(folder)
    (folder / "model.safetensors").unlink()
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, folder / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    same(load_lm(folder), whole)
    (folder / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b\.safetensors is missing"):
        load_lm(folder)


def test_names_without_prefix_load(tmp_path):
    config = HF_CONFIG | {"tie_word_embeddings": True}
    tensors = {k.removeprefix("model."): v for k, v in random_tensors().items() if k != "lm_head.weight"}
    lm = load_lm(write_hf_folder(tmp_path / "lm", tensors, config))
    assert lm.lm_head is None
    np.testing.assert_array_equal(lm.unembedding, random_tensors()["model.embed_tokens.weight"])


def test_the_tokenizer_of_a_folder(tmp_path):
    folder = write_hf_folder(tmp_path / "lm")
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        load_tokenizer(load_lm(folder))
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "red": 3, "blue": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "</s>", "eos_token": {"content": "<s>"}}))
    lm = load_lm(folder)
    assert (lm.card.bos, lm.card.eos, lm.card.pad) == (2, 1, 0)  # names first, then the numbers of config.json
    assert load_tokenizer(lm).encode(["red blue", "blue"]) == [[3, 4], [4]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logit_scale": 2.0}, "unknown attribute.s. logit_scale"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ({"partial_rotary_factor": 0.5}, "unknown attribute.s. partial_rotary_factor"),
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "not supported .default, linear, llama3, yarn"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta": 1}}, "unknown rope attribute.s. beta"),
        ({"rope_theta": 0}, "rope theta = 0; a positive number was expected"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope factor = 0; a positive number was expected"),
        ({"rope_scaling": YARN | {"factor": 0}}, "rope factor = 0; a positive number was expected"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": 0}}, "rope original context = 0; a positive"),
        ({"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 0}}, "rope original context = 0;"),
        ({"rope_scaling": LLAMA3 | {"factor": float("inf")}}, "rope factor = inf; a positive number was expected"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1}}, "low_freq_factor = 1 is not below high_freq_factor = 1"),
        ({"hidden_size": None}, "wrong type"),
        ({"num_attention_heads": 0, "head_dim": None}, "wrong type"),
        ({"num_hidden_layers": 0}, "a size below 1"),
        ({"model_type": ["llama"]}, "is not supported"),
        ({"model_type": "mistral", "sliding_window": 4, "layer_types": ["full_attention"]}, "1 of them for 3 blocks"),
        ({"model_type": "mistral", "sliding_window": 4, "layer_types": ["foo"] * 3}, "layer_types .'foo'."),
    ],
)
def test_configurations_that_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        decoder_config(HF_CONFIG | change, "config.json")


def test_a_missing_attribute_is_named():
    config = {k: v for k, v in HF_CONFIG.items() if k != "intermediate_size"}
    with pytest.raises(InputError, match="'intermediate_size' is missing"):
        decoder_config(config, "config.json")


def test_both_spellings_of_the_rotary_parameters():
    old = HF_CONFIG | {"rope_theta": 5e5, "rope_scaling": LLAMA3}
    new = {k: v for k, v in HF_CONFIG.items() if k != "rope_theta"}
    new["rope_parameters"] = {"rope_theta": 5e5} | LLAMA3
    expected = dataclasses.replace(CONFIG, rope_theta=5e5, rope_scaling=Llama3Rope(8.0, 1.0, 4.0, 8192))
    assert decoder_config(old, "old") == decoder_config(new, "new") == expected


def test_windows_by_family():
    mistral = HF_CONFIG | {"model_type": "mistral", "sliding_window": 5}
    assert decoder_config(mistral, "").windows == (5, 5, 5)
    assert decoder_config(mistral | {"sliding_window": None}, "").windows is None
    qwen = HF_CONFIG | {"model_type": "qwen2", "sliding_window": 5, "max_window_layers": 1}
    assert decoder_config(qwen | {"use_sliding_window": False}, "").windows is None
    assert decoder_config(qwen | {"use_sliding_window": True}, "").windows == (0, 5, 5)
    typed = qwen | {
        "use_sliding_window": True,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    }
    assert decoder_config(typed, "").windows == (0, 5, 0)


def change_tensor(name, change):
    tensors = random_tensors()
    tensors[name] = change(tensors[name].copy())
    return tensors


def set_nan(x):
    x[0] = np.nan
    return x


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (change_tensor("model.norm.weight", set_nan), "NaN or Inf in the weights .final_norm"),
        (change_tensor("model.norm.weight", lambda x: x[:5]), r"shape \(5,\), the configuration says \(16,\)"),
        ({k: v for k, v in random_tensors().items() if "1.mlp.up" not in k}, "1.mlp.up_proj.weight' is missing"),
        (random_tensors() | {"model.layers.0.self_attn.sinks": np.zeros(16, np.float32)}, "has no place"),
    ],
    ids=["nan", "shape", "missing", "unused"],
)
def test_weights_that_are_refused(tmp_path, tensors, words):
    with pytest.raises(InputError, match=words):
        load_lm(write_hf_folder(tmp_path / "lm", tensors))


def test_damaged_folders(tmp_path):
    folder = write_hf_folder(tmp_path / "lm")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_lm(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle and is not opened"):
        load_lm(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_lm(folder)
    with pytest.raises(InputError, match="did you mean 'smollm2-135m'"):
        load_lm("smollm2-125m")
    with pytest.raises(InputError, match="no such file"):
        load_lm(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize("kind", ["llama", "biases", "gemma3"])
def test_weights_are_read_straight_into_their_shards(kind, tmp_path, monkeypatch):
    """Split and padded on a mesh: the same numbers, and never more read at a time than a device holds."""
    config, tensors = CONFIG, random_tensors(bias=True, qk_norm=True)
    if kind == "biases":
        config = dataclasses.replace(CONFIG, n_heads=5, n_kv_heads=5, d_mlp=23, vocab=51, gated=False)
        tensors = random_tensors(config, biases=True)
    elif kind == "gemma3":
        config, tensors = GEMMA3, random_tensors(GEMMA3, qk_norm=True, out_norms=True)
    source = Tensors(frozenset(tensors), tensors.__getitem__, "tiny")
    arrays, mesh, read = stack(config, source), make_mesh(2, 4), {}

    def recorded(name, array):
        def take(index):
            part = array[index]
            read[name] = max(read.get(name, 0), part.size)
            return part

        return LazyArray(array.shape, take)

    lm = build(
        config, {name: recorded(name, array) for name, array in arrays.items()}, CARD, jnp.dtype(jnp.float32), mesh
    )
    expected = place(make_lm(config, tensors), mesh)
    same(lm, expected)
    for x, y in zip(jax.tree.leaves(lm), jax.tree.leaves(expected), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    for name, size in read.items():
        owner = lm.blocks if name.startswith("blocks.") else lm
        array = getattr(owner, name.removeprefix("blocks."))
        assert size <= array.addressable_shards[0].data.size, name


def test_any_part_of_an_array(tmp_path):
    """`array[index]` is what indexing the whole array gives."""
    tensors = random_tensors(bias=True)
    rng = np.random.default_rng(0)
    for array in stack(CONFIG, Tensors(frozenset(tensors), tensors.__getitem__, "tiny")).values():
        whole = array.whole()
        assert whole.shape == array.shape
        for _ in range(5):
            ends = [sorted(rng.integers(0, size + 1, 2)) for size in array.shape]
            index = tuple(slice(int(a), int(b)) if b > a else slice(None) for a, b in ends)
            np.testing.assert_array_equal(array[index], whole[index])
