"""Every rater sees everything once, in an order of their own, and some of it again, well apart."""

import dataclasses
import itertools

import pytest

from jsaeval.rating.queue import queue_of
from tests.rating.made import made_study


def a_study(n, repeats):
    study, _ = made_study(latents=n, controls=0)
    return dataclasses.replace(study, repeats=repeats)


@pytest.mark.parametrize(
    ("n", "repeats", "again"), [(30, 0.08, 2), (30, 0.0, 0), (30, 0.5, 15), (5, 0.05, 1), (3, 0.5, 0)]
)
def test_repeats(n, repeats, again):
    study = a_study(n, repeats)
    for rater in ("ann", "bob", "cem"):
        queue = queue_of(study, rater)
        assert sorted(place.item for place in queue if not place.again) == sorted(study.items)
        seconds = [place for place in queue if place.again]
        assert len(seconds) == again == len({place.item for place in seconds})
        for place in seconds:
            first = queue.index(dataclasses.replace(place, again=False))
            assert queue.index(place) - first >= n // 2


def test_orders_are_of_the_raters_own_and_stay():
    study = a_study(30, 0.1)
    queues = [queue_of(study, f"rater {i}") for i in range(20)]
    assert queues == [queue_of(study, f"rater {i}") for i in range(20)]
    for a, b in itertools.combinations(queues, 2):
        assert a != b
    assert queues[0] != queue_of(dataclasses.replace(study, seed=1), "rater 0")
    repeated = {place.item for queue in queues for place in queue if place.again}
    assert len(repeated) > 15  # not the same few for everybody


def test_every_item_is_as_likely_to_come_first():
    study = a_study(4, 0.0)
    first = [queue_of(study, f"rater {i}")[0].item for i in range(400)]
    for id in study.items:
        assert 65 < first.count(id) < 140  # 100 expected, standard deviation 8.7
