import dataclasses

import gguf
import jax
import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.lm import load as loading
from jsaeval.lm.gguf_weights import _NAMES, GGUFFile
from jsaeval.lm.load import load_lm, load_tokenizer
from tests.tiny import CONFIG, make_lm, random_tensors


CONFIG = dataclasses.replace(
    CONFIG, d_model=32, d_mlp=256, d_head=8, rotary_dims=8, vocab=300, norm_eps=float(np.float32(1e-5))
)
TYPES = gguf.GGMLQuantizationType
BYTES = [chr(b) for b in range(33, 127)]
TOKENS = ["<pad>", "<s>", "</s>", *BYTES, "Ġ", "Ċ", "Ġt", "he", "Ġthe"]
MERGES = ["Ġ t", "h e", "Ġt he"]


# Bytes of a block that hold its float16 scales, in the types that `gguf` reads but does not write.
SCALES = {TYPES.Q4_K: slice(0, 4), TYPES.Q5_K: slice(0, 4), TYPES.Q6_K: slice(-2, None)}


def quantise(tensor, kind):
    """As `gguf` does it; where it cannot, blocks of random bytes with sound scales: any block is a valid one."""
    if kind not in SCALES:
        return gguf.quants.quantize(tensor, kind)
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (tensor.size // weights, size), np.uint8)
    scale = np.full((len(blocks), 2), 0.001, np.float16).view(np.uint8)
    blocks[:, SCALES[kind]] = scale[:, : blocks[:, SCALES[kind]].shape[1]]
    return blocks.reshape(tensor.shape[0], -1)


def write(path, tensors, kind=TYPES.F32, family="llama", tokens=TOKENS, pre="smollm", leave_out=()):
    """A GGUF file; the llama family stores query and key rows in interleaved rotary order."""
    writer = gguf.GGUFWriter(path, family)
    numbers = {
        "block_count": CONFIG.n_blocks,
        "context_length": CONFIG.context,
        "embedding_length": CONFIG.d_model,
        "feed_forward_length": CONFIG.d_mlp,
        "attention.head_count": CONFIG.n_heads,
        "attention.head_count_kv": CONFIG.n_kv_heads,
        "attention.key_length": CONFIG.d_head,
    }
    for key, value in numbers.items():
        if key not in leave_out:
            writer.add_uint32(f"{family}.{key}", value)
    writer.add_float32(f"{family}.attention.layer_norm_rms_epsilon", CONFIG.norm_eps)
    writer.add_float32(f"{family}.rope.freq_base", CONFIG.rope_theta)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_merges(MERGES)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])
    for name, i in (("bos", 1), ("eos", 2), ("padding", 0)):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", i)
    theirs = {ours: name for name, ours in _NAMES.items()}
    for name, tensor in tensors.items():
        parts = name.removesuffix(".weight").split(".")
        own = (
            f"blk.{parts[2]}.{theirs['.'.join(parts[3:])]}"
            if "layers" in name
            else theirs[name.removesuffix(".weight")]
        )
        if family == "llama" and parts[-1] in ("q_proj", "k_proj"):
            heads = tensor.reshape(-1, 2, CONFIG.d_head // 2, CONFIG.d_model)
            tensor = np.swapaxes(heads, 1, 2).reshape(tensor.shape)
        fits = tensor.ndim == 2 and tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        quantised = kind if fits else TYPES.F32
        data = np.ascontiguousarray(tensor) if quantised == TYPES.F32 else quantise(tensor, quantised)
        writer.add_tensor(f"{own}.weight", data, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JSAEVAL_CACHE", str(tmp_path / "cache"))


def leaves(lm):
    return jax.tree.leaves(lm)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_file_equals_the_folder(tmp_path, family):
    """Names, orientation and the order of query and key rows."""
    config = dataclasses.replace(CONFIG, family=family)
    tensors = random_tensors(config, qk_norm=family == "qwen3")
    lm = load_lm(write(tmp_path / "lm.gguf", tensors, family=family))
    assert lm.config == config
    for ours, theirs in zip(leaves(lm), leaves(make_lm(config, tensors)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "kind",
    [TYPES.F16, TYPES.BF16, TYPES.Q8_0, TYPES.Q4_0, TYPES.Q4_1, TYPES.Q5_K, TYPES.Q4_K, TYPES.Q6_K],
    ids=lambda k: k.name,
)
def test_dequantisation_is_ggufs(tmp_path, kind):
    """Each type against the dequantisation of `gguf` itself: equal."""
    tensors = random_tensors(CONFIG)
    lm = load_lm(write(tmp_path / "lm.gguf", tensors, kind))
    matrix = tensors["model.layers.1.mlp.down_proj.weight"]
    expected = gguf.quants.dequantize(quantise(matrix, kind), kind)
    np.testing.assert_array_equal(lm.blocks.down[1], expected.reshape(matrix.shape).T)
    assert np.abs(expected).max() > 0 and np.abs(expected - matrix.reshape(expected.shape)).max() > 0


def test_the_second_start_reads_the_cache(tmp_path, monkeypatch):
    path = write(tmp_path / "lm.gguf", random_tensors(CONFIG))
    first = load_lm(path)
    ids = load_tokenizer(first).encode(["the"])
    monkeypatch.setattr(loading, "GGUFFile", None)  # not needed any more
    loading._gguf_tokenizer.cache_clear()
    second = load_lm(path)
    assert second.config == first.config and second.card == first.card
    for a, b in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert load_tokenizer(second).encode(["the"]) == ids


def test_a_damaged_cache_is_made_again(tmp_path):
    path = write(tmp_path / "lm.gguf", random_tensors(CONFIG))
    first = load_lm(path)
    (kept,) = (tmp_path / "cache" / "weights").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:1000])
    for a, b in zip(leaves(first), leaves(load_lm(path)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_tokenizer(tmp_path):
    tokenizer = load_tokenizer(load_lm(write(tmp_path / "lm.gguf", random_tensors(CONFIG))))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (1, 2, 0)
    (ids,) = tokenizer.encode(["a the 12"])
    assert [TOKENS[i] for i in ids] == ["a", "Ġthe", "Ġ", "1", "2"]  # smollm: digits stand alone
    assert tokenizer.decode(ids) == "a the 12"
    (ids,) = tokenizer.encode(["</s>"])
    assert not set(ids) & {0, 1, 2}  # a special token written out is only text


def test_files_that_are_refused(tmp_path):
    tensors = random_tensors(CONFIG)
    with pytest.raises(InputError, match="architecture 'phi3' is not supported"):
        load_lm(write(tmp_path / "a.gguf", tensors, family="phi3"))
    with pytest.raises(InputError, match=r"'llama\.block_count' is missing"):
        load_lm(write(tmp_path / "b.gguf", tensors, leave_out=("block_count",)))
    odd = load_lm(write(tmp_path / "c.gguf", tensors, pre="klingon"))
    with pytest.raises(InputError, match="splitting rule 'klingon' is not supported"):
        load_tokenizer(odd)
    whole = (tmp_path / "c.gguf").read_bytes()
    for size in (0, 10, 200, len(whole) // 2):
        (tmp_path / "d.gguf").write_bytes(whole[:size])
        with pytest.raises(InputError, match="not a whole GGUF file"):
            load_lm(tmp_path / "d.gguf")


def test_a_wrong_hash_of_a_named_model_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "lm.gguf", random_tensors(CONFIG))
    monkeypatch.setattr(loading, "wheel_member", lambda wheel, member: path)
    with pytest.raises(InputError, match="expected b179c9523d0e6a0f"):
        load_lm("smollm2-135m")


def test_an_unsupported_type_is_named(tmp_path):
    file = GGUFFile(write(tmp_path / "lm.gguf", random_tensors(CONFIG)))
    tensor = file._tensors["token_embd.weight"]
    file._tensors["token_embd.weight"] = tensor._replace(tensor_type=TYPES.Q8_K)
    with pytest.raises(InputError, match=r"'token_embd\.weight' is Q8_K"):
        file.tensors(CONFIG).read("model.embed_tokens.weight")
