"""Calls to a server of language models: what is asked, what may be spent on it, and answers that are kept.

An answer is kept in a file of its own, named by a hash of the server's address, the model's name and the request, so
that a run that was killed repeats no call. The address belongs to it: a name means what the server makes of it, and two
servers may give one name to different weights. Keys are in none of this. Nothing is ever removed: answers cost money.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsaeval.autointerp.texts import one_line_of
from jsaeval.cache import atomic


Endpoint = Literal["chat/completions", "completions"]
# Raise it when what is kept of an answer changes.
_LAYOUT = "1"
# Characters of what is said of a failure.
_LONGEST = 300
# Tokens that a server's chat template puts around a message, at most.
_AROUND = 32


class CallError(Exception):
    """A call that came to nothing while others may go on.

    Attributes:
        kind: what failures are counted by: "timeout", "rate limit", "server error", "rejected", "refused",
            "truncated", "malformed", "alignment lost", "no levels", "budget".
        detail: what happened, in a line of bounded length without control characters: reports and terminals show it,
            and servers say what they like.
    """

    def __init__(self, kind: str, detail: str):
        detail = one_line_of(detail, _LONGEST)
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Call:
    """A request before it is made.

    Attributes:
        path: of the endpoint, beneath the server's address.
        body: of the request, without the model.
        keep: takes what is needed out of a response, as JSON; raises `CallError("malformed", ...)` where it is not
            there.
        holds: whether something that was read from a file can be what `keep` took out.
    """

    path: Endpoint
    body: dict[str, Any]
    keep: Callable[[Any], dict[str, Any]]
    holds: Callable[[dict[str, Any]], bool]

    @property
    def text(self) -> str:
        """Everything that the model reads, without the chat template."""
        if self.path == "completions":
            return self.body["prompt"]
        return "\n".join(message["content"] for message in self.body["messages"])

    @property
    def completion(self) -> int:
        """Tokens of the answer, at most."""
        return self.body["max_tokens"]

    @property
    def bound(self) -> int:
        """Tokens of request and answer, at most: no tokenizer makes more tokens of a text than it has bytes."""
        around = _AROUND * (1 + len(self.body.get("messages", ())))
        return len(self.text.encode("utf-8", "surrogatepass")) + around + self.completion

    def key(self, base_url: str, model: str) -> str:
        """What its answer is kept under."""
        content = [_LAYOUT, base_url, model, self.path, self.body]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What was kept of a response, with its cost.

    Attributes:
        content: what `Call.keep` took out of it.
        prompt_tokens, completion_tokens: as the server counted them; None where it does not.
        seconds: from request to response, waiting for retries not included.
    """

    content: dict[str, Any]
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


@dataclass(frozen=True)
class KeptAnswers:
    """A folder of answers. Files appear whole or not at all."""

    folder: Path

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str, call: Call) -> Answer | None:
        """The answer of a call; None where it is not there, or was harmed from outside: it is asked for again."""
        try:
            answer = Answer(**json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        counts = answer.prompt_tokens, answer.completion_tokens
        sound = isinstance(answer.seconds, float) and all(isinstance(own, int | None) for own in counts)
        return answer if sound and isinstance(answer.content, dict) and call.holds(answer.content) else None

    def put(self, key: str, answer: Answer) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(vars(answer)), encoding="utf-8")


@dataclass
class Budget:
    """What may be spent in this process; None: without limit. Every attempt counts, kept answers do not.

    A call is only made if it fits even where each byte of its text is a token, so the limit is never passed; a little
    of it may be left over.
    """

    calls: int | None = None
    tokens: int | None = None
    spent_calls: int = 0
    spent_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def reserve(self, call: Call) -> None:
        """Raises CallError("budget") where the call does not fit."""
        with self._lock:
            if self.calls is not None and self.spent_calls >= self.calls:
                raise CallError("budget", f"all {self.calls:,} calls are used up")
            if self.tokens is not None and self.spent_tokens + call.bound > self.tokens:
                raise CallError(
                    "budget", f"{self.spent_tokens:,} of {self.tokens:,} tokens are used up, another call may not fit"
                )
            self.spent_calls += 1
            self.spent_tokens += call.bound

    def settle(self, call: Call, tokens: int) -> None:
        """What a reserved call really cost."""
        with self._lock:
            self.spent_tokens += tokens - call.bound
