"""Shapes of language models, for sizing: from a name or a `config.json` alone, without weights."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jsaeval.errors import InputError, nearest
from jsaeval.lm.config import DecoderConfig
from jsaeval.lm.decoder import Blocks, Decoder
from jsaeval.lm.hf_config import FAMILIES, decoder_config
from jsaeval.numerics import wide_dtype


def _shape(blocks: int, d_model: int, heads: tuple[int, int, int], d_mlp: int, vocab: int, **more) -> DecoderConfig:
    """`heads`: of queries, of keys and values, and their width."""
    n_heads, n_kv_heads, d_head = heads
    return DecoderConfig(
        family="llama",
        n_blocks=blocks,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        d_mlp=d_mlp,
        vocab=vocab,
        context=more.pop("context", 8192),
        norm_eps=1e-5,
        rotary_dims=d_head,
        **more,
    )


def _gemma2(blocks: int, d_model: int, heads: tuple[int, int, int], d_mlp: int, query_scalar: int) -> DecoderConfig:
    n_heads, n_kv_heads, d_head = heads
    raw = {
        "model_type": "gemma2",
        "num_hidden_layers": blocks,
        "hidden_size": d_model,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": d_head,
        "intermediate_size": d_mlp,
        "query_pre_attn_scalar": query_scalar,
    }
    return decoder_config(raw, "gemma-2")


# As their configurations say.
SHAPES = {
    "smollm2-135m": _shape(30, 576, (9, 3, 64), 1536, 49152, tied_embedding=True),
    "gemma-2-2b": _gemma2(26, 2304, (8, 4, 256), 9216, 256),
    "gemma-2-9b": _gemma2(42, 3584, (16, 8, 256), 14336, 256),
    "gemma-2-27b": _gemma2(46, 4608, (32, 16, 128), 36864, 144),
    "llama-3.1-8b": _shape(32, 4096, (32, 8, 128), 14336, 128256, context=131072),
    "llama-3.1-70b": _shape(80, 8192, (64, 8, 128), 28672, 128256, context=131072),
}
_KEYS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")


def shape_of(name: str) -> DecoderConfig:
    """The shape of a named LM, or of one whose `config.json` (or folder) is given.

    A family that this package does not have is taken for a Llama of that shape, which sizes most decoders well.

    Raises:
        InputError: neither, or not the configuration of a decoder.
    """
    if name in SHAPES:
        return SHAPES[name]
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            f"--lm {name!r}: no such shape{nearest(name, SHAPES)}; a config.json or a folder with one would do"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    config = config.get("text_config", config) if isinstance(config, dict) else config
    if not isinstance(config, dict):
        raise InputError(f"{path}: a JSON object was expected")
    if config.get("model_type") in FAMILIES:
        return decoder_config(config, str(path))
    return _any_decoder(config, path)


def _any_decoder(config: dict[str, Any], path: Path) -> DecoderConfig:
    """The shape of a family that this package does not have, if it is a plain decoder."""
    odd = [key for key in config if "expert" in key or "state_size" in key]
    if odd or config.get("is_encoder_decoder"):
        raise InputError(f"{path}: not a plain decoder ({', '.join(odd) or 'it has an encoder'}); it cannot be sized")
    try:
        blocks, d_model, heads, d_mlp, vocab = (int(config[key]) for key in _KEYS)
        kv_heads = int(config.get("num_key_value_heads") or heads)
        d_head = int(config.get("head_dim") or d_model // heads)
        context = int(config.get("max_position_embeddings", 8192))
    except KeyError as error:
        raise InputError(f"{path}: not the configuration of a decoder ({error.args[0]} is missing)") from None
    except (ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise InputError(f"{path}: not the configuration of a decoder ({error})") from None
    sizes = blocks, d_model, heads, d_mlp, vocab, kv_heads, d_head, context
    if min(sizes) < 1 or max(sizes) > 2**27 or heads % kv_heads:
        raise InputError(f"{path}: no decoder has this shape; note that heads have to divide among key-value heads")
    # Where `tie_word_embeddings` is left out, transformers takes it to be true.
    tied = bool(config.get("tie_word_embeddings", True))
    return _shape(blocks, d_model, (heads, kv_heads, d_head), d_mlp, vocab, context=context, tied_embedding=tied)


def abstract_decoder(config: DecoderConfig, dtype: jnp.dtype) -> Decoder:
    """A decoder of a shape; its arrays are `jax.ShapeDtypeStruct`s. Biases are left out."""
    wide = wide_dtype(dtype)

    def array(*size: int, dtype: jnp.dtype = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype)

    def norm(*size: int) -> jax.ShapeDtypeStruct:
        return array(*size, dtype=wide if config.wide_norms else dtype)

    n, d, group = config.n_blocks, config.d_model, config.queries_per_kv
    blocks = {
        "qkv": array(n, d, config.n_kv_heads, group + 2, config.d_head),
        "out": array(n, config.n_kv_heads, group * config.d_head, d),
        "up": array(n, 1 + config.gated, d, config.d_mlp),
        "down": array(n, config.d_mlp, d),
    }
    blocks |= {name: norm(n, config.d_head if name in ("q_norm", "k_norm") else d) for name in config.norms}
    frequency = array(config.d_head // 2, dtype=wide)
    rest = {"embedding": array(config.vocab, d), "final_norm": norm(d), "rope_frequency": frequency}
    if not config.tied_embedding:
        rest["lm_head"] = array(config.vocab, d)
    if config.local_rope_theta is not None:
        rest["local_rope_frequency"] = frequency
    return jax.eval_shape(lambda blocks, rest: Decoder(blocks=Blocks(**blocks), **rest, config=config), blocks, rest)
