"""Tensor names and layouts of GPT-2, GPT-NeoX and Gemma → those of Llama, which `jsaeval.lm.weights` knows.

GPT-2 stores its matrices as (in, out), and queries, keys and values side by side. GPT-NeoX stores them interleaved:
query, key and value of head 0, then of head 1, and so on. Gemma stores the weight of a norm less 1; its
`post_attention_layernorm` is, from Gemma 2 on, a norm after attention and not, as Llama's, one before the MLP.
"""

import re
from collections.abc import Callable

import numpy as np

from jsaeval.lm.config import DecoderConfig
from jsaeval.lm.weights import Tensors


# canonical name → (name in the file, what to do with that tensor)
Names = dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]


def canonical(tensors: Tensors, config: DecoderConfig) -> Tensors:
    """The tensors of a Hugging Face folder under canonical names. Those of the Llama family have them already."""
    if config.family in ("gemma", "gemma2", "gemma3"):
        names = _gemma(config, tensors.names)
    elif config.family in _FAMILIES:
        prefix, names_of = _FAMILIES[config.family]
        stored = {name.removeprefix(prefix): name for name in tensors.names}
        names = {o: (stored[theirs], change) for o, (theirs, change) in names_of(config).items() if theirs in stored}
        names |= {name: (name, _same) for name in tensors.names - {theirs for theirs, _ in names.values()}}
    else:
        return tensors

    def read(name: str) -> np.ndarray:
        theirs, change = names[name]
        return change(tensors.read(theirs))

    return Tensors(frozenset(names), read, tensors.where)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _transposed(x: np.ndarray) -> np.ndarray:
    return x.T


def _plus_one(x: np.ndarray) -> np.ndarray:
    return 1 + np.asarray(x, np.float32)


_NOT_LANGUAGE = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\.")
_LANGUAGE = re.compile(r"^(?:model\.language_model\.|language_model\.model\.)")  # of transformers 5 and 4
_SANDWICH = {
    "post_attention_layernorm": "self_attn.out_norm",
    "pre_feedforward_layernorm": "post_attention_layernorm",
    "post_feedforward_layernorm": "mlp.out_norm",
}


def _gemma(config: DecoderConfig, stored: frozenset[str]) -> Names:
    names: Names = {}
    for theirs in stored:
        if _NOT_LANGUAGE.match(theirs):
            continue
        ours = _LANGUAGE.sub("model.", theirs).removeprefix("language_model.")
        if config.family != "gemma":
            ours = re.sub("|".join(_SANDWICH), lambda match: _SANDWICH[match[0]], ours)
        names[ours] = (theirs, _plus_one if ours.endswith("norm.weight") else _same)
    return names


def _gpt2(config: DecoderConfig) -> Names:
    def third(j: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: np.split(x, 3, axis=-1)[j].T

    names: Names = {
        "model.embed_tokens.weight": ("wte.weight", _same),
        "model.embed_positions.weight": ("wpe.weight", _same),
        "model.norm.weight": ("ln_f.weight", _same),
        "model.norm.bias": ("ln_f.bias", _same),
        "lm_head.weight": ("lm_head.weight", _same),
    }
    for i in range(config.n_blocks):
        ours, theirs = f"model.layers.{i}", f"h.{i}"
        for kind in ("weight", "bias"):
            names |= {
                f"{ours}.input_layernorm.{kind}": (f"{theirs}.ln_1.{kind}", _same),
                f"{ours}.post_attention_layernorm.{kind}": (f"{theirs}.ln_2.{kind}", _same),
                f"{ours}.self_attn.o_proj.{kind}": (f"{theirs}.attn.c_proj.{kind}", _transposed),
                f"{ours}.mlp.up_proj.{kind}": (f"{theirs}.mlp.c_fc.{kind}", _transposed),
                f"{ours}.mlp.down_proj.{kind}": (f"{theirs}.mlp.c_proj.{kind}", _transposed),
            }
            for j, part in enumerate("qkv"):
                names[f"{ours}.self_attn.{part}_proj.{kind}"] = (f"{theirs}.attn.c_attn.{kind}", third(j))
    return names


def _gpt_neox(config: DecoderConfig) -> Names:
    def part_of_heads(j: int) -> Callable[[np.ndarray], np.ndarray]:
        heads = (config.n_heads, 3, config.d_head)
        return lambda x: x.reshape(*heads, *x.shape[1:])[:, j].reshape(-1, *x.shape[1:])

    names: Names = {
        "model.embed_tokens.weight": ("embed_in.weight", _same),
        "model.norm.weight": ("final_layer_norm.weight", _same),
        "model.norm.bias": ("final_layer_norm.bias", _same),
        "lm_head.weight": ("embed_out.weight", _same),
    }
    for i in range(config.n_blocks):
        ours, theirs = f"model.layers.{i}", f"layers.{i}"
        for kind in ("weight", "bias"):
            names |= {
                f"{ours}.input_layernorm.{kind}": (f"{theirs}.input_layernorm.{kind}", _same),
                f"{ours}.post_attention_layernorm.{kind}": (f"{theirs}.post_attention_layernorm.{kind}", _same),
                f"{ours}.self_attn.o_proj.{kind}": (f"{theirs}.attention.dense.{kind}", _same),
                f"{ours}.mlp.up_proj.{kind}": (f"{theirs}.mlp.dense_h_to_4h.{kind}", _same),
                f"{ours}.mlp.down_proj.{kind}": (f"{theirs}.mlp.dense_4h_to_h.{kind}", _same),
            }
            for j, part in enumerate("qkv"):
                names[f"{ours}.self_attn.{part}_proj.{kind}"] = (
                    f"{theirs}.attention.query_key_value.{kind}",
                    part_of_heads(j),
                )
    return names


# family → (prefix of the names in a causal-LM folder, the names after it)
_FAMILIES = {"gpt2": ("transformer.", _gpt2), "gpt_neox": ("gpt_neox.", _gpt_neox)}
