"""Run by the Python of the peers' environment: writes what `transformers` computes, as files the tests compare with.

python transformers_reference.py families OUT          tiny random models, one folder a family, with logits and states
python transformers_reference.py ropes ASKED OUT       frequencies of a JSON list of rope parameters
python transformers_reference.py gguf FILE TOKENS OUT  logits of a GGUF file in float32
python transformers_reference.py tokenize FILE TEXTS OUT  token ids of a JSON list of texts
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


SIZES = dict(
    vocab_size=53,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    attn_implementation="eager",
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
GEMMA = SIZES | dict(head_dim=16)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, beta_fast=4.0, beta_slow=0.5)
YARN |= dict(original_max_position_embeddings=16)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=3.0)
GEMMA3_ROPE = dict(
    full_attention=dict(rope_type="linear", rope_theta=1_000_000.0, factor=8.0),
    sliding_attention=dict(rope_type="default", rope_theta=100.0),
)
GEMMA2 = GEMMA | dict(
    sliding_window=5, query_pre_attn_scalar=24, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
)
GEMMA3 = GEMMA | dict(
    sliding_window=5,
    query_pre_attn_scalar=24,
    rope_parameters=GEMMA3_ROPE,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)
NEOX = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
FAMILIES = {
    "llama": transformers.LlamaConfig(**SIZES),
    "llama_mha_tied": transformers.LlamaConfig(**SIZES | dict(num_key_value_heads=4, tie_word_embeddings=True)),
    "llama_mqa": transformers.LlamaConfig(**SIZES | dict(num_key_value_heads=1)),
    "llama3_rope": transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3, head_dim=16),
    "mistral_window": transformers.MistralConfig(**SIZES, sliding_window=5),
    "qwen2": transformers.Qwen2Config(**SIZES),
    "qwen2_window": transformers.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "llama_biases": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "gpt2": transformers.GPT2Config(
        vocab_size=53, n_embd=32, n_layer=3, n_head=4, n_positions=64, attn_implementation="eager"
    ),
    "pythia": transformers.GPTNeoXConfig(**NEOX),
    "gpt_neox_sequential": transformers.GPTNeoXConfig(
        **NEOX | dict(use_parallel_residual=False, hidden_act="gelu_new")
    ),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=16),
    "linear_rope": transformers.LlamaConfig(**SIZES, rope_parameters=LINEAR, head_dim=16),
    "yarn_rope": transformers.LlamaConfig(**SIZES, rope_parameters=YARN, head_dim=16),
    "gemma": transformers.GemmaConfig(**GEMMA),
    "gemma_mqa": transformers.GemmaConfig(**GEMMA | dict(num_key_value_heads=1, hidden_act="gelu")),
    "gemma2": transformers.Gemma2Config(**GEMMA2),
    "gemma2_mha": transformers.Gemma2Config(**GEMMA2 | dict(num_key_value_heads=4)),
    "gemma3": transformers.Gemma3TextConfig(**GEMMA3),
    "gemma3_mqa": transformers.Gemma3TextConfig(**GEMMA3 | dict(num_key_value_heads=1)),
}


def families(out: Path) -> None:
    for name, config in FAMILIES.items():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        gain = 0.0 if "gemma" in name else 1.0  # Gemma stores a norm's gain less 1
        for name_, parameter in model.named_parameters():  # zero biases and unit norms would hide mistakes
            torch.nn.init.normal_(parameter, gain if "norm" in name_ else 0.0, 0.25)
        model.save_pretrained(out / name)
        tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 53, (3, 24)))
        seen = {}

        def keep(key, seen=seen):
            return lambda module, inputs, output: seen.__setitem__(
                key, output[0] if isinstance(output, tuple) else output
            )

        def keep_input(key, seen=seen):
            return lambda module, inputs: seen.__setitem__(key, inputs[0])

        def keep_normalised(key, seen=seen, rms_eps=getattr(config, "rms_norm_eps", None)):
            """What a norm would give out if its weight were one and its bias zero."""

            def hook(module, inputs):
                (x,) = inputs
                if isinstance(module, torch.nn.LayerNorm):
                    seen[key] = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=module.eps)
                else:
                    seen[key] = torch.nn.functional.rms_norm(x, x.shape[-1:], eps=rms_eps)

            return hook

        stack = model.base_model
        for i, layer in enumerate(stack.layers if hasattr(stack, "layers") else stack.h):
            attention = next(getattr(layer, n) for n in ("self_attn", "attn", "attention") if hasattr(layer, n))
            projection = next(getattr(attention, n) for n in ("o_proj", "c_proj", "dense") if hasattr(attention, n))
            sandwich = hasattr(layer, "pre_feedforward_layernorm")  # Gemma 2 and 3 norm what is added, too
            second = layer.pre_feedforward_layernorm if sandwich else None
            second = second or getattr(layer, "ln_2", None) or layer.post_attention_layernorm
            after = (layer.post_attention_layernorm, layer.post_feedforward_layernorm) if sandwich else None
            attn_out, mlp_out = after or (attention, layer.mlp)
            down = next(
                getattr(layer.mlp, n) for n in ("down_proj", "c_proj", "dense_4h_to_h") if hasattr(layer.mlp, n)
            )
            layer.register_forward_pre_hook(keep_input(f"blocks.{i}.hook_resid_pre"))
            layer.register_forward_hook(keep(f"blocks.{i}.hook_resid_post"))
            attn_out.register_forward_hook(keep(f"blocks.{i}.hook_attn_out"))
            mlp_out.register_forward_hook(keep(f"blocks.{i}.hook_mlp_out"))
            projection.register_forward_pre_hook(keep_input(f"blocks.{i}.attn.hook_z"))
            down.register_forward_pre_hook(keep_input(f"blocks.{i}.mlp.hook_post"))
            second.register_forward_pre_hook(keep_input(f"blocks.{i}.hook_resid_mid"))
            second.register_forward_pre_hook(keep_normalised(f"blocks.{i}.ln2.hook_normalized"))
            layer.mlp.register_forward_pre_hook(keep_input(f"blocks.{i}.mlp.hook_in"))
        with torch.no_grad():
            logits = model(tokens).logits
        arrays = {key: value.numpy() for key, value in seen.items()}
        np.savez(out / name / "reference.npz", tokens=tokens.numpy(), logits=logits.numpy(), **arrays)


def ropes(asked: Path, out: Path) -> None:
    """What `ROPE_INIT_FUNCTIONS` makes of each set of parameters: frequencies, and the factor of sine and cosine."""
    made = {}
    for i, parameters in enumerate(json.loads(asked.read_text())):
        config = transformers.LlamaConfig(**SIZES | dict(max_position_embeddings=640), head_dim=32)
        config.rope_parameters = parameters
        made[f"{i}"], factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
        made[f"{i} factor"] = np.float64(factor)
    np.savez(out, **made)


def gguf(file: Path, tokens: Path, out: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(np.load(tokens)).long()).logits
    np.save(out, logits.numpy())


def tokenize(file: Path, texts: Path, out: Path) -> None:
    """Token ids of a JSON list of texts by the tokenizer of a GGUF file, without special tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ids = tokenizer(json.loads(texts.read_text()), add_special_tokens=False)["input_ids"]
    out.write_text(json.dumps({"ids": ids, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}))


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    {"families": families, "ropes": ropes, "gguf": gguf, "tokenize": tokenize}[command](*map(Path, paths))
