"""Answers as tables of unit × rater: what scores and agreement are computed from."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jsaeval.rating.answers import Answers, ItemAnswers
from jsaeval.rating.study import Study


@dataclass(frozen=True)
class Table:
    """What raters gave to units that somebody rated. A unit is an interval of an item, or the item.

    Attributes:
        items: which item each unit is of.
        intervals: its number, 0: the item as a whole.
        raters: names.
        scores: NaN where a rater did not answer everything, or skipped the item.
        questions: answers by question; NaN, too, where it was not asked.
    """

    items: tuple[str, ...]
    intervals: tuple[int, ...]
    raters: tuple[str, ...]
    scores: Float[np.ndarray, "unit rater"]
    questions: dict[str, Float[np.ndarray, "unit rater"]]

    def where(self, keep: Bool[np.ndarray, " unit"]) -> "Table":
        """Some of the units."""
        chosen = np.flatnonzero(keep)
        return Table(
            tuple(self.items[i] for i in chosen),
            tuple(self.intervals[i] for i in chosen),
            self.raters,
            self.scores[chosen],
            {id: own[chosen] for id, own in self.questions.items()},
        )


def table_of(study: Study, answers: Answers, again: bool = False) -> Table:
    """The ratings of a study that count: of items that come up for the first time, or for the second.

    Args:
        study: the study.
        answers: to it.
        again: those of repeats instead, which never enter a score.
    """
    asked = study.rubric.asked(study.logits)
    raters = tuple(sorted({rater for rater, _, _ in answers}))
    column = {rater: i for i, rater in enumerate(raters)}
    row = {(id, unit): i for i, (id, unit) in enumerate((own.id, n) for own in study.items.values() for n in own.units)}
    scores = np.full((len(row), len(raters)), math.nan)
    questions = {own.id: scores.copy() for own in asked}
    for (rater, item, repeat), own in answers.items():
        if repeat != again or own.skipped is not None:
            continue
        for unit in study.items[item].units:
            score = own.score(unit, study.rubric, study.logits)
            if score is None:
                continue
            place = row[item, unit], column[rater]
            scores[place] = score
            for question in asked:
                if question.applies(own.numbers[unit]):
                    questions[question.id][place] = own.numbers[unit][question.id]
    whole = Table(tuple(id for id, _ in row), tuple(unit for _, unit in row), raters, scores, questions)
    return whole.where(np.isfinite(scores).sum(1) > 0)


def unit_means(values: Float[np.ndarray, "unit rater"]) -> Float[np.ndarray, " unit"]:
    """The mean over the raters of each unit; NaN where there is none."""
    there = np.isfinite(values)
    n = there.sum(1)
    return np.divide(np.where(there, values, 0.0).sum(1), n, out=np.full(len(n), math.nan), where=n > 0)


def of_item(answers: Answers, item: str) -> dict[str, ItemAnswers]:
    """By rater, what there is on an item at its first time."""
    return {rater: own for (rater, id, again), own in answers.items() if id == item and not again}
