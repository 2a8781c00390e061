"""Measures of single latents, and shares of latents. Tier 1, interpretability.

A share over latents depends on how many tokens were seen: it is always reported with that number.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jsaeval.metrics.metric import Metric
from jsaeval.sae.module import SAE
from jsaeval.stats.table import Columns


DENSE = 0.1


@dataclass(frozen=True)
class LatentTable:
    """One entry per latent; NaN where a quantity is undefined (a latent that never fired has no mean activation).

    `fires` and `rows`: at how many tokens and in how many rows it fired.
    """

    fires: Int[np.ndarray, " latent"]
    rows: Int[np.ndarray, " latent"]
    density: Float[np.ndarray, " latent"]
    mean_activation: Float[np.ndarray, " latent"]
    max_activation: Float[np.ndarray, " latent"]
    encoder_decoder_cosine: Float[np.ndarray, " latent"]
    max_decoder_cosine: Float[np.ndarray, " latent"]

    @property
    def alive(self) -> float:
        return float((self.fires > 0).mean())

    @property
    def dense(self) -> float:
        return float((self.density > DENSE).mean())

    def density_histogram(self) -> dict[str, list[float]]:
        """Number of alive latents by log10 density, in bins of a quarter."""
        logs = np.log10(self.density[self.fires > 0])
        edges = np.arange(np.floor(logs.min(initial=-1.0) * 4) / 4, 0.25, 0.25)
        counts, _ = np.histogram(logs, bins=edges)
        return {"log10_density_edges": edges.tolist(), "latents": counts.tolist()}


def _share(id: str, direction, formula: str, source: str) -> Metric:
    return Metric(
        id=id,
        axis="interpretability",
        tier=1,
        unit="share",
        direction=direction,
        differentiable=False,
        formula=formula,
        source=source,
        needs="latents",
        value=lambda t: t[id],
    )


METRICS = (
    _share(
        "alive", "higher", "share of latents that fired at least once on N tokens", "Gao et al. 2024 (arXiv 2406.04093)"
    ),
    _share(
        "dense", "lower", f"share of latents with density > {DENSE}", "Rajamanoharan et al. 2024 (arXiv 2407.14435)"
    ),
)


def latent_table(sae: SAE, counts: Columns, n_tokens: int) -> LatentTable:
    """Per-latent measures from the counters of a run.

    Args:
        sae: the SAE that was run.
        counts: its counters, see `jsaeval.forward.latents.LatentCounts`.
        n_tokens: N, the number of counted tokens.
    """
    fires = counts["fires"]
    alive = fires > 0
    mean = np.divide(counts["total"], fires, out=np.full(len(fires), np.nan), where=alive)
    return LatentTable(
        fires=fires,
        rows=counts["rows"],
        density=fires / n_tokens if n_tokens else np.full(len(fires), np.nan),
        mean_activation=mean,
        max_activation=np.where(alive, counts["largest"], np.nan),
        encoder_decoder_cosine=encoder_decoder_cosines(sae),
        max_decoder_cosine=largest_cosines(unit(np.asarray(sae.W_dec, np.float32)), alive),
    )


def encoder_decoder_cosines(sae: SAE) -> Float[np.ndarray, " latent"]:
    """cos(W_enc[:, i], W_dec[i]); NaN for transcoders, whose two sides are of different spaces."""
    if sae.d_in != sae.d_out or sae.card.hook_out is not None:
        return np.full(sae.d_sae, np.nan)
    encoder, decoder = np.asarray(sae.W_enc, np.float32).T, np.asarray(sae.W_dec, np.float32)
    return np.einsum("md,md->m", unit(encoder), unit(decoder)).astype(np.float64)


def unit(rows: Float[np.ndarray, "latent width"]) -> Float[np.ndarray, "latent width"]:
    """The rows at length 1; zeros stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def largest_cosines(
    directions: Float[np.ndarray, "latent width"], alive: Bool[np.ndarray, " latent"]
) -> Float[np.ndarray, " latent"]:
    """Largest cosine of each alive latent's unit vector with that of another alive latent; NaN of the others."""
    out = np.full(len(directions), np.nan)
    index = np.flatnonzero(alive)
    if len(index) < 2:
        return out
    live = directions[index]
    for start in range(0, len(index), 1024):
        cosines = live[start : start + 1024] @ live.T
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -np.inf
        out[index[start : start + 1024]] = cosines.max(axis=1)
    return out
