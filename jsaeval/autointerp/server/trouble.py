"""What goes wrong with a call, judged by what the `openai` package raises: stop, try again, or go on without it."""

import email.utils
import time
from typing import Any

from jsaeval.autointerp.server.calls import CallError
from jsaeval.errors import one_line


class Again(CallError):
    """A call that may succeed if it is made again. `after`: seconds that the server asks to wait; `reached`: whether
    there was a server at all."""

    def __init__(self, kind: str, detail: str, after: float | None = None, reached: bool = True):
        super().__init__(kind, detail)
        self.after, self.reached = after, reached


class Objection(Exception):
    """The server objects to a parameter that has another form."""


def said(error: Any) -> str:
    """The message of a server inside an error, as it is."""
    body = getattr(error, "body", None)
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    cause = getattr(error, "__cause__", None)
    if body is None and cause is not None and not hasattr(error, "status_code"):
        return one_line(cause)
    return body if isinstance(body, str) else str(body) if body else one_line(error)


def judge(error: Any, text: str) -> CallError:
    """An error of the `openai` package as one of ours; `text` is what to say of it.

    Kinds that stop everything: "key", "quota", "no model". `Again`: worth another attempt.
    """
    status = getattr(error, "status_code", None)
    if status is None:
        reached = type(error).__name__ != "APIConnectionError"
        return Again("malformed" if reached else "no connection", text, reached=reached)
    detail, code = f"HTTP {status}: {text}", str(getattr(error, "code", None))
    if status in (401, 403):
        return CallError("key", detail)
    if status == 404 or code == "model_not_found":
        return CallError("no model", detail)
    if status == 429:
        if code == "insufficient_quota":
            return CallError("quota", detail)
        return Again("rate limit", detail, retry_after(error.response.headers))
    if status in (408, 409, 425) or status >= 500:
        return Again("server error", detail, retry_after(error.response.headers))
    return CallError("rejected", detail)


def retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, section 10.2.3: a number, or a date)."""
    text = headers.get("retry-after")
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
