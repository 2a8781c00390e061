"""How far raters are: kept in memory, and brought up to date from the store before each look."""

import threading
from collections import defaultdict

from jsaeval.rating.answers import ItemAnswers, Left, answers_of
from jsaeval.rating.queue import Place, queue_of
from jsaeval.rating.store import Event, Store
from jsaeval.rating.study import Study


class Rater:
    """A rater's queue, and how far the rater is.

    Attributes:
        name: of the rater.
        queue: the places; pages know of them by their numbers alone, from 1.
        last: id of the last event that is in here, 0: none.
    """

    def __init__(self, name: str, queue: tuple[Place, ...], study: Study):
        self.name, self.queue, self.last = name, queue, 0
        self._study, self._lock = study, threading.Lock()
        self._events: dict[Place, list[Event]] = defaultdict(list)
        self._answers = dict.fromkeys(queue, ItemAnswers())
        self._left = {place: self._left_at(place) for place in queue}

    def at(self, n: int) -> ItemAnswers:
        """The answers at a place. An item's second time begins without those of its first."""
        return self._answers[self.queue[n - 1]]

    def left(self, n: int) -> Left:
        """What is left to do at a place."""
        return self._left[self.queue[n - 1]]

    def open(self) -> dict[int, Left]:
        """Places where something is left to do, and what."""
        return {n: left for n, left in enumerate(self._left.values(), 1) if left}

    def number_of(self, place: Place) -> int | None:
        """The number of a place; None: it is not in the queue."""
        return self.queue.index(place) + 1 if place in self._left else None

    def _left_at(self, place: Place) -> Left:
        study = self._study
        return self._answers[place].left(study.items[place.item], study.rubric, study.logits)

    def take_in(self, store: Store) -> None:
        """Bring it up to date."""
        with self._lock:
            new = store.events(self.name, self.last)
            for event in new:  # an undo has the place of what it undoes, so each place can be folded by itself
                self._events[Place(event.item, event.again)].append(event)
                self.last = event.id
            for place in {Place(event.item, event.again) for event in new} & self._left.keys():
                found = answers_of(self._events[place], self._study)
                self._answers[place] = found.get((self.name, place.item, place.again)) or ItemAnswers()
                self._left[place] = self._left_at(place)


class Raters:
    """All raters of a study."""

    def __init__(self, study: Study, store: Store):
        self._study, self._store, self._known = study, store, dict[str, Rater]()

    def of(self, name: str) -> Rater:
        """A rater as of now."""
        if name not in self._known:
            self._known.setdefault(name, Rater(name, queue_of(self._study, name), self._study))
        self._known[name].take_in(self._store)
        return self._known[name]
