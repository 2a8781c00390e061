"""A decoder in float64 numpy, written from the formulas, with loops over heads and queries. Shapes: one row."""

import numpy as np


def run(config, tensors, tokens, biases=False, splice=None):
    """Activations at every hook by name, and the logits. `splice(name, x)` may replace an activation."""
    t = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    splice = splice or (lambda name, x: x)
    seen = {}

    def hook(name, x):
        seen[name] = x = splice(name, x)
        return x

    x = t["model.embed_tokens.weight"][tokens]
    for i in range(config.n_blocks):
        p = f"model.layers.{i}"
        x = hook(f"blocks.{i}.hook_resid_pre", x)
        z = attention(config, t, p, norm(x, t[f"{p}.input_layernorm.weight"], config.norm_eps), i)
        z = hook(f"blocks.{i}.attn.hook_z", z)
        x = x + hook(f"blocks.{i}.hook_attn_out", z @ t[f"{p}.self_attn.o_proj.weight"].T)
        x = hook(f"blocks.{i}.hook_resid_mid", x)
        h = norm(x, t[f"{p}.post_attention_layernorm.weight"], config.norm_eps)
        gate, up = h @ t[f"{p}.mlp.gate_proj.weight"].T, h @ t[f"{p}.mlp.up_proj.weight"].T
        x = x + hook(f"blocks.{i}.hook_mlp_out", (gate / (1 + np.exp(-gate)) * up) @ t[f"{p}.mlp.down_proj.weight"].T)
        x = hook(f"blocks.{i}.hook_resid_post", x)
    final = norm(x, t["model.norm.weight"], config.norm_eps)
    return seen, final @ t.get("lm_head.weight", t["model.embed_tokens.weight"]).T


def norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def attention(config, t, p, x, block):
    n, d = len(x), config.d_head

    def project(name, heads):
        out = x @ t[f"{p}.self_attn.{name}_proj.weight"].T
        if f"{p}.self_attn.{name}_proj.bias" in t:
            out = out + t[f"{p}.self_attn.{name}_proj.bias"]
        out = out.reshape(n, heads, d)
        if f"{p}.self_attn.{name}_norm.weight" in t:
            out = norm(out, t[f"{p}.self_attn.{name}_norm.weight"], config.norm_eps)
        return out if name == "v" else np.stack([rotate(config, out[i], i) for i in range(n)])

    q, k, v = project("q", config.n_heads), project("k", config.n_kv_heads), project("v", config.n_kv_heads)
    window = config.windows[block] if config.windows else 0
    z = np.zeros((n, config.n_heads, d))
    for head in range(config.n_heads):
        shared = head // (config.n_heads // config.n_kv_heads)
        for i in range(n):
            first = max(0, i - window + 1) if window else 0
            scores = k[first : i + 1, shared] @ q[i, head] / np.sqrt(d)
            weights = np.exp(scores - scores.max())
            z[i, head] = weights / weights.sum() @ v[first : i + 1, shared]
    return z.reshape(n, -1)


def rotate(config, x, position):
    half = config.d_head // 2
    out = np.empty_like(x)
    for j in range(half):
        angle = position * frequency(config, j)
        a, b = x[:, j], x[:, j + half]
        out[:, j], out[:, j + half] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
    return out


def frequency(config, j):
    base = config.rope_theta ** (-2 * j / config.d_head)
    s = config.rope_scaling
    if s is None:
        return base
    wavelength = 2 * np.pi / base
    if wavelength > s.original_context / s.low_freq_factor:
        return base / s.factor
    if wavelength < s.original_context / s.high_freq_factor:
        return base
    smooth = (s.original_context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    return (1 - smooth) * base / s.factor + smooth * base
