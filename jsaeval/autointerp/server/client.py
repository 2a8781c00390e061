"""A model on a server, asked many times: bounded, patient, and never twice for the same."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsaeval.autointerp.server.calls import Answer, Budget, Call, CallError, KeptAnswers
from jsaeval.autointerp.server.connection import OPENAI, Connection, checked_address
from jsaeval.autointerp.server.trouble import Again, Objection
from jsaeval.cache import cache_dir
from jsaeval.errors import InputError, nearest
from jsaeval.run.calibration import Progress


_MOST_WAIT = 120.0
# Seconds of waiting, after which it is asked whether to stop.
_LOOK = 1.0
# Calls that come to nothing one after the other, until no more are made.
_IN_A_ROW = 25


@dataclass
class Server:
    """A server, a model on it, and how they may be used.

    Attributes:
        base_url: up to and with `/v1`.
        model: as the server calls it; None: the only one that it lists.
        budget: of calls and tokens.
        concurrency: calls at the same time.
        timeout: seconds for one call.
        attempts: of one call, before it counts as failed.
        backoff: seconds before the second attempt; they double, with a random factor in [0.5, 1.5). What a server
            says in Retry-After goes before.
        folder: where answers are kept; None: in the cache folder.
        progress: called with "calls", how many more were made, and 0: how many there will be is not known.
        stop: called between calls, by any thread; it may raise. Calls under way are waited for, and their answers kept.
        failures: calls that came to nothing, and answers of no use, by kind.
        answered, found: calls that were answered now, and whose answers were there when they were first asked for.

    Raises:
        InputError: an address that is none or holds a secret, a key that is missing or is none.
    """

    base_url: str = OPENAI
    model: str | None = None
    budget: Budget = field(default_factory=Budget)
    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 6
    backoff: float = 1.0
    folder: Path | None = None
    progress: Progress = lambda stage, done, total: None
    stop: Callable[[], None] = lambda: None
    failures: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    found: int = 0

    def __post_init__(self):
        self.base_url = checked_address(self.base_url)
        if self.concurrency < 1:
            raise InputError(f"--concurrency {self.concurrency}: at least 1 was expected")
        self._connection = Connection(self.base_url, self.timeout)
        self._kept = KeptAnswers(self.folder or cache_dir("answers"))
        self._lock, self._ends = threading.Lock(), threading.Event()
        self._in_a_row, self._seconds, self._tokens = 0, 0.0, 0
        self._seen = set[str]()

    def answers(self, calls: Sequence[Call]) -> list[Answer | CallError]:
        """Answers in the order of the calls, or why there is none; equal calls are made once.

        The first call is made alone: what stops everything is found with one call.

        Raises:
            InputError: the server cannot be reached, refuses the key or does not know the model, or 25 calls in a row
                came to nothing. Answers until then are kept.
        """
        keys = [self._key(call) for call in calls]
        found: dict[str, Answer | CallError] = {}
        left: dict[str, Call] = {}
        for key, call in zip(keys, calls, strict=True):
            if key not in found and key not in left:
                if (answer := self._kept.get(key, call)) is None:
                    left[key] = call
                else:
                    found[key] = answer
                    self._measure(answer)
        self.found += len(found.keys() - self._seen)
        self._seen |= {*found, *left}
        try:
            found |= self._ask(left)
        finally:
            self._connection.close()
        return [found[key] for key in keys]

    def has(self, call: Call) -> bool:
        """Whether its answer is kept; if so, its time counts for `pace`."""
        if (answer := self.kept(call)) is None:
            return False
        self._measure(answer)
        return True

    def kept(self, call: Call) -> Answer | None:
        """Its answer, if that is kept; nothing is asked or counted."""
        return self._kept.get(self._key(call), call)

    @property
    def name(self) -> str:
        """Of the model.

        Raises:
            InputError: none was given, and the server lists several or none.
        """
        if self.model is None:
            try:
                names = self._connection.models()
            finally:
                self._connection.close()
            if not names:
                raise InputError(f"--model: {self.base_url} does not say which models it has; name one")
            if len(names) > 1:
                raise InputError(f"--model: say which one of {self.base_url}{nearest('', names)}")
            self.model = names[0]
        return self.model

    @property
    def pace(self) -> float | None:
        """Seconds that a call takes for a token of request or answer, over all answers so far; None: there are none."""
        return self._seconds / self._tokens if self._tokens else None

    def failed(self, kind: str) -> None:
        """Count a call that came to nothing, or an answer of no use."""
        with self._lock:
            self.failures[kind] += 1

    def summary(self) -> str:
        """What was asked and what came of it, in a line."""
        line = f"{self.answered:,} calls answered, {self.found:,} answers kept from before"
        if self.failures:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.failures.most_common())
            line += f"; {self.failures.total():,} failed: {kinds}"
        return line

    def _key(self, call: Call) -> str:
        return call.key(self.base_url, self.name)

    def _ask(self, left: dict[str, Call]) -> dict[str, Answer | CallError]:
        todo, found = list(left.items()), {}
        alone = 0 if self.answered else 1
        for key, call in todo[:alone]:
            found[key] = self._made(key, call)
            self.progress("calls", 1, 0)
            self.stop()
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = {pool.submit(self._made, key, call): key for key, call in todo[alone:]}
            try:
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    self.progress("calls", 1, 0)
                    self.stop()
            except BaseException:
                self._ends.set()
                pool.shutdown(cancel_futures=True)
                self._ends.clear()
                raise
        return found

    def _made(self, key: str, call: Call) -> Answer | CallError:
        """One call with all its attempts."""
        try:
            answer = self._patiently(call)
        except CallError as error:
            self.failed(error.kind)
            if isinstance(error, Again):
                with self._lock:
                    self._in_a_row += 1
                if self._in_a_row >= _IN_A_ROW:
                    raise InputError(
                        f"{self.base_url}: {_IN_A_ROW} calls in a row came to nothing, the last: {error}; answers so "
                        "far are kept, run again to go on"
                    ) from None
            return error
        self._kept.put(key, answer)
        with self._lock:
            self.answered, self._in_a_row = self.answered + 1, 0
        self._measure(answer)
        return answer

    def _measure(self, answer: Answer) -> None:
        with self._lock:
            if answer.prompt_tokens is not None and answer.completion_tokens is not None:
                self._seconds += answer.seconds
                self._tokens += answer.prompt_tokens + answer.completion_tokens

    def _patiently(self, call: Call) -> Answer:
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._once(call)
            except Again as again:
                # A server that never answered is more likely to be absent than busy.
                if attempt >= (self.attempts if again.reached or self.answered else min(2, self.attempts)):
                    if not again.reached:
                        raise self._connection.absent(again.detail) from None
                    raise Again(again.kind, f"{again.detail}, {attempt} attempts") from None
                self._wait(again, attempt)

    def _wait(self, again: Again, attempt: int) -> None:
        """Raises CallError where it would be too long."""
        seconds = min(_MOST_WAIT, self.backoff * 2 ** (attempt - 1)) * (0.5 + random.random())
        if again.after is not None:
            if again.after > _MOST_WAIT:
                raise Again(again.kind, f"{again.detail}; it asks to wait {again.after:,.0f} s") from None
            seconds = max(again.after, seconds)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._ends.wait(min(left, _LOOK)):
                raise Again(again.kind, "stopped") from None
            self.stop()

    def _once(self, call: Call) -> Answer:
        """One attempt, in as many forms as the server objects to."""
        while True:
            self.budget.reserve(call)
            began, spent = time.monotonic(), 0
            try:
                response = self._connection.post(call, self.name)
                seconds, counts = time.monotonic() - began, _usage(response)
                spent = call.bound if counts is None else sum(counts)
                return Answer(call.keep(response), *(counts or (None, None)), seconds)
            except Objection:
                continue
            except Again as again:
                if again.kind == "timeout":  # the server may have worked on it
                    spent = call.bound
                raise
            finally:
                self.budget.settle(call, spent)


def _usage(response: Any) -> tuple[int, int] | None:
    """Tokens of request and answer, as the server counted them."""
    usage = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return None
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (read, written) if isinstance(read, int) and isinstance(written, int) and min(read, written) >= 0 else None
