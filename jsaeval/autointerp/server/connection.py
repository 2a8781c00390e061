"""One request to an OpenAI-compatible server, through the `openai` package.

The key comes from the environment (`OPENAI_API_KEY`) and goes nowhere but into the header of requests: it is removed
from whatever a server says before that is shown or kept. (Out of answers only where it is long enough to be a secret.)
"""

import json
import os
import threading
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from jsaeval.autointerp.server.adapt import adapted, objected
from jsaeval.autointerp.server.calls import Call
from jsaeval.autointerp.server.trouble import Again, Objection, judge, said
from jsaeval.autointerp.texts import one_line_of
from jsaeval.errors import InputError, nearest


OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
# Local servers want a header and do not look at it.
_NO_KEY = "no-key"
# Shorter ones are no secrets but words that local servers take ("none", "ollama"), which stand in answers, too.
_SHORTEST_SECRET = 12
_LONGEST = 200  # characters of what a server says


def checked_address(base_url: str) -> str:
    """An address without a slash at its end.

    Raises:
        InputError: it is none, holds a secret, or its server needs a key and the environment has none.
    """
    parts = urlsplit(base_url)
    if parts.username or parts.password or parts.query:
        raise InputError(f"--base-url: keys do not belong into an address; give them in {KEY}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"--base-url {base_url!r}: an address such as {OPENAI} was expected")
    if base_url.rstrip("/") == OPENAI and not _key():
        raise InputError(f"--base-url {OPENAI}: needs a key in the environment variable {KEY}")
    return base_url.rstrip("/")


def _key() -> str:
    """Raises InputError, which does not show it, where it cannot stand in a header."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{KEY}: holds characters that no key has")
    return key


def without_key(text: str, shortest: int = 1) -> str:
    """A text in which the key does not stand, if it has at least so many characters."""
    key = _key()
    return text.replace(key, f"[{KEY}]") if len(key) >= shortest else text


def _told(error: Any) -> str:
    """What a server says in an error. The key is taken out before the text is cut: a half of it would stay."""
    return one_line_of(without_key(said(error)), _LONGEST)


class Connection:
    """To a server at an address. Threads may share it."""

    def __init__(self, base_url: str, timeout: float):
        self._base_url, self._timeout = base_url, timeout
        self._objections: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._client: Any = None

    def post(self, call: Call, model: str) -> Any:
        """The response, as JSON.

        Raises:
            InputError: the server refuses the key, does not know the model, or nothing is left to spend.
            Again: another attempt may succeed.
            Objection: another attempt is made in another form.
            CallError: the server rejects the request.
        """
        import openai  # seconds of start-up that only servers need

        client = self._open()
        with self._lock:
            objections = dict(self._objections)
        body = adapted(call.body | {"model": model}, objections)
        post = client.chat.completions if call.path == "chat/completions" else client.completions
        extra = {name: body[name] for name in ("response_format",) if name in body}
        plain = {name: value for name, value in body.items() if name not in extra}
        try:
            response = post.with_raw_response.create(**plain, extra_body=extra)
        except openai.APITimeoutError:
            raise Again("timeout", f"no answer within {self._timeout:g} s") from None
        except openai.APIError as error:
            raise self._judged(error, model, body, objections) from None
        try:
            content = response.http_response.content.decode("utf-8", "replace")
            return json.loads(without_key(content, _SHORTEST_SECRET))
        except (ValueError, RecursionError):
            raise Again("malformed", "the response is not JSON") from None

    def models(self) -> list[str]:
        """Names of the models that the server lists; none where it has no list.

        Raises:
            InputError: the server cannot be reached, or refuses the key.
        """
        import openai

        try:
            return [one_line_of(str(model.id), _LONGEST) for model in self._open().models.list().data]
        except openai.APIConnectionError as error:
            raise self.absent(_told(error)) from None
        except openai.APIError as error:
            trouble = judge(error, _told(error))
            if trouble.kind == "key":
                raise self._judged(error, "", {}, {}) from None
            return []
        except (ValueError, TypeError, AttributeError, RecursionError):  # whatever stands at this address
            return []

    def close(self) -> None:
        """Close what is open; the next request opens it again."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def absent(self, detail: str) -> InputError:
        """What to say of a server that is not there."""
        return InputError(f"--base-url {self._base_url}: cannot be reached ({detail}); answers so far are kept")

    def _judged(self, error: Any, model: str, body: dict[str, Any], objections: dict[str, int]) -> Exception:
        trouble = judge(error, _told(error))
        match trouble.kind:
            # llama.cpp's Python server objects with HTTP 500.
            case "rejected" | "server error" if name := objected(body, one_line_of(said(error), _LONGEST), objections):
                with self._lock:  # several calls at a time may meet with the same objection
                    self._objections[name] = max(self._objections[name], objections.get(name, 0) + 1)
                return Objection()
            case "no model":
                return InputError(self._unknown(model, trouble.detail))
            case "key":
                advice = f"look at {KEY}" if _key() else f"{KEY} is not set"
                return InputError(f"{self._base_url}: does not accept the key ({trouble.detail}); {advice}")
            case "quota":
                return InputError(f"{self._base_url}: nothing is left to spend ({trouble.detail})")
        return trouble

    def _unknown(self, model: str, detail: str) -> str:
        names = self.models()
        if model in names:
            return f"--base-url {self._base_url}: has the model {model!r}, but not for this ({detail})"
        hint = nearest(model, names) if names else "; is the address right? It usually ends in /v1"
        return f"--model {model!r}: {self._base_url} does not know it ({detail}){hint}"

    def _open(self) -> Any:
        import openai

        with self._lock:
            if self._client is None:
                # Retries are not left to it: the budget has to see each.
                self._client = openai.OpenAI(
                    base_url=self._base_url, api_key=_key() or _NO_KEY, timeout=self._timeout, max_retries=0
                )
        return self._client
