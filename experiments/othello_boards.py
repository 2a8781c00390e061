"""How well features of a language model tell the board: probes, coverage and board reconstruction.

A latent with a threshold is a detector of a property (a square that is mine, theirs or empty): it says yes where the
latent is above 0, 0.1, ..., 1 of the largest value that it has on the training boards. Two measures are F1 scores of
detectors (Karvonen et al. 2024, arXiv 2408.00113):

    coverage        each property has the one detector with the best F1; mean over properties
    reconstruction  detectors with a precision of at least 0.95 and at least 10 hits vote for a property; a board is the
                    union of the votes

as in SAE_BoardGameEval (commit 7187d4a: `f1_analysis.py`, `analysis.py`, `eval_board_reconstruction.py`). There both
choose on the boards that they score (coverage its detectors, reconstruction its threshold), and coverage has one
threshold for all properties. Here the training and validation boards choose, the test boards score, and each property
has its own threshold; `Detectors.f1` is the value on the boards that chose. There a square with one right and one
wrong vote counts as wrong, here one with a right vote and any wrong one.

`probe_loss` is that of Gao et al. 2024 (arXiv 2406.04093, §4.2): logistic regression on the best single latent.

Counts and scores are in float64. A tally is (right, wrong, missed) for each game, so that games can be resampled:
positions of one game are not independent.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from experiments.othello_games import Split, Splits
from jsaeval.metrics.compute import Estimate
from jsaeval.probes.logistic import fit_logistic
from jsaeval.probes.single import single_probes
from jsaeval.stats.bootstrap import row_counts


SHARES = np.linspace(0.0, 1.0, 11)
PRECISION, HITS = 0.95, 10
# C of scikit-learn, for features scaled to a mean square of 1.
STRENGTHS = (1e-2, 1.0)
MEASURES = ("probe_loss", "accuracy", "coverage", "reconstruction", "reconstruction_discs")


class Detectors(NamedTuple):
    """For each property a latent and what it has to exceed; and its F1 on the boards that chose it."""

    latent: Int[np.ndarray, " property"]
    threshold: Float[np.ndarray, " property"]
    f1: Float[np.ndarray, " property"]


class Counts(NamedTuple):
    """Boards on which a detector says yes, and those of them where a property holds."""

    yes: Float[np.ndarray, "share latent"]
    right: Float[np.ndarray, "share latent property"]


def thresholds(latents: Float[np.ndarray, "board latent"]) -> Float[np.ndarray, "share latent"]:
    """Shares of each latent's largest activation; of one that is never positive, infinity."""
    peak = latents.max(axis=0).astype(np.float64)
    return np.where(peak > 0, SHARES[:, None] * peak, np.inf)


def count(
    latents: Float[np.ndarray, "board latent"],
    properties: Bool[np.ndarray, "board property"],
    above: Float[np.ndarray, "share latent"],
) -> Counts:
    """Count over boards for all detectors and properties."""
    truth = properties.astype(np.float64)
    yes, right = [], []
    for threshold in above:
        says = (latents > threshold).astype(np.float64)
        yes.append(says.sum(axis=0))
        right.append(says.T @ truth)
    return Counts(np.stack(yes), np.stack(right))


def best_detectors(
    counts: Counts, positives: Float[np.ndarray, " property"], above: Float[np.ndarray, "share latent"]
) -> Detectors:
    """The detector with the largest F1 for each property. `positives`: boards on which it holds."""
    f1 = 2 * counts.right / np.maximum(counts.yes[..., None] + positives, 1)
    flat = f1.reshape(-1, f1.shape[-1])
    best = flat.argmax(axis=0)
    return Detectors(best % above.shape[1], above.ravel()[best], flat.max(axis=0))


def detect(latents: Float[np.ndarray, "board latent"], detectors: Detectors) -> Bool[np.ndarray, "board property"]:
    """What the detectors say."""
    return latents[:, detectors.latent] > detectors.threshold


def voters(counts: Counts) -> Bool[np.ndarray, "share latent property"]:
    """Which detectors vote for which property."""
    precision = counts.right / np.maximum(counts.yes, 1)[..., None]
    return (precision >= PRECISION) & (counts.right >= HITS)


def vote(
    latents: Float[np.ndarray, "board latent"],
    above: Float[np.ndarray, " latent"],
    votes: Bool[np.ndarray, "latent property"],
) -> Bool[np.ndarray, "board property"]:
    """Properties that an active detector votes for."""
    return (latents > above).astype(np.float64) @ votes.astype(np.float64) > 0


