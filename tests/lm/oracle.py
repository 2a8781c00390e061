"""A decoder in float64 numpy, written from the formulas, with loops over heads and queries. Shapes: one row."""

import math

import numpy as np

from jsaeval.lm.config import LinearRope, YarnRope


def run(config, tensors, tokens, splice=None):
    """Activations at every hook by name, and the logits. `splice(name, x)` may replace an activation."""
    t = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    splice = splice or (lambda name, x: x)
    seen = {}

    def hook(name, x):
        seen[name] = x = splice(name, x)
        return x

    def linear(name, x):
        return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0)

    def standard(x):
        if config.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        return rms(x, 1, config.norm_eps)

    def norm(name, x):
        return standard(x) * t[f"{name}.weight"] + t.get(f"{name}.bias", 0)

    x = t["model.embed_tokens.weight"][tokens] * config.embedding_scale
    if "model.embed_positions.weight" in t:
        x = x + t["model.embed_positions.weight"][: len(x)]
    for i in range(config.n_blocks):
        p = f"model.layers.{i}"
        x = before = hook(f"blocks.{i}.hook_resid_pre", x)
        z = attention(config, t, p, norm(f"{p}.input_layernorm", x), i, linear)
        z = hook(f"blocks.{i}.attn.hook_z", z)
        out = linear(f"{p}.self_attn.o_proj", z)
        if f"{p}.self_attn.out_norm.weight" in t:
            out = norm(f"{p}.self_attn.out_norm", out)
        x = x + hook(f"blocks.{i}.hook_attn_out", out)
        if not config.parallel:
            x = before = hook(f"blocks.{i}.hook_resid_mid", x)
        name = f"{p}.post_attention_layernorm"
        h = hook(f"blocks.{i}.ln2.hook_normalized", standard(before))
        h = hook(f"blocks.{i}.mlp.hook_in", h * t[f"{name}.weight"] + t.get(f"{name}.bias", 0))
        if config.gated:
            h = activation(config, linear(f"{p}.mlp.gate_proj", h)) * linear(f"{p}.mlp.up_proj", h)
        else:
            h = activation(config, linear(f"{p}.mlp.up_proj", h))
        out = linear(f"{p}.mlp.down_proj", hook(f"blocks.{i}.mlp.hook_post", h))
        if f"{p}.mlp.out_norm.weight" in t:
            out = norm(f"{p}.mlp.out_norm", out)
        x = x + hook(f"blocks.{i}.hook_mlp_out", out)
        x = hook(f"blocks.{i}.hook_resid_post", x)
    final = norm("model.norm", x)
    return seen, capped(final @ t.get("lm_head.weight", t["model.embed_tokens.weight"]).T, config.logit_cap)


def capped(x, cap):
    return x if cap is None else cap * np.tanh(x / cap)


def activation(config, x):
    if config.activation == "silu":
        return x / (1 + np.exp(-x))
    if config.activation == "gelu":
        return x * np.vectorize(math.erfc)(-x / np.sqrt(2)) / 2
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def rms(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def attention(config, t, p, x, block, linear):
    n, d = len(x), config.d_head
    window = config.windows[block] if config.windows else 0

    def project(name, heads):
        out = linear(f"{p}.self_attn.{name}_proj", x).reshape(n, heads, d)
        if f"{p}.self_attn.{name}_norm.weight" in t:
            out = rms(out, t[f"{p}.self_attn.{name}_norm.weight"], config.norm_eps)
        return out if name == "v" else np.stack([rotate(config, out[i], i, window) for i in range(n)])

    q, k, v = project("q", config.n_heads), project("k", config.n_kv_heads), project("v", config.n_kv_heads)
    z = np.zeros((n, config.n_heads, d))
    for head in range(config.n_heads):
        shared = head // (config.n_heads // config.n_kv_heads)
        for i in range(n):
            first = max(0, i - window + 1) if window else 0
            scores = k[first : i + 1, shared] @ q[i, head] / np.sqrt(config.query_scalar or d)
            scores = capped(scores, config.attn_logit_cap)
            weights = np.exp(scores - scores.max())
            z[i, head] = weights / weights.sum() @ v[first : i + 1, shared]
    return z.reshape(n, -1)


def rotate(config, x, position, window):
    half = config.rotary_dims // 2
    out = x.copy()
    factor = getattr(config.rope_scaling, "attention_factor", 1.0)
    for j in range(half):
        if window and config.local_rope_theta:
            angle = position * config.local_rope_theta ** (-2 * j / config.rotary_dims)
        else:
            angle = position * frequency(config, j)
        a, b = x[:, j] * factor, x[:, j + half] * factor
        out[:, j], out[:, j + half] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
    return out


def frequency(config, j):
    base = config.rope_theta ** (-2 * j / config.rotary_dims)
    s = config.rope_scaling
    if s is None:
        return base
    if isinstance(s, LinearRope):
        return base / s.factor
    if isinstance(s, YarnRope):
        return yarn(config, s, base, j)
    wavelength = 2 * np.pi / base
    if wavelength > s.original_context / s.low_freq_factor:
        return base / s.factor
    if wavelength < s.original_context / s.high_freq_factor:
        return base
    smooth = (s.original_context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    return (1 - smooth) * base / s.factor + smooth * base


def yarn(config, s, base, j):
    """Planes up to `first` keep their frequency, those from `last` on are stretched, linear between."""

    def plane(turns):  # by bisection: the plane that turns so often in the original context
        low, high = -100.0, 100.0
        for _ in range(200):
            middle = (low + high) / 2
            angle = s.original_context * config.rope_theta ** (-2 * middle / config.rotary_dims)
            low, high = (middle, high) if angle > 2 * np.pi * turns else (low, middle)
        return low

    first, last = plane(s.beta_fast), plane(s.beta_slow)
    if s.truncate:
        first, last = math.floor(first), math.ceil(last)
    first = max(first, 0)
    if j <= first:
        return base
    if j >= last:
        return base / s.factor
    stretched = (j - first) / (last - first)
    return stretched * base / s.factor + (1 - stretched) * base
