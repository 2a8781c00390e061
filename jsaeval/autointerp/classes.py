"""Scores of yes and no: does a token fire (Neuron2Graph), a window (detection), the marked token (fuzzing)?

Sources: firing precision and recall as in Gao et al. 2024 (arXiv 2406.04093, §4.3): recall on activations drawn
uniformly from those that are not 0, precision on random text. Detection and fuzzing as in Paulo et al. 2024 (arXiv
2410.13928), with a simulator for the judge: it says yes where it simulates enough, as was best in the split
`calibrate`. Both classes weigh the same, so whoever always says the same is right half of the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jsaeval.autointerp import measures
from jsaeval.autointerp.populations import Tokens, Window


@dataclass(frozen=True)
class Value:
    """A score, or None and why it is not defined; of a score that is a convention, `reason` says which."""

    value: float | None
    reason: str | None = None


def firing(active: Sequence[Window], random: Sequence[Window], above: float) -> dict[str, Value]:
    """Precision, recall and F1 of "the explanation fires where more than `above` is simulated".

    Args:
        active: windows around activations that were drawn uniformly; recall is that at their focus tokens.
        random: windows of text, whose tokens precision is of.
        above: in the unit of the simulator.
    """
    focus = [own.simulated[own.example.focus] > above for own in active]
    recall = Value(float(np.mean(focus))) if focus else Value(None, "no activations were drawn")
    return _with_f1(_precision(random, above), recall)


def weighted_firing(windows: Sequence[Window], above: float) -> dict[str, Value]:
    """The same, both estimated from windows that stand for a corpus."""
    recall = Value(None, "the latent does not fire here")
    if windows and any(own.fires for own in windows):
        tokens = Tokens.of(windows)
        fires = tokens.activations != 0
        recall = Value(float(np.average(tokens.simulated[fires] > above, weights=tokens.weights[fires])))
    return _with_f1(_precision(windows, above), recall)


def _precision(windows: Sequence[Window], above: float) -> Value:
    tokens = Tokens.of(windows) if windows else None
    if tokens is None or not (said := tokens.simulated > above).any():
        return Value(None, "the explanation fires nowhere" if windows else "no examples")
    return Value(float(np.average(tokens.activations[said] != 0, weights=tokens.weights[said])))


def _with_f1(precision: Value, recall: Value) -> dict[str, Value]:
    """An explanation that misses every activation has F1 = 0, wherever else it may fire."""
    if recall.value == 0:
        f1 = Value(0.0)
    elif recall.value is None or precision.value is None:
        f1 = Value(None, recall.reason or precision.reason)
    else:
        f1 = Value(2 * precision.value * recall.value / (precision.value + recall.value))
    return {"firing_precision": precision, "firing_recall": recall, "firing_f1": f1}


@dataclass(frozen=True)
class _Cases:
    """What was simulated, and whether yes is right."""

    simulated: Float[np.ndarray, " token"]
    yes: Bool[np.ndarray, " token"]
    weights: Float[np.ndarray, " token"]

    @property
    def both(self) -> bool:
        return bool(self.yes.any() and not self.yes.all())


def detection(calibrate: Sequence[Window], score: Sequence[Window]) -> dict[str, Value]:
    """Does the latent fire in a window? What is simulated of a window is its largest value."""

    def cases(windows: Sequence[Window]) -> _Cases:
        simulated = np.array([own.simulated.max() for own in windows], np.float64)
        return _Cases(simulated, np.array([own.fires for own in windows], bool), np.ones(len(windows)))

    return _classified("detection", cases(calibrate), cases(score))


def fuzzing(calibrate: Sequence[Window], score: Sequence[Window]) -> dict[str, Value]:
    """Is the marked token one where the latent fires? Of the windows in which it fires at some tokens, not at all.

    In each window as much weight lies on the tokens where it does not fire as on those where it does: what a draw of
    equally many gives on average.
    """

    def cases(windows: Sequence[Window]) -> _Cases:
        some = [own for own in windows if own.fires and (own.activations == 0).any()]
        if not some:
            return _Cases(np.zeros(0), np.zeros(0, bool), np.zeros(0))
        yes = [own.activations != 0 for own in some]
        weights = [np.where(fires, 1.0, fires.sum() / (~fires).sum()) for fires in yes]
        return _Cases(Tokens.of(some).simulated, np.concatenate(yes), np.concatenate(weights))

    return _classified("fuzzing", cases(calibrate), cases(score))


def _classified(name: str, calibrate: _Cases, score: _Cases) -> dict[str, Value]:
    ids = f"{name}_accuracy", f"{name}_auc"
    if not score.both:
        none = Value(None, "examples of one class only" if len(score.yes) else "no examples")
        return dict.fromkeys(ids, none)
    found = Value(measures.auc(score.simulated, score.yes, score.weights))
    if not calibrate.both:
        return {ids[0]: Value(None, "no threshold: `calibrate` has examples of one class only"), ids[1]: found}
    above = measures.threshold(calibrate.simulated, calibrate.yes, calibrate.weights)
    right = measures.balanced_accuracy(score.simulated > above, score.yes, score.weights)
    return {ids[0]: Value(right), ids[1]: found}