def tally(
    said: Bool[np.ndarray, "board property"],
    properties: Bool[np.ndarray, "board property"],
    game: Int[np.ndarray, " board"],
) -> Float[np.ndarray, "3 game property"]:
    """(right, wrong, missed) per game. `game`: ascending numbers, none left out."""
    return np.stack([per_game(x, game) for x in (said & properties, said & ~properties, ~said & properties)])


def square_tally(
    said: Bool[np.ndarray, "board property"],
    properties: Bool[np.ndarray, "board property"],
    game: Int[np.ndarray, " board"],
    kinds: int = 3,
) -> Float[np.ndarray, "3 game"]:
    """As `tally`, over all properties of all squares; a right vote beside a wrong one for the same square is wrong.

    Such a square is no right answer, and its property, for which somebody voted, is not missed.
    """
    right, wrong, missed = (
        x.reshape(len(said), -1, kinds) for x in (said & properties, said & ~properties, ~said & properties)
    )
    clean = right & ~wrong.any(axis=2, keepdims=True)
    return np.stack([per_game(x.sum(axis=(1, 2)), game) for x in (clean, wrong, missed)])


def per_game(values: np.ndarray, game: Int[np.ndarray, " board"]) -> np.ndarray:
    """Sums over the boards of each game."""
    first = np.flatnonzero(np.diff(game, prepend=-1))
    return np.add.reduceat(values.astype(np.float64), first, axis=0)


def f1(
    tallied: Float[np.ndarray, "3 game *property"], weights: Float[np.ndarray, "resample game"]
) -> Float[np.ndarray, "resample *property"]:
    """2 right / (2 right + wrong + missed) for each weighting of the games; 0 where nothing is there and none said."""
    right, wrong, missed = (np.tensordot(weights, x, axes=1) for x in tallied)
    return 2 * right / np.maximum(2 * right + wrong + missed, 1)


def reconstruct(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: Float[np.ndarray, "board latent"],
    kinds: int = 3,
) -> tuple[Bool[np.ndarray, "board property"], float]:
    """Test boards as the votes have them, and the share of the largest activation that was best on validation boards.

    Args:
        train: latents (board, latent) and properties (board, property), which find the voters.
        validation: the same, which choose the share.
        test: latents of the boards to reconstruct.
        kinds: properties of a square, which lie beside each other.
    """
    above = thresholds(train[0])
    votes = voters(count(*train, above))
    one_game, everything = np.zeros(len(validation[0]), int), np.ones((1, 1))
    scores = [
        f1(square_tally(vote(validation[0], *detector), validation[1], one_game, kinds), everything)[0]
        for detector in zip(above, votes, strict=True)
    ]
    best = int(np.argmax(scores))
    return vote(test, above[best], votes[best]), float(SHARES[best])


class Line(NamedTuple):
    """`MEASURES` of some features with resamples of games; `by_kind`: their values for mine, theirs, empty."""

    measures: dict[str, Estimate]
    by_kind: dict[str, list[float]]
    about: dict[str, float]


Features = Callable[[Split], Float[np.ndarray, "board feature"]]


def weights_of(n_games: int, seed: int = 0) -> Float[np.ndarray, "resample game"]:
    """All games once, then how often each is in each resample."""
    return np.concatenate([np.ones((1, n_games)), row_counts(n_games, seed)])


def estimate(values: Float[np.ndarray, " resample"], n: int) -> Estimate:
    """From the values of all weightings, the first of which is the plain one."""
    return Estimate(float(values[0]), n, values[1:])


def measure_latents(splits: Splits, features: Features, seed: int = 0) -> Line:
    """Every feature as a latent: the best single probe, coverage, reconstruction."""
    judged, z = splits.judged, [features(split) for split in splits]
    labels = splits.train.properties[:, judged]
    latent, slope, mean, bias, converged = (
        np.asarray(v) for v in _best_singles(jnp.asarray(z[0]), jnp.asarray(labels))
    )
    logits = (z[2][:, latent].astype(np.float64) - mean) * slope + bias
    above = thresholds(z[0])
    detectors = best_detectors(count(z[0], labels, above), labels.sum(axis=0).astype(np.float64), above)
    pairs = [(own, split.properties) for own, split in zip(z[:2], splits[:2], strict=True)]
    board, share = reconstruct(pairs[0], pairs[1], z[2])
    about = {
        "features": z[0].shape[1],
        "coverage_in_sample": float(detectors.f1.mean()),
        "reconstruction_share": share,
        "converged": float(converged.mean()),
    }
    return scored(splits, logits, detect(z[2], detectors), board, about, seed)


