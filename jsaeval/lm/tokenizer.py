"""Text ↔ token ids, through `tokenizers` only: from `tokenizer.json`, or rebuilt from the metadata of a GGUF file."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from jsaeval.errors import InputError
from jsaeval.lm.gguf_weights import GGUFFile


_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # tokenizer.ggml.token_type
_SPACE = "▁"  # how SentencePiece writes a space

_WORDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"


def _splitting(pattern: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


# How text is cut into words before byte-pair merging, by tokenizer.ggml.pre.
_PRE_TOKENIZERS = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": lambda: _splitting(rf"{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_WORDS}"),
    "qwen2": lambda: _splitting(rf"{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_WORDS}"),
}


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer with the ids that rows and masks need.

    Special tokens written out in a text (`<|im_end|>`) are encoded as ordinary text, so that documents
    never contain special ids.
    """

    backend: Tokenizer
    bos: int | None
    eos: int | None
    pad: int | None
    sha256: str

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self.backend.decode(ids, skip_special_tokens=False)

    def to_json(self) -> str:
        """Everything in one string, for `from_json`."""
        return json.dumps({"backend": self.backend.to_str(), "bos": self.bos, "eos": self.eos, "pad": self.pad})

    def token(self, index: int) -> str:
        """The text of a single token (bytes that are no whole character appear as U+FFFD)."""
        return self.decode([index])


def from_gguf(file: GGUFFile) -> TextTokenizer:
    """Rebuild a byte-level BPE tokenizer, or one of SentencePiece, from the metadata of a GGUF file.

    Raises:
        InputError: another kind of tokenizer, or a word-splitting rule that is not known.
    """
    kind, pre = file.metadata("tokenizer.ggml.model"), file.metadata("tokenizer.ggml.pre", "gpt-2")
    if kind == "llama":
        backend = _sentencepiece(file)
    elif kind == "gpt2" and pre in _PRE_TOKENIZERS:
        backend = _byte_level(file, pre)
    else:
        raise InputError(
            f"{file.path}: tokenizer {kind!r} with splitting rule {pre!r} is not supported "
            f"(llama, or byte-level BPE with {', '.join(_PRE_TOKENIZERS)}); give --tokens FILE.npy instead of text"
        )
    tokens, kinds = _vocabulary(file)
    backend.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL
        ]
    )
    return _finish(backend, *file.special_ids())


def _vocabulary(file: GGUFFile) -> tuple[list[str], list[int]]:
    """The tokens, and what kind each of them is."""
    tokens = file.metadata("tokenizer.ggml.tokens")
    return tokens, file.metadata("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))


def _byte_level(file: GGUFFile, pre: str) -> Tokenizer:
    tokens, merges = _vocabulary(file)[0], file.metadata("tokenizer.ggml.merges")
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    backend.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(file: GGUFFile) -> Tokenizer:
    """SentencePiece's BPE (Kudo & Richardson 2018, arXiv 1808.06226): of all neighbours the best-scored pair is merged.

    The file has scores but no merges: a token is made of any two that it can be cut into. Tokens defined by the user
    are taken out of the text before (of several the longest); what has no token is spelled in bytes.
    """
    tokens, kinds = _vocabulary(file)
    scores = file.metadata("tokenizer.ggml.scores")
    vocab = {token: i for i, token in enumerate(tokens)}
    normal = {token for token, kind in zip(tokens, kinds, strict=True) if kind == _NORMAL}
    pairs = []
    for i in sorted((vocab[token] for token in normal), key=lambda i: -scores[i]):
        token = tokens[i]
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs += [cut for cut in cuts if cut[0] in normal and cut[1] in normal]
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN), None)
    backend = Tokenizer(models.BPE(vocab, pairs, byte_fallback=True, fuse_unk=True, unk_token=unknown))
    prefix = file.metadata("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    backend.add_tokens(
        [
            AddedToken(token, special=False, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _USER_DEFINED
        ]
    )
    return backend


def from_json(text: str) -> TextTokenizer:
    """Undo `TextTokenizer.to_json`."""
    raw = json.loads(text)
    return _finish(Tokenizer.from_str(raw.pop("backend")), **raw)


def from_folder(folder: Path, config: dict) -> TextTokenizer:
    """Load `folder/tokenizer.json`; BOS, EOS and PAD from `tokenizer_config.json`, else from the model's `config`.

    Raises:
        InputError: there is no `tokenizer.json`, or it cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{folder}: no tokenizer.json; give --tokens FILE.npy instead of text")
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{path}: not a tokenizer ({error})") from None
    return _finish(backend, *special_ids(folder, config, backend))


def special_ids(folder: Path, config: dict, backend: Tokenizer | None) -> tuple[int | None, int | None, int | None]:
    """BOS, EOS and PAD ids: by name from `tokenizer_config.json`, else by number from the model's `config`."""
    path = folder / "tokenizer_config.json"
    try:
        names = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None

    def find(kind: str) -> int | None:
        token = names.get(f"{kind}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if text is not None and backend is not None and (found := backend.token_to_id(text)) is not None:
            return found
        number = config.get(f"{kind}_token_id")
        return number[0] if isinstance(number, list) else number

    return find("bos"), find("eos"), find("pad")


def _finish(backend: Tokenizer, bos: int | None, eos: int | None, pad: int | None) -> TextTokenizer:
    backend.encode_special_tokens = True
    backend.no_padding()
    backend.no_truncation()
    sha256 = hashlib.sha256(backend.to_str().encode()).hexdigest()
    return TextTokenizer(backend, bos, eos, pad, sha256)
