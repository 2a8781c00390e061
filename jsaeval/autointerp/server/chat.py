"""Answers of chats: what is taken out of a response, and the ways in which one can be of no use."""

import re
from typing import Any

from jsaeval.autointerp.server.calls import Answer, Call, CallError


# How models decline in plain text, at the beginning of an answer.
_DECLINES = re.compile(r"(i['’]m sorry|sorry,|i (can't|can’t|cannot|am unable|won't|won’t)|as an ai\b)", re.IGNORECASE)


def chat_call(messages: list[dict[str, str]], most: int, temperature: float = 0.0, **more: Any) -> Call:
    """A chat whose answer has at most so many tokens."""
    body = {"messages": messages, "max_tokens": most, "temperature": temperature}
    return Call("chat/completions", body | more, _keep)


def _keep(response: Any) -> dict[str, Any]:
    try:
        choice = response["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise CallError("malformed", "the response has no message") from None
    if not isinstance(text, str | None):
        raise CallError("malformed", "the message is no text")
    return {"text": text or "", "finish": str(finish), "refusal": None if refusal is None else str(refusal)}


def answered_text(answer: Answer) -> str:
    """The text of a chat's answer, whole.

    Raises:
        CallError: the model refused, or the answer was cut, or is empty.
    """
    content = answer.content
    text = content["text"].rpartition("</think>")[2].strip()  # some servers leave a model's reasoning in its answer
    if content["refusal"] or content["finish"] == "content_filter" or _DECLINES.match(text):
        raise CallError("refused", _first(content["refusal"] or text or "content filter"))
    if content["finish"] == "length":
        raise CallError("truncated", f"the answer was cut after {_first(text)!r}" if text else "the answer was cut")
    if not text:
        raise CallError("malformed", "the answer is empty")
    return text


def _first(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:80]}…"
