"""GGUF files: shape and tensors, under the names and in the layout of Hugging Face.

Dequantisation is `gguf`'s own. llama.cpp stores the query and key rows of the `llama` architecture in the order of its
interleaved rotary embedding; they are put back into the half-split order here. The norms of a Gemma are stored whole,
not less 1 as in a Hugging Face folder. Some numbers that llama.cpp has in its code and not in the file are here, too.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from jsaeval.errors import InputError, nearest
from jsaeval.lm.config import DecoderConfig
from jsaeval.lm.hf_config import decoder_config
from jsaeval.lm.weights import Tensors


FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_attention_norm": "self_attn.out_norm",
    "post_ffw_norm": "mlp.out_norm",
}
# The largest Gemma 2 and Gemma 3, by their number of blocks: scores are scaled by d_model / n_heads, and not by d_head.
_SCALED_BY_WIDTH = (("gemma2", 46), ("gemma3", 62))


class GGUFFile:
    """An open GGUF file: metadata by key, tensors by name."""

    def __init__(self, path: Path):
        self.path = path
        try:
            reader = gguf.GGUFReader(path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise InputError(f"{path}: not a whole GGUF file ({error}); fetch it again") from None
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def metadata(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key, or `default`."""
        return self._fields[key].contents() if key in self._fields else default

    def config(self) -> DecoderConfig:
        """The decoder's shape.

        Raises:
            InputError: an unsupported architecture, or a key that is missing.
        """
        family = self.metadata("general.architecture")
        if family not in FAMILIES:
            raise InputError(f"{self.path}: architecture {family!r} is not supported{nearest(str(family), FAMILIES)}")

        def need(key: str) -> Any:
            value = self.metadata(f"{family}.{key}")
            if value is None:
                raise InputError(f"{self.path}: metadata key '{family}.{key}' is missing")
            return value

        kind = self.metadata(f"{family}.rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            raise InputError(f"{self.path}: rope scaling {kind!r} is not supported here; use the Hugging Face folder")
        if "rope_freqs.weight" in self._tensors:
            raise InputError(f"{self.path}: per-plane rope factors are not supported; use the Hugging Face folder")
        n_heads, d_model = int(need("attention.head_count")), int(need("embedding_length"))
        d_head = int(self.metadata(f"{family}.attention.key_length", d_model // n_heads))
        raw = {
            "model_type": "gemma3_text" if family == "gemma3" else family,
            "num_hidden_layers": int(need("block_count")),
            "hidden_size": d_model,
            "num_attention_heads": n_heads,
            "num_key_value_heads": int(self.metadata(f"{family}.attention.head_count_kv", n_heads)),
            "head_dim": d_head,
            "intermediate_size": int(need("feed_forward_length")),
            "vocab_size": int(self._tensors["token_embd.weight"].shape[1])
            if "token_embd.weight" in self._tensors
            else 0,
            "max_position_embeddings": int(need("context_length")),
            "rms_norm_eps": float(need("attention.layer_norm_rms_epsilon")),
            "tie_word_embeddings": "output.weight" not in self._tensors,
        }
        if (theta := self.metadata(f"{family}.rope.freq_base")) is not None:
            raw["rope_theta"] = float(theta)
        if kind == "linear":
            raw["rope_scaling"] = {"rope_type": "linear", "factor": float(need("rope.scaling.factor"))}
        if family == "gemma3":
            need("attention.sliding_window")
        if family in ("gemma2", "gemma3"):
            raw |= self._gemma(family, raw)
        config = decoder_config(raw, str(self.path))
        return dataclasses.replace(
            config, rotary_dims=int(self.metadata(f"{family}.rope.dimension_count", config.rotary_dims))
        )

    def _gemma(self, family: str, raw: dict[str, Any]) -> dict[str, Any]:
        """What Gemma 2 and 3 have besides: windows, caps, the scale of scores, another rotary base."""
        by_width = (family, raw["num_hidden_layers"]) in _SCALED_BY_WIDTH
        more: dict[str, Any] = {
            "query_pre_attn_scalar": raw["hidden_size"] / raw["num_attention_heads"] if by_width else raw["head_dim"]
        }
        for ours, theirs in (
            ("sliding_window", "attention.sliding_window"),
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
            ("rope_local_base_freq", "rope.freq_base_swa"),
        ):
            if (value := self.metadata(f"{family}.{theirs}")) is not None:
                more[ours] = value
        pattern = self.metadata(f"{family}.attention.sliding_window_pattern")
        if isinstance(pattern, list):
            more["layer_types"] = ["sliding_attention" if limited else "full_attention" for limited in pattern]
        elif pattern is not None:
            more["sliding_window_pattern"] = int(pattern)
        return more

    def tensors(self, config: DecoderConfig) -> Tensors:
        """All tensors, dequantised as they are read."""
        names = {hf_name(name): name for name in self._tensors}

        def read(name: str) -> np.ndarray:
            tensor = self._dequantised(names[name])
            if config.family == "llama" and re.search(r"\.[qk]_proj\.", name):
                return _half_split(tensor, config.d_head)
            return tensor

        def shape(name: str) -> tuple[int, ...]:
            return tuple(reversed(self._tensors[names[name]].shape.tolist()))

        return Tensors(frozenset(names), read, str(self.path), shape)

    def special_ids(self) -> tuple[int | None, int | None, int | None]:
        """BOS, EOS and PAD ids."""
        bos, eos, pad = (self.metadata(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos", "padding"))
        return bos, eos, pad

    def _dequantised(self, name: str) -> np.ndarray:
        """A tensor in float32 and row-major (out, in) order."""
        tensor = self._tensors[name]
        kind = tensor.tensor_type.name
        try:
            array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise InputError(f"{self.path}: tensor {name!r} is {kind}, which `gguf` cannot dequantise") from None
        return array.reshape(tuple(reversed(tensor.shape.tolist()))).astype(np.float32, copy=False)


def hf_name(name: str) -> str:
    """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`; an unknown name is returned unchanged."""
    match = re.match(r"^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$", name)
    if not match or match[2] not in _NAMES:
        return name
    prefix = f"model.layers.{match[1]}." if match[1] is not None else ""
    return f"{prefix}{_NAMES[match[2]]}.{match[3]}"


def _half_split(rows: np.ndarray, d_head: int) -> np.ndarray:
    """Rows of each head from interleaved order (plane 0 first, plane 0 second, plane 1 first, ...) to half-split."""
    heads = rows.reshape(-1, d_head // 2, 2, *rows.shape[1:])
    return np.swapaxes(heads, 1, 2).reshape(rows.shape)
