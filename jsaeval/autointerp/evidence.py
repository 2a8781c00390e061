"""What is known of a latent from text: its statistics, and examples in three splits that share no document.

The unit is a *window*: a piece of one document in one row of the corpus, at most `WINDOW` tokens. The windows of a
split are its population; every example is one of them. So what a sample stands for is known: the stratum of a window
is the interval that its largest activation lies in, and `Evidence.strata` says how many windows there are of each.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int


Split = Literal["explain", "calibrate", "score"]
SPLITS: tuple[Split, ...] = get_args(Split)
SIMULATED: tuple[Split, ...] = ("calibrate", "score")  # those that simulators predict
# Why a window was chosen. top: it holds one of the largest activations. interval: its largest activation lies in one of
# `INTERVALS` intervals of equal width in (0, max]. active: around an activation drawn uniformly from all that are
# not 0. random: drawn uniformly from all windows, whether the latent fires there or not.
Kind = Literal["top", "interval", "active", "random"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WINDOW = 32
INTERVALS = 10


@dataclass(frozen=True)
class Example:
    """A window, and the activations of one latent on it.

    Attributes:
        kind: why it was chosen.
        interval: of its largest activation, from 1 (small) to `INTERVALS`; 0: the latent does not fire in it.
        document: number of its document in the corpus.
        row: number of its row.
        start: position of its first token in the row.
        before: the tokens of the same document that stand before it in the row, nearest last.
        tokens: its tokens; all of them count.
        activations: of the latent at each of them, in the context of the whole row.
        focus: index in `tokens` of the activation that it was chosen for; of the largest one otherwise.
        begins: whether `before` and `tokens` are all that the LM sees so far, but for BOS.
    """

    kind: Kind
    interval: int
    document: int
    row: int
    start: int
    before: Int[np.ndarray, " earlier"]
    tokens: Int[np.ndarray, " position"]
    activations: Float[np.ndarray, " position"]
    focus: int
    begins: bool


@dataclass(frozen=True)
class Statistics:
    """Of one latent over all counted tokens of the corpus (METRICS.md: the metric mask).

    Attributes:
        n_tokens: how many tokens counted.
        fires: at how many of them it is not 0.
        largest: its largest activation.
        mean_active: its mean where it fires.
        edges: of the histogram of the activations that are not 0; equal widths in (0, largest].
        counts: of that histogram.
    """

    n_tokens: int
    fires: int
    largest: float
    mean_active: float
    edges: Float[np.ndarray, " edge"]
    counts: Int[np.ndarray, " bin"]

    @property
    def density(self) -> float:
        """Share of the counted tokens at which it fires."""
        return self.fires / self.n_tokens if self.n_tokens else 0.0


@dataclass(frozen=True)
class TokenTable:
    """E[a | token] over the counted tokens of the split `explain`, for the tokens that the latent fired at.

    Attributes:
        ids: of these tokens, ascending.
        seen: how often each stands in the split.
        fires: how often the latent fired at it.
        mean: mean activation over all its occurrences, those at which it is 0 included.
        overall: mean activation over all tokens of the split.
        n_tokens: how many tokens the split has.
    """

    ids: Int[np.ndarray, " token"]
    seen: Int[np.ndarray, " token"]
    fires: Int[np.ndarray, " token"]
    mean: Float[np.ndarray, " token"]
    overall: float
    n_tokens: int

    @property
    def density(self) -> float:
        """Share of the tokens of the split at which the latent fires."""
        return float(self.fires.sum()) / self.n_tokens if self.n_tokens else 0.0


@dataclass(frozen=True)
class Evidence:
    """Everything that explainers, simulators, scores and pages see of one latent.

    Attributes:
        latent: its index.
        statistics: over the whole corpus.
        tokens: E[a | token] in the split `explain`.
        examples: of each split. Within a split and kind no two come from one document; no document is in two splits.
        strata: for each split, how many windows there are by interval, from 0 (does not fire) to `INTERVALS`.
        problem: why it cannot be explained or scored ("dead", "12 examples, at least 20 are needed"), else None.
    """

    latent: int
    statistics: Statistics
    tokens: TokenTable
    examples: dict[Split, tuple[Example, ...]]
    strata: dict[Split, Int[np.ndarray, " stratum"]] = field(default_factory=dict)
    problem: str | None = None

    def of(self, split: Split, *kinds: Kind) -> list[Example]:
        """Examples of a split, of these kinds or of all."""
        return [example for example in self.examples[split] if not kinds or example.kind in kinds]