@jax.jit
def _best_singles(z: Float[Array, "board latent"], labels: Bool[Array, "board property"]) -> tuple[Array, ...]:
    everything = jnp.ones(len(z), bool)

    def one(own: Bool[Array, " board"]) -> tuple[Array, ...]:
        fits = single_probes(z, own, everything)
        best = jnp.argmin(fits.objective)
        slope = fits.weight / fits.scale
        return best, slope[best], fits.mean[best], fits.bias[best], fits.converged[best]

    return lax.map(one, labels.T)


def measure_linear(splits: Splits, features: Features, seed: int = 0) -> Line:
    """All features together: L2 logistic regression, whose strength is chosen on the validation boards.

    The probe is then fitted on training and validation boards. Its answers stand in for those of detectors and voters.
    """
    judged, x = splits.judged, [features(split) for split in splits]
    both = np.concatenate(x[:2])
    mean = both.mean(axis=0, dtype=np.float64)
    scale = np.sqrt(np.square(both - mean).mean())
    both, test = (((part - mean) / scale).astype(np.float32) for part in (both, x[2]))
    labels = np.concatenate([split.properties[:, judged] for split in splits[:2]])
    validates = np.arange(len(both)) >= len(x[0])
    folds = jnp.asarray(np.stack([~validates, np.ones_like(validates)]))
    weights, bias, converged = (np.asarray(v) for v in _linear_probes(jnp.asarray(both), jnp.asarray(labels), folds))
    chosen = np.einsum("bf,pcf->bpc", both[validates], weights[:, 0]) + bias[:, 0]
    loss = np.logaddexp(0, chosen) - labels[validates][..., None] * chosen
    best = np.arange(len(judged)), loss.mean(axis=0).argmin(axis=1)
    logits = test.astype(np.float64) @ weights[:, 1][best].T + bias[:, 1][best]
    board = np.zeros(splits.test.properties.shape, bool)
    board[:, judged] = logits > 0
    about = {"features": both.shape[1], "converged": float(converged[:, 1][best].mean())}
    return scored(splits, logits, logits > 0, board, about, seed)


@jax.jit
def _linear_probes(x, labels, folds) -> tuple[Array, ...]:
    strengths = jnp.asarray(STRENGTHS, x.dtype)

    def one(own: Bool[Array, " board"]) -> tuple[Array, ...]:
        fits = fit_logistic(x, own, folds, strengths, "l2")
        return fits.weights, fits.bias, fits.converged

    return lax.map(one, labels.T)


def scored(
    splits: Splits,
    logits: Float[np.ndarray, "board judged"],
    said: Bool[np.ndarray, "board judged"],
    board: Bool[np.ndarray, "board property"],
    about: dict[str, Any],
    seed: int,
) -> Line:
    """Scores on the test boards.

    Args:
        splits: where the truth is.
        logits: of the probes.
        said: answers of the detectors.
        board: the reconstruction.
        about: passed on.
        seed: of the resamples, which are the same games for all features.
    """
    test, judged = splits.test, splits.judged
    truth = test.properties[:, judged]
    weights = weights_of(len(np.unique(test.game)), seed)
    boards = weights @ per_game(np.ones(len(truth)), test.game)
    loss, right = np.logaddexp(0, logits) - truth * logits, (logits > 0) == truth
    by_property = {
        "probe_loss": weights @ per_game(loss, test.game) / boards[:, None],
        "accuracy": weights @ per_game(right, test.game) / boards[:, None],
        "coverage": f1(tally(said, truth, test.game), weights),
    }
    measures = {name: estimate(values.mean(axis=1), len(truth)) for name, values in by_property.items()}
    everything, discs = np.ones(board.shape[1], bool), np.arange(board.shape[1]) % 3 < 2
    for name, shown, kinds in (("reconstruction", everything, 3), ("reconstruction_discs", discs, 2)):
        rebuilt = f1(square_tally(board[:, shown], test.properties[:, shown], test.game, kinds), weights)
        measures[name] = estimate(rebuilt, len(truth))
    own = [judged % 3 == kind for kind in range(3)]
    by_kind = {name: [float(values[0][kind].mean()) for kind in own] for name, values in by_property.items()}
    return Line(measures, by_kind, about)
