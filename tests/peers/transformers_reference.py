"""Run by the Python of the peers' environment: writes what `transformers` computes, as files the tests compare with.

python transformers_reference.py families OUT          tiny random models, one folder a family, with logits and states
python transformers_reference.py gguf FILE TOKENS OUT  logits of a GGUF file in float32
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers


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
}


def families(out: Path) -> None:
    for name, config in FAMILIES.items():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        for name_, parameter in model.named_parameters():  # zero biases and unit norms would hide mistakes
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name_ else 0.0, 0.25)
        model.save_pretrained(out / name)
        tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 53, (3, 24)))
        seen = {}

        def keep(key, seen=seen):
            return lambda module, inputs, output: seen.__setitem__(
                key, output[0] if isinstance(output, tuple) else output
            )

        def keep_input(key, seen=seen):
            return lambda module, inputs: seen.__setitem__(key, inputs[0])

        stack = model.base_model
        for i, layer in enumerate(stack.layers if hasattr(stack, "layers") else stack.h):
            attention = next(getattr(layer, n) for n in ("self_attn", "attn", "attention") if hasattr(layer, n))
            projection = next(getattr(attention, n) for n in ("o_proj", "c_proj", "dense") if hasattr(attention, n))
            second = getattr(layer, "ln_2", None) or layer.post_attention_layernorm
            layer.register_forward_pre_hook(keep_input(f"blocks.{i}.hook_resid_pre"))
            layer.register_forward_hook(keep(f"blocks.{i}.hook_resid_post"))
            layer.mlp.register_forward_hook(keep(f"blocks.{i}.hook_mlp_out"))
            attention.register_forward_hook(keep(f"blocks.{i}.hook_attn_out"))
            projection.register_forward_pre_hook(keep_input(f"blocks.{i}.attn.hook_z"))
            second.register_forward_pre_hook(keep_input(f"blocks.{i}.hook_resid_mid"))
        with torch.no_grad():
            logits = model(tokens).logits
        arrays = {key: value.numpy() for key, value in seen.items()}
        np.savez(out / name / "reference.npz", tokens=tokens.numpy(), logits=logits.numpy(), **arrays)


def gguf(file: Path, tokens: Path, out: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(np.load(tokens)).long()).logits
    np.save(out, logits.numpy())


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    {"families": families, "gguf": gguf}[command](*map(Path, paths))
