"""The shape of a decoder: every architectural switch in one frozen dataclass."""

import hashlib
from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class LinearRope:
    """Every rotary wavelength times `factor` (Chen et al. 2023, arXiv 2306.15595)."""

    factor: float


@dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's stretch of the rotary wavelengths (Grattafiori et al. 2024, arXiv 2407.21783).

    Wavelengths longer than `original_context / low_freq_factor` are multiplied by `factor`, those shorter than
    `original_context / high_freq_factor` are kept, and those between are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class YarnRope:
    """YaRN's stretch of the rotary wavelengths (Peng et al. 2023, arXiv 2309.00071, §3).

    Planes that turn more than `beta_fast` times in the original context are kept, those that turn less than `beta_slow`
    times are stretched by `factor`, with a ramp over the planes between; its ends are whole planes if `truncate`.
    Rotated queries and keys are multiplied by `attention_factor`.
    """

    factor: float
    original_context: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


_HEADS, _OUTPUTS = ("q_norm", "k_norm"), ("attn_out_norm", "mlp_out_norm")
_MORE_NORMS = {"qwen3": _HEADS, "gemma2": _OUTPUTS, "gemma3": _HEADS + _OUTPUTS}

RopeScaling = LinearRope | Llama3Rope | YarnRope


@dataclass(frozen=True)
class DecoderConfig:
    """One decoder-only transformer with a norm before attention and before the MLP.

    Biases, learned positions, and norms besides `norms` are present when their weights are.

    Attributes:
        n_kv_heads: heads of keys and values; each serves `queries_per_kv` heads of queries.
        norm: RMS norm, or layer norm with a bias.
        rotary_dims: leading dimensions of each head that carry rotary positions (0: positions are learned).
        activation: of the MLP; silu, gelu, or gelu's tanh approximation.
        gated: the MLP multiplies its activation with a second projection.
        parallel: attention and MLP read the same residual stream, and both are added to it.
        windows: each block's attention window in tokens (0: unlimited); None means unlimited everywhere.
        local_rope_theta: theta of the blocks that have a window, without scaling; None: the same as elsewhere.
        embedding_scale: what embeddings are multiplied by.
        query_scalar: scores are q·k / sqrt(query_scalar); None: d_head.
        attn_logit_cap: c of the scores' soft cap, c tanh(s / c).
        logit_cap: the same of the logits.
        wide_norms: the weights of norms are float32 or better in a model of any dtype, and are applied before rounding.
    """

    family: str
    n_blocks: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    vocab: int
    context: int
    norm_eps: float
    norm: Literal["rms", "layer"] = "rms"
    rotary_dims: int = 0
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    gated: bool = True
    parallel: bool = False
    tied_embedding: bool = False
    windows: tuple[int, ...] | None = None
    local_rope_theta: float | None = None
    embedding_scale: float = 1.0
    query_scalar: float | None = None
    attn_logit_cap: float | None = None
    logit_cap: float | None = None
    wide_norms: bool = False

    def sha256(self, weights: str) -> str:
        """Of the weights, whose SHA-256 is given, and of everything here that is not as usual: the same weights with
        another base of rotary positions are another LM."""
        known = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        own = [f"{name}={value!r}" for name, value, usual in known if value != usual]
        return hashlib.sha256("\n".join([weights, *own]).encode()).hexdigest()

    @property
    def queries_per_kv(self) -> int:
        return self.n_heads // self.n_kv_heads

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms that a block of this family must have, by their names in `jsaeval.lm.decoder.Blocks`."""
        return ("attn_norm", "mlp_norm", *_MORE_NORMS.get(self.family, ()))

    @property
    def rope_attention_factor(self) -> float:
        return self.rope_scaling.attention_factor if isinstance(self.rope_scaling, YarnRope) else 1.0


def config_from_json(raw: dict[str, Any]) -> DecoderConfig:
    """Undo `dataclasses.asdict` and a passage through JSON.

    Raises:
        TypeError: fields that a configuration does not have, or lacks.
    """
    scaling, windows = raw.get("rope_scaling"), raw.get("windows")
    if scaling is not None:
        names = set(scaling)
        kind = next((k for k in (LinearRope, Llama3Rope, YarnRope) if {f.name for f in fields(k)} == names), None)
        if kind is None:
            raise TypeError(f"rope scaling with {sorted(names)}")
        scaling = kind(**scaling)
    return DecoderConfig(**raw | {"rope_scaling": scaling, "windows": None if windows is None else tuple(windows)})
