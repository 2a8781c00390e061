"""Small random models, and their folders and files on disk."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from jsaeval.lm.card import LMCard
from jsaeval.lm.config import DecoderConfig, LinearRope
from jsaeval.lm.weights import Tensors, build, stack
from jsaeval.sae.module import SAE, SAECard


CONFIG = DecoderConfig(
    family="llama",
    n_blocks=3,
    d_model=16,
    n_heads=4,
    n_kv_heads=2,
    d_head=6,
    d_mlp=24,
    vocab=50,
    context=64,
    norm_eps=1e-5,
    rotary_dims=6,
    rope_theta=10_000.0,
)
CARD = LMCard("tiny", context=64, bos=1, eos=2, pad=0)
GEMMA = dataclasses.replace(
    CONFIG,
    family="gemma",
    activation="gelu_tanh",
    tied_embedding=True,
    embedding_scale=4.0,
    wide_norms=True,
)
GEMMA2 = dataclasses.replace(
    GEMMA, family="gemma2", windows=(5, 0, 5), query_scalar=11.0, attn_logit_cap=2.0, logit_cap=3.0
)
GEMMA3 = dataclasses.replace(
    GEMMA,
    family="gemma3",
    windows=(5, 5, 0),
    query_scalar=11.0,
    rope_theta=1_000_000.0,
    rope_scaling=LinearRope(8.0),
    local_rope_theta=100.0,
)
HOOK = "blocks.1.hook_resid_post"


def random_tensors(
    config: DecoderConfig = CONFIG,
    seed: int = 0,
    bias: bool = False,
    qk_norm: bool = False,
    biases: bool = False,
    out_norms: bool = False,
):
    """Weights under their canonical names, large enough that every part of a block matters.

    `bias`: of queries, keys and values; `biases`: of everything; `out_norms`: after attention and MLP.
    """
    rng = np.random.default_rng(seed)
    c = config

    def normal(*shape, scale=0.3):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": normal(c.vocab, c.d_model, scale=1.0),
        "model.norm.weight": 1 + normal(c.d_model),
    }
    if not c.tied_embedding:
        tensors["lm_head.weight"] = normal(c.vocab, c.d_model, scale=0.6)
    rows = {"q": c.n_heads * c.d_head, "k": c.n_kv_heads * c.d_head, "v": c.n_kv_heads * c.d_head}
    for i in range(c.n_blocks):
        p = f"model.layers.{i}"
        tensors[f"{p}.input_layernorm.weight"] = 1 + normal(c.d_model)
        tensors[f"{p}.post_attention_layernorm.weight"] = 1 + normal(c.d_model)
        if out_norms:
            tensors[f"{p}.self_attn.out_norm.weight"] = 1 + normal(c.d_model)
            tensors[f"{p}.mlp.out_norm.weight"] = 1 + normal(c.d_model)
        for name, n in rows.items():
            tensors[f"{p}.self_attn.{name}_proj.weight"] = normal(n, c.d_model)
            if bias:
                tensors[f"{p}.self_attn.{name}_proj.bias"] = normal(n)
        tensors[f"{p}.self_attn.o_proj.weight"] = normal(c.d_model, rows["q"])
        if qk_norm:
            tensors[f"{p}.self_attn.q_norm.weight"] = 1 + normal(c.d_head)
            tensors[f"{p}.self_attn.k_norm.weight"] = 1 + normal(c.d_head)
        for name in ("gate", "up") if c.gated else ("up",):
            tensors[f"{p}.mlp.{name}_proj.weight"] = normal(c.d_mlp, c.d_model)
        tensors[f"{p}.mlp.down_proj.weight"] = normal(c.d_model, c.d_mlp)
    if not c.rotary_dims:
        tensors["model.embed_positions.weight"] = normal(c.context, c.d_model)
    if biases:
        named = [name for name in tensors if name.endswith("weight") and "embed" not in name and "head" not in name]
        tensors |= {name.replace("weight", "bias"): normal(len(tensors[name])) for name in named}
    return tensors


def make_lm(config: DecoderConfig, tensors: dict, dtype=jnp.float32):
    source = Tensors(frozenset(tensors), tensors.__getitem__, "tiny")
    return build(config, stack(config, source), CARD, jnp.dtype(dtype))


def tiny_lm(dtype=jnp.float32):
    return make_lm(CONFIG, random_tensors(), dtype)


def tiny_sae(activation="relu", d_in=16, d_sae=40, hook=HOOK, seed=1, k=5, input_norm="none", d_out=None):
    """A random SAE; about a third of its latents fire. With `d_out`, a transcoder."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape) * 0.3, jnp.float32)

    b_dec = normal(d_out or d_in)
    return SAE(
        W_enc=normal(d_in, d_sae),
        b_enc=normal(d_sae) - 0.3,
        W_dec=normal(d_sae, d_out or d_in),
        b_dec=b_dec,
        b_pre=b_dec if d_out is None else normal(d_in),
        threshold=jnp.abs(normal(d_sae)) if activation in ("jumprelu", "batch_topk") else None,
        b_gate=normal(d_sae) - 0.3 if activation == "gated" else None,
        r_mag=normal(d_sae) if activation == "gated" else None,
        input_norm=input_norm,
        activation=activation,
        k=k if activation == "topk" else None,
        card=SAECard(f"tiny-{activation}", hook, "tiny"),
    )


HF_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "hidden_act": "silu",
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}


def write_hf_folder(folder, tensors: dict | None = None, config: dict | None = None):
    """A Hugging Face model folder without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(HF_CONFIG if config is None else config))
    save_file(random_tensors() if tensors is None else tensors, folder / "model.safetensors")
    return folder
