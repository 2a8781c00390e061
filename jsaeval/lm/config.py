"""The shape of a decoder: every architectural switch in one frozen dataclass."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretch of the rotary wavelengths (Grattafiori et al. 2024, arXiv 2407.21783)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class DecoderConfig:
    """One decoder-only transformer with a norm before attention and before the MLP.

    Biases, the norms on queries and keys, and learned positions are present when their weights are.

    Attributes:
        n_kv_heads: heads of keys and values; each serves `queries_per_kv` heads of queries.
        norm: RMS norm, or layer norm with a bias.
        rotary_dims: leading dimensions of each head that carry rotary positions (0: positions are learned).
        activation: of the MLP; silu, gelu, or gelu's tanh approximation.
        gated: the MLP multiplies its activation with a second projection.
        parallel: attention and MLP read the same residual stream, and both are added to it.
        windows: each block's attention window in tokens (0: unlimited); None means unlimited everywhere.
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

    @property
    def queries_per_kv(self) -> int:
        return self.n_heads // self.n_kv_heads
