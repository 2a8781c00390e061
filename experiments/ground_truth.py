"""Measures of an SAE against features that are known, in float64 numpy.

Of the dictionary: `mcc`, `mmcs`, `uniqueness`. Of single latents: precision, recall and F1 of firing, against the true
feature that the latent's decoder row is most like. Definitions follow SynthSAEBench (Chanin & Garriga-Alonso 2026,
arXiv 2602.14687), with the sign of a cosine where it says so.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment


class Hits(NamedTuple):
    """Tokens by row and latent: both fired, the latent fired, its true feature fired."""

    both: Int[np.ndarray, "row latent"]
    latent: Int[np.ndarray, "row latent"]
    feature: Int[np.ndarray, "row latent"]


def cosines(
    decoder: Float[np.ndarray, "latent width"], features: Float[np.ndarray, "feature width"]
) -> Float[np.ndarray, "latent feature"]:
    """cos(W_dec,i, f_j); 0 for a decoder row of zeros."""
    return _unit(decoder) @ _unit(features).T


def mcc(cosine: Float[np.ndarray, "latent feature"], signed: bool = True) -> float:
    """Mean cosine of the best one-to-one matching of latents and true features (Hungarian method).

    The mean is over the true features, so a feature that no latent is left for counts 0. `signed=False` takes |cos|, as
    SAELens does; a latent that points the opposite way then counts as found.
    """
    value = cosine if signed else np.abs(cosine)
    latents, features = linear_sum_assignment(value, maximize=True)
    return float(value[latents, features].sum() / cosine.shape[1])


def mmcs(cosine: Float[np.ndarray, "latent feature"]) -> float:
    """mean over true features of the largest signed cosine with a latent; latents may be used twice."""
    return float(cosine.max(axis=0).mean())


def uniqueness(cosine: Float[np.ndarray, "latent feature"]) -> float:
    """Number of true features that are the best match (|cos|) of some latent / number of latents."""
    return len(np.unique(best_match(cosine))) / len(cosine)


def best_match(cosine: Float[np.ndarray, "latent feature"]) -> Int[np.ndarray, " latent"]:
    """The true feature with the largest |cos| of each latent."""
    return np.abs(cosine).argmax(axis=1)


def hits(
    fired: Bool[np.ndarray, "row position latent"],
    active: Bool[np.ndarray, "row position feature"],
    match: Int[np.ndarray, " latent"],
) -> Hits:
    """How often each latent, and the true feature that `match` gives it, fired."""
    truth = active[..., match]
    return Hits((fired & truth).sum(1), fired.sum(1), truth.sum(1))


def detection(counts: Hits, weights: Float[np.ndarray, "resample row"]) -> dict[str, Float[np.ndarray, " resample"]]:
    """Precision, recall and F1 of each latent, and their means over latents; 0 where nothing fired.

    Args:
        counts: from `hits`.
        weights: how often each row counts: ones for the value, `jsaeval.stats.bootstrap.row_counts` for its interval.
    """
    both, latent, feature = (weights @ column.astype(np.float64) for column in counts)

    def mean_ratio(top, bottom):
        return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0).mean(axis=1)

    return {
        "precision": mean_ratio(both, latent),
        "recall": mean_ratio(both, feature),
        "f1": mean_ratio(2 * both, latent + feature),
    }


def _unit(rows: Float[np.ndarray, "row width"]) -> Float[np.ndarray, "row width"]:
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
