import dataclasses
import functools
import itertools
from types import SimpleNamespace

import gguf
import jax
import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.lm import load as loading
from jsaeval.lm.gguf_weights import _NAMES, GGUFFile
from jsaeval.lm.load import load_lm, load_tokenizer
from tests.tiny import CONFIG, GEMMA, GEMMA2, GEMMA3, make_lm, random_tensors


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


def byte_level(writer, tokens=TOKENS, pre="smollm"):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_merges(MERGES)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])


def sentencepiece(writer, vocabulary, space_prefix):
    """`vocabulary`: tokens with their scores and kinds."""
    tokens, scores, kinds = zip(*vocabulary, strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(space_prefix)


def write(path, tensors, kind=TYPES.F32, config=CONFIG, more=None, tokenizer=byte_level, leave_out=()):
    """A GGUF file; the llama family stores query and key rows in interleaved rotary order."""
    family = config.family
    writer = gguf.GGUFWriter(path, family)
    metadata = {
        "block_count": config.n_blocks,
        "context_length": config.context,
        "embedding_length": config.d_model,
        "feed_forward_length": config.d_mlp,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.d_head,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.freq_base": config.rope_theta,
        **(more or {}),
    }
    adders = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
    for key, value in metadata.items():
        if key not in leave_out:
            adders[type(value)](f"{family}.{key}", value)
    tokenizer(writer)
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
            heads = tensor.reshape(-1, 2, config.d_head // 2, config.d_model)
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
    lm = load_lm(write(tmp_path / "lm.gguf", tensors, config=config))
    assert lm.config == config
    for ours, theirs in zip(leaves(lm), leaves(make_lm(config, tensors)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


GEMMA_FILES = {
    "gemma": (GEMMA, {}, {}),
    "gemma2": (
        dataclasses.replace(GEMMA2, query_scalar=8.0),
        {"attention.sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        {"out_norms": True},
    ),
    "gemma3": (
        dataclasses.replace(GEMMA3, query_scalar=8.0, windows=(5, 5, 0), local_rope_theta=10_000.0),
        {
            "attention.sliding_window": 5,
            "attention.sliding_window_pattern": 3,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        {"out_norms": True, "qk_norm": True},
    ),
    "gemma3 by block": (
        dataclasses.replace(GEMMA3, query_scalar=8.0, windows=(5, 0, 0), rope_scaling=None),
        {
            "attention.sliding_window": 5,
            "attention.sliding_window_pattern": [True, False, False],
            "rope.freq_base_swa": 100.0,
        },
        {"out_norms": True, "qk_norm": True},
    ),
}


@pytest.mark.parametrize("case", GEMMA_FILES)
def test_gemma_files(tmp_path, case):
    """Norms are stored whole; the numbers that llama.cpp keeps to itself are known. The second start is the same."""
    config, metadata, options = GEMMA_FILES[case]
    sizes = {name: getattr(CONFIG, name) for name in ("d_model", "d_mlp", "d_head", "rotary_dims", "vocab", "norm_eps")}
    config = dataclasses.replace(config, **sizes, embedding_scale=CONFIG.d_model**0.5)
    tensors = random_tensors(config, **options)
    path = write(tmp_path / "lm.gguf", tensors, config=config, more=metadata)
    for lm in (load_lm(path), load_lm(path)):
        assert lm.config == config and hash(lm.config) == hash(config)
        for ours, theirs in zip(leaves(lm), leaves(make_lm(config, tensors)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("family", "blocks", "expected"), [("gemma2", 46, 4), ("gemma3", 62, 4), ("gemma2", 4, 8), ("gemma3", 6, 8)]
)
def test_the_scale_of_scores_of_the_largest_gemma(tmp_path, family, blocks, expected):
    """d_model / n_heads of those with 27 billion parameters, d_head of all others."""
    config = dataclasses.replace(CONFIG, family=family, n_blocks=blocks, d_model=16)
    file = GGUFFile(write(tmp_path / "lm.gguf", {}, config=config, more={"attention.sliding_window": 5}))
    file._tensors["token_embd.weight"] = SimpleNamespace(shape=(16, 300))
    assert file.config().query_scalar == expected


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


def by_score(text, scores):
    """SentencePiece's merging, literally: again and again the best-scored pair of neighbours."""
    pieces = list(text)
    while True:
        pairs = [(scores[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in scores]
        if not pairs:
            return pieces
        at = -max(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


@pytest.mark.parametrize("space_prefix", [False, True])
def test_a_sentencepiece_tokenizer(tmp_path, space_prefix):
    rng = np.random.default_rng(0)
    letters = [*"abcd12", "▁"]
    pieces = {"".join(rng.choice(letters, n)) for n in (2, 3, 4) for _ in range(60)}
    scores = {token: -float(i) for i, token in enumerate([*rng.permutation(sorted(pieces)), *letters])}
    special = [
        ("<pad>", -1000.0, 3),
        ("<s>", -1000.0, 3),
        ("</s>", -1000.0, 3),
        ("  ", -1000.0, 4),
        ("   ", -1000.0, 4),
    ]
    spelled = [(f"<0x{i:02X}>", 0.0, 6) for i in range(256)]
    vocabulary = [*special, *spelled, *((token, score, 1) for token, score in scores.items())]
    how = functools.partial(sentencepiece, vocabulary=vocabulary, space_prefix=space_prefix)
    lm = load_lm(write(tmp_path / "lm.gguf", random_tensors(CONFIG), tokenizer=how))
    tokens, tokenizer = [token for token, _, _ in vocabulary], load_tokenizer(lm)
    for n in (1, 2, 5, 20, 60):
        words = ["".join(rng.choice(list("abcd12"), rng.integers(1, 6))) for _ in range(n)]
        text = " ".join(words)
        (ids,) = tokenizer.encode([text])
        expected = by_score("▁" * space_prefix + text.replace(" ", "▁"), scores)
        assert [tokens[i] for i in ids] == expected
        assert tokenizer.decode(ids) == text
    if not space_prefix:
        (ids,) = tokenizer.encode(["a    é</s>"])  # the longest token of the user's first, then bytes
        assert [tokens[i] for i in ids[:5]] == ["a", "   ", "▁", "<0xC3>", "<0xA9>"]
        assert not set(ids) & {0, 1, 2} and tokenizer.decode(ids) == "a    é</s>"


def test_files_that_are_refused(tmp_path):
    tensors = random_tensors(CONFIG)
    with pytest.raises(InputError, match="architecture 'phi3' is not supported"):
        load_lm(write(tmp_path / "a.gguf", tensors, config=dataclasses.replace(CONFIG, family="phi3")))
    with pytest.raises(InputError, match=r"'gemma3\.attention\.sliding_window' is missing"):
        load_lm(write(tmp_path / "e.gguf", tensors, config=dataclasses.replace(CONFIG, family="gemma3")))
    with pytest.raises(InputError, match="rope scaling 'yarn' is not supported here"):
        load_lm(write(tmp_path / "f.gguf", tensors, more={"rope.scaling.type": "yarn"}))
    with pytest.raises(InputError, match=r"'llama\.block_count' is missing"):
        load_lm(write(tmp_path / "b.gguf", tensors, leave_out=("block_count",)))
    klingon = functools.partial(byte_level, pre="klingon")
    odd = load_lm(write(tmp_path / "c.gguf", tensors, tokenizer=klingon))
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
