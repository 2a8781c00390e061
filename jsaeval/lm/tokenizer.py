"""Text ↔ token ids, through `tokenizers` only: from `tokenizer.json`, or rebuilt from the metadata of a GGUF file."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from jsaeval.errors import InputError
from jsaeval.lm.gguf_weights import GGUFFile


_CONTROL = 3  # tokenizer.ggml.token_type of special tokens

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
    """Rebuild a byte-level BPE tokenizer from the metadata of a GGUF file.

    Raises:
        InputError: another kind of tokenizer, or a word-splitting rule that is not known.
    """
    kind, pre = file.metadata("tokenizer.ggml.model"), file.metadata("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise InputError(
            f"{file.path}: tokenizer {kind!r} with splitting rule {pre!r} is not supported "
            f"(byte-level BPE with {', '.join(_PRE_TOKENIZERS)}); give --tokens FILE.npy instead of text"
        )
    tokens, merges = file.metadata("tokenizer.ggml.tokens"), file.metadata("tokenizer.ggml.merges")
    kinds = file.metadata("tokenizer.ggml.token_type", [1] * len(tokens))
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    backend.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL
        ]
    )
    return _finish(backend, *file.special_ids())


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
