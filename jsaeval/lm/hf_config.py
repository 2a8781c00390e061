"""Hugging Face `config.json` → `DecoderConfig`. An attribute nobody has thought about is refused, not ignored.

The spellings of transformers 4 and 5 are read. Of a Gemma 3 that sees pictures only the language model is taken.
"""

import json
from pathlib import Path
from typing import Any

from jsaeval.errors import InputError, nearest
from jsaeval.lm.config import DecoderConfig
from jsaeval.lm.hf_rope import read_rope, read_two_ropes


# Attributes that change nothing about the function from tokens to logits.
_BOOKKEEPING = """
    architectures auto_map bos_token_id chunk_size_feed_forward dtype eos_token_id id2label initializer_range
    cache_implementation is_decoder is_encoder_decoder is_llama_config label2id model_type name_or_path _name_or_path
    output_attentions output_hidden_states pad_token_id pretraining_tp problem_type return_dict
    rope_interleaved torch_dtype transformers.js_config transformers_version unk_token_id use_cache
    attention_dropout keys_to_ignore_at_inference hidden_dropout classifier_dropout attn_pdrop embd_pdrop
    resid_pdrop summary_activation summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj task_specific_params gradient_checkpointing n_ctx
"""
# What each family's attributes are called, and those that must have the one value the decoder computes.
_LLAMA_READ = """
    hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    vocab_size max_position_embeddings rms_norm_eps rope_theta rope_scaling rope_parameters
    tie_word_embeddings sliding_window use_sliding_window max_window_layers layer_types attention_bias mlp_bias
"""
_LLAMA_FIXED = {"hidden_act": "silu"}
_GPT2_READ = """
    n_embd n_layer n_head n_inner n_positions vocab_size layer_norm_epsilon activation_function
    tie_word_embeddings
"""
_GPT2_FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
_NEOX_READ = """
    hidden_size intermediate_size num_hidden_layers num_attention_heads vocab_size
    max_position_embeddings layer_norm_eps rotary_pct rotary_emb_base rope_theta rope_scaling
    rope_parameters partial_rotary_factor use_parallel_residual hidden_act tie_word_embeddings
"""
_NEOX_FIXED = {"attention_bias": True}
_GEMMA_READ = """
    hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    vocab_size max_position_embeddings rms_norm_eps rope_theta rope_scaling rope_parameters
    tie_word_embeddings attention_bias hidden_act hidden_activation
"""
_GEMMA2_READ = f"""{_GEMMA_READ}
    sliding_window sliding_window_pattern _sliding_window_pattern layer_types query_pre_attn_scalar
    attn_logit_softcapping final_logit_softcapping
"""
_GEMMA3_READ = f"{_GEMMA2_READ} rope_local_base_freq"
_GEMMA_FIXED = {"use_bidirectional_attention": False}
_GEMMA_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {"rms_norm_eps": 1e-6, "head_dim": 256, "vocab_size": 256_000, "max_position_embeddings": 8192},
}
_GEMMA_DEFAULTS["gemma2"] = _GEMMA_DEFAULTS["gemma"] | {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_GEMMA_DEFAULTS["gemma3"] = _GEMMA_DEFAULTS["gemma2"] | {
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
_GLOBAL_EVERY = {"gemma2": 2, "gemma3": 6}  # of so many blocks the last has no window
_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh"}
_ACTIVATIONS |= {"gelu_pytorch_tanh": "gelu_tanh"}


def read_hf_config(folder: Path) -> tuple[DecoderConfig, dict[str, Any]]:
    """Read `folder/config.json`.

    Returns:
        The decoder's shape, and the raw dictionary (for token ids).

    Raises:
        InputError: no such file, not JSON, an unsupported family, or an attribute or value the decoder does not have.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no config.json, so this is not a Hugging Face model folder") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: a JSON object was expected, found {type(raw).__name__}")
    return decoder_config(raw, str(path)), _language_model(raw)


def decoder_config(raw: dict[str, Any], where: str) -> DecoderConfig:
    """`DecoderConfig` of a raw Hugging Face configuration; `where` names it in errors."""
    raw = _language_model(raw)
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(f"{where}: model_type {family!r} is not supported{nearest(str(family), FAMILIES)}")
    parse, read, fixed = FAMILIES[family]
    unknown = sorted(set(raw) - set(_BOOKKEEPING.split()) - set(read.split()) - set(fixed))
    if unknown:
        raise InputError(f"{where}: unknown attribute(s) {', '.join(unknown)}; remove them if they change nothing")
    for key, value in fixed.items():
        if key in raw and raw[key] != value and (raw[key] or value):  # null says as much as false
            raise InputError(f"{where}: {key} = {raw[key]!r} is not supported (only {value!r} is)")
    try:
        config = parse(raw, family, where)
    except KeyError as error:
        raise InputError(f"{where}: attribute {error.args[0]!r} is missing") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: an attribute has the wrong type ({error})") from None
    if min(config.n_blocks, config.d_model, config.n_heads, config.n_kv_heads, config.d_head, config.d_mlp) < 1:
        raise InputError(f"{where}: a size below 1")
    if config.n_heads % config.n_kv_heads:
        raise InputError(f"{where}: {config.n_heads} heads do not divide among {config.n_kv_heads} key-value heads")
    return config


def _language_model(raw: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model alone: `text_config` of a Gemma 3 that sees pictures."""
    if raw.get("model_type") != "gemma3":
        return raw
    shared = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
    lifted = {key: raw[key] for key in shared if raw.get(key) is not None}
    return {"model_type": "gemma3_text"} | dict(raw.get("text_config") or {}) | lifted


def _llama(raw: dict[str, Any], family: str, where: str) -> DecoderConfig:
    n_heads, d_model = int(raw["num_attention_heads"]), int(raw["hidden_size"])
    d_head = int(raw.get("head_dim") or d_model // n_heads)
    rope = read_rope(raw, where)
    if rope.partial != 1.0:
        raise InputError(f"{where}: partial_rotary_factor = {rope.partial} is not supported for {family}")
    return DecoderConfig(
        family=family,
        n_blocks=int(raw["num_hidden_layers"]),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=int(raw.get("num_key_value_heads") or n_heads),
        d_head=d_head,
        d_mlp=int(raw["intermediate_size"]),
        vocab=int(raw["vocab_size"]),
        context=int(raw["max_position_embeddings"]),
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rotary_dims=d_head,
        tied_embedding=bool(raw.get("tie_word_embeddings", False)),
        windows=_windows(raw, family),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
    )


def _gpt2(raw: dict[str, Any], family: str, where: str) -> DecoderConfig:
    n_heads, d_model = int(raw["n_head"]), int(raw["n_embd"])
    return DecoderConfig(
        family=family,
        n_blocks=int(raw["n_layer"]),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=d_model // n_heads,
        d_mlp=int(raw.get("n_inner") or 4 * d_model),
        vocab=int(raw["vocab_size"]),
        context=int(raw["n_positions"]),
        norm_eps=float(raw.get("layer_norm_epsilon", 1e-5)),
        norm="layer",
        activation=_activation(raw.get("activation_function", "gelu_new"), where),
        gated=False,
        tied_embedding=bool(raw.get("tie_word_embeddings", True)),
    )


def _gpt_neox(raw: dict[str, Any], family: str, where: str) -> DecoderConfig:
    n_heads, d_model = int(raw["num_attention_heads"]), int(raw["hidden_size"])
    d_head = d_model // n_heads
    rope = read_rope(raw, where, default_partial=0.25)
    return DecoderConfig(
        family=family,
        n_blocks=int(raw["num_hidden_layers"]),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=d_head,
        d_mlp=int(raw["intermediate_size"]),
        vocab=int(raw["vocab_size"]),
        context=int(raw["max_position_embeddings"]),
        norm_eps=float(raw.get("layer_norm_eps", 1e-5)),
        norm="layer",
        rotary_dims=int(d_head * rope.partial),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        activation=_activation(raw.get("hidden_act", "gelu"), where),
        gated=False,
        parallel=bool(raw.get("use_parallel_residual", True)),
        tied_embedding=bool(raw.get("tie_word_embeddings", False)),
    )


def _activation(name: str, where: str) -> Any:
    if name not in _ACTIVATIONS:
        raise InputError(f"{where}: activation {name!r} is not supported{nearest(name, _ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _windows(raw: dict[str, Any], family: str) -> tuple[int, ...] | None:
    window = raw.get("sliding_window", 4096 if family == "mistral" else None)  # transformers' default
    if not window or (family.startswith("qwen") and not raw.get("use_sliding_window", False)):
        return None
    blocks = int(raw["num_hidden_layers"])
    if raw.get("layer_types"):
        kinds = list(raw["layer_types"])
        if len(kinds) != blocks or not set(kinds) <= {"sliding_attention", "full_attention"}:
            raise ValueError(f"layer_types {sorted(set(kinds))}, {len(kinds)} of them for {blocks} blocks")
        limited = [kind == "sliding_attention" for kind in kinds]
    elif family.startswith("qwen"):  # the first max_window_layers blocks see everything
        limited = [i >= raw.get("max_window_layers", blocks) for i in range(blocks)]
    elif family in _GLOBAL_EVERY:
        every = raw.get("sliding_window_pattern") or raw.get("_sliding_window_pattern") or _GLOBAL_EVERY[family]
        limited = [(i + 1) % every != 0 for i in range(blocks)]
    else:
        limited = [True] * blocks
    return tuple(int(window) if is_limited else 0 for is_limited in limited) if any(limited) else None


def _gemma(raw: dict[str, Any], family: str, where: str) -> DecoderConfig:
    """Gemma 1, 2 and 3. What their configurations leave out has the value that transformers gives it."""
    generation = family.removesuffix("_text")
    raw = _GEMMA_DEFAULTS[generation] | raw
    d_model, d_head = int(raw["hidden_size"]), int(raw["head_dim"])
    # The first Gemma's "gelu" stands for the tanh approximation.
    activation = raw.get("hidden_activation") or "gelu_pytorch_tanh"
    if generation == "gemma" and raw.get("hidden_act", "gelu") not in ("gelu", "gelu_pytorch_tanh"):
        raise InputError(f"{where}: hidden_act = {raw['hidden_act']!r} is not supported for gemma (gelu_pytorch_tanh)")
    rope, local_theta = read_two_ropes(raw, where) if generation == "gemma3" else (read_rope(raw, where), None)
    if rope.partial != 1.0:
        raise InputError(f"{where}: partial_rotary_factor = {rope.partial} is not supported for {family}")
    windows = None if generation == "gemma" else _windows(raw, generation)
    if generation != "gemma" and not raw["sliding_window"]:
        raise InputError(f"{where}: a {generation} without a sliding_window is not supported")

    def number(key: str) -> float | None:
        return None if raw.get(key) is None else float(raw[key])

    return DecoderConfig(
        family=generation,
        n_blocks=int(raw["num_hidden_layers"]),
        d_model=d_model,
        n_heads=int(raw["num_attention_heads"]),
        n_kv_heads=int(raw["num_key_value_heads"]),
        d_head=d_head,
        d_mlp=int(raw["intermediate_size"]),
        vocab=int(raw["vocab_size"]),
        context=int(raw["max_position_embeddings"]),
        norm_eps=float(raw["rms_norm_eps"]),
        rotary_dims=d_head,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        activation=_activation(activation, where),
        tied_embedding=bool(raw.get("tie_word_embeddings", True)),
        windows=windows,
        local_rope_theta=None if windows is None else local_theta,
        embedding_scale=d_model**0.5,
        query_scalar=number("query_pre_attn_scalar"),
        attn_logit_cap=number("attn_logit_softcapping"),
        logit_cap=number("final_logit_softcapping"),
        wide_norms=True,
    )


FAMILIES = {
    "llama": (_llama, _LLAMA_READ, _LLAMA_FIXED),
    "mistral": (_llama, _LLAMA_READ, _LLAMA_FIXED),
    "qwen2": (_llama, _LLAMA_READ, _LLAMA_FIXED),
    "qwen3": (_llama, _LLAMA_READ, _LLAMA_FIXED),
    "gemma": (_gemma, _GEMMA_READ, _GEMMA_FIXED),
    "gemma2": (_gemma, _GEMMA2_READ, _GEMMA_FIXED),
    "gemma3_text": (_gemma, _GEMMA3_READ, _GEMMA_FIXED | {"attn_logit_softcapping": None}),
    "gpt2": (_gpt2, _GPT2_READ, _GPT2_FIXED),
    "gpt_neox": (_gpt_neox, _NEOX_READ, _NEOX_FIXED),
}
