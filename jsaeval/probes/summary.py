"""Probes of all tasks → means over tasks, groups of tasks, and differences, each with an interval.

Test examples are resampled inside each task, independently of other tasks, and all probes of a task on the same
resamples; so differences are paired. The interval of a mean says what other test examples would give; the tasks are
fixed. A difference of means over the same tasks is the mean of the differences.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jsaeval.probes.fit import Kind
from jsaeval.probes.logistic import Penalty
from jsaeval.probes.scores import SCORES, Score, Scores, scores
from jsaeval.probes.task import Fitted, TaskResult


class Key(NamedTuple):
    """Which probe, in every task. `sae`: its index; None: on features of the LM or the text alone."""

    sae: int | None
    features: str
    kind: Kind
    k: int | None
    penalty: Penalty | None

    @classmethod
    def of(cls, fitted: Fitted) -> "Key":
        p = fitted.probe
        return cls(fitted.sae, p.features, p.kind, p.k, p.penalty)

    def on(self, features: str, sae: int | None = None) -> "Key":
        """The same probe on other features."""
        return self._replace(features=features, sae=sae)


DENSE_X = Key(None, "x", "dense", None, "l2")
# Always the share of yes in training.
NOTHING = Key(None, "none", "dense", 0, None)


@dataclass(frozen=True)
class Line:
    """The mean of a probe's scores over tasks.

    Attributes:
        key: which probe.
        tasks: over how many.
        found: scores by name.
        in_sample: mean BCE on the training examples, nats.
        minus: the paired difference from other probes, by their names: `x` (the same probe on x), `dense_x` (all of x),
            `none` (no features), and of latents `random_sae` (the same probe on those of a random SAE as sparse) and
            `shuffled_labels`.
    """

    key: Key
    tasks: int
    found: Scores
    in_sample: float
    minus: Mapping[str, Scores]


@dataclass(frozen=True)
class Summary:
    """`tasks`: scores of every probe of each task, in the order of the results. `overall`: means over all tasks;
    `groups`: over the tasks of each group."""

    tasks: tuple[dict[Key, Scores], ...]
    overall: tuple[Line, ...]
    groups: Mapping[str, tuple[Line, ...]]


def summarise(results: Sequence[TaskResult], seed: int = 0) -> Summary:
    """Score every probe, and average.

    Args:
        results: tasks with the same probes.
        seed: of the resamples.
    """
    tasks = [_scored(result, seed) for result in results]
    of_group: dict[str, list[Any]] = {}
    for result, own in zip(results, tasks, strict=True):
        of_group.setdefault(result.group, []).append(own)
    return Summary(
        tasks=tuple({key: found for key, (found, _) in own.items()} for own in tasks),
        overall=_lines(tasks),
        groups={group: _lines(members) for group, members in of_group.items()},
    )


def _scored(result: TaskResult, seed: int) -> dict[Key, tuple[Scores, float]]:
    # Tasks of one size would else be resampled alike.
    own = int.from_bytes(hashlib.sha256(f"{seed}\0{result.name}".encode()).digest()[:8], "big")
    return {
        Key.of(fitted): (scores(fitted.probe.logits, result.labels, own), fitted.probe.in_sample)
        for fitted in result.fitted
    }


def _lines(tasks: Sequence[dict[Key, tuple[Scores, float]]]) -> tuple[Line, ...]:
    means = {key: {name: _mean([task[key][0][name] for task in tasks]) for name in SCORES} for key in tasks[0]}
    return tuple(
        Line(key, len(tasks), mean, float(np.mean([task[key][1] for task in tasks])), differences(key, means))
        for key, mean in means.items()
    )


def differences(key: Key, found: Mapping[Key, Scores]) -> dict[str, Scores]:
    """The scores of a probe minus those of others on the same test examples, by their names (see `Line`)."""
    if key == NOTHING:
        return {}
    others = {"x": key.on("x"), "dense_x": DENSE_X, "none": NOTHING}
    if key.features == "latents":
        others |= {name: key.on(name, key.sae) for name in ("random_sae", "shuffled_labels")}
    there = {name: other for name, other in others.items() if other in found and other != key}
    return {name: {score: found[key][score] - found[other][score] for score in SCORES} for name, other in there.items()}


def _mean(found: Sequence[Score]) -> Score:
    value = float(np.mean([own.value for own in found]))
    return Score(value, np.mean([own.samples for own in found], axis=0))
