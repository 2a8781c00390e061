"""Shapes of language models, for sizing: from a name or a `config.json` alone, without weights."""

import json
from dataclasses import dataclass
from pathlib import Path

from jsaeval.errors import InputError, nearest


@dataclass(frozen=True)
class Shape:
    """A decoder. `gated`: the MLP has a gate beside its up-projection; `tied`: embedding and unembedding are one."""

    n_blocks: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    vocab: int
    gated: bool = True
    tied: bool = False

    @property
    def block_parameters(self) -> int:
        """Matrices of one block."""
        attention = self.d_model * self.d_head * 2 * (self.n_heads + self.n_kv_heads)
        return attention + self.d_model * self.d_mlp * (3 if self.gated else 2)

    @property
    def parameters(self) -> int:
        """Matrices of the model; norms and biases are left out."""
        return self.n_blocks * self.block_parameters + self.vocab * self.d_model * (1 if self.tied else 2)


# As their configurations say.
SHAPES = {
    "smollm2-135m": Shape(30, 576, 9, 3, 64, 1536, 49152, tied=True),
    "gemma-2-2b": Shape(26, 2304, 8, 4, 256, 9216, 256000, tied=True),
    "gemma-2-27b": Shape(46, 4608, 32, 16, 128, 36864, 256000, tied=True),
    "llama-3.1-8b": Shape(32, 4096, 32, 8, 128, 14336, 128256),
    "llama-3.1-70b": Shape(80, 8192, 64, 8, 128, 28672, 128256),
}
_KEYS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")


def shape_of(name: str) -> Shape:
    """The shape of a named LM, or of one whose `config.json` (or folder) is given.

    Raises:
        InputError: neither, or a configuration without these numbers.
    """
    if name in SHAPES:
        return SHAPES[name]
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"--lm {name!r}: no such shape{nearest(name, SHAPES)}, and no config.json or folder with one")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        blocks, d_model, heads, d_mlp, vocab = (int(config[key]) for key in _KEYS)
        kv_heads = int(config.get("num_key_value_heads", heads))
        d_head = int(config.get("head_dim") or d_model // heads)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the configuration of a decoder ({error} is missing or no number)") from None
    gated = config.get("model_type") not in ("gpt2", "gpt_neox")
    return Shape(blocks, d_model, heads, kv_heads, d_head, d_mlp, vocab, gated, bool(config.get("tie_word_embeddings")))
