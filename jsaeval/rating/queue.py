"""In which order a rater gets the items of a study, and which come twice."""

import hashlib
from dataclasses import dataclass

from jsaeval.rating.study import Study


@dataclass(frozen=True)
class Place:
    """A place in a rater's queue: an item, and whether it was there before."""

    item: str
    again: bool


def queue_of(study: Study, rater: str) -> tuple[Place, ...]:
    """A rater's queue: every item once, in an order of the rater's own, and some a second time.

    Which are repeated is drawn for each rater from those that come in the first half; they come again in the second
    half, so that about half a queue lies between. A study of fewer than four items has no repeats.

    Args:
        study: the study.
        rater: the rater's name; the order depends on it and the study's seed alone.
    """

    def draw(what: str, id: str) -> bytes:
        return hashlib.sha256(f"{study.id}/{study.seed}/{rater}/{what}/{id}".encode()).digest()

    order = sorted(study.items, key=lambda id: draw("order", id))
    half = len(order) // 2
    wanted = max(1, round(study.repeats * len(order))) if study.repeats > 0 and half >= 2 else 0
    again = sorted(order[:half], key=lambda id: draw("again", id))[:wanted]
    queue = [Place(id, False) for id in order]
    for id in again:  # all of them behind the first half, which does not move
        first = order.index(id) + half
        later = int.from_bytes(draw("place", id)[:8], "big") % (len(order) - first)
        queue.insert(first + 1 + later, Place(id, True))
    return tuple(queue)
