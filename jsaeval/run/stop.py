"""SIGTERM as a polite request: what a preempted machine sends some seconds before it is gone."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM does not end the process; the function that is handed out says whether it came."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there may signals be handled
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
