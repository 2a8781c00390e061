"""SIGTERM as a polite request: what a preempted machine sends some seconds before it is gone."""

import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jax.experimental import multihost_utils

from jsaeval import processes


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM does not end the process; the function that is handed out says whether to stop.

    Of several processes any may be told. JAX's runtime, which then listens to the signal itself, finds a step that none
    of them has passed; so all have to ask equally often.
    """
    if processes.count() > 1:
        steps = itertools.count()
        yield lambda: multihost_utils.reached_preemption_sync_point(next(steps))
        return
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there may signals be handled
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
