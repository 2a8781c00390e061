"""The shape of a decoder: every architectural switch in one frozen dataclass."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretch of the rotary wavelengths (Grattafiori et al. 2024, arXiv 2407.21783)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class DecoderConfig:
    """One decoder-only transformer with rotary positions, RMS norms before each half-block and a gated MLP.

    Biases and the norms on queries and keys are present when their weights are.
    `windows` gives each block's attention window in tokens (0: unlimited); None means unlimited everywhere.
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
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    tied_embedding: bool = False
    windows: tuple[int, ...] | None = None

    @property
    def queries_per_kv(self) -> int:
        return self.n_heads // self.n_kv_heads
