"""Answers of chats: what is taken out of a response, and the ways in which one can be of no use."""

import re
from typing import Any

from jsaeval.autointerp.server.calls import Answer, Call, CallError
from jsaeval.autointerp.texts import one_line_of


# How models decline in plain text, at the beginning of an answer. Explanations of latents that fire on apologies and
# refusals begin with the same words, so a verb has to say what is declined.
_SORRY = r"(?:(?:i'm |i am )?(?:so |very |really )?(?:sorry|i apologi[sz]e)|unfortunately|as an ai\b[\w ]{0,40})[,.]?"
_UNABLE = (
    r"i(?:(?: am|'m) (?:unable|not able) to| can't| cannot| can not| won't| will not| (?:must|have to) decline to)"
    r"(?: \w+ly)?"
)
_DECLINED = (
    r" (?:(?:assist|help|comply|continue|engage)(?= (?:you|with|in)\b|[.!]|$)|do (?:that|this|so)\b"
    r"|(?:answer|create|describe|determine|discuss|explain|generate|give|identify|offer|provide|summari[sz]e) \w)"
)
_DECLINES = re.compile(rf"{_SORRY} but i(?:'\w+)? \w|(?:{_SORRY} )?{_UNABLE}{_DECLINED}", re.IGNORECASE)
_SHOWN = 80  # characters of an answer of no use


def chat_call(messages: list[dict[str, str]], most: int, temperature: float = 0.0, **more: Any) -> Call:
    """A chat whose answer has at most so many tokens."""
    body = {"messages": messages, "max_tokens": most, "temperature": temperature}
    return Call("chat/completions", body | more, _keep, _holds)


def _keep(response: Any) -> dict[str, Any]:
    try:
        choice = response["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise CallError("malformed", "the response has no message") from None
    content = {"text": "" if text is None else text, "finish": finish, "refusal": refusal}
    if not _holds(content):
        raise CallError("malformed", "the message is no text")
    return content


def _holds(content: dict[str, Any]) -> bool:
    there = content.keys() == {"text", "finish", "refusal"} and content["text"] is not None
    return there and all(isinstance(own, str | None) for own in content.values())


def answered_text(answer: Answer) -> str:
    """The text of a chat's answer, whole.

    Raises:
        CallError: the model refused, or the answer was cut, or is empty.
    """
    content = answer.content
    text = content["text"].rpartition("</think>")[2].strip()  # some servers leave a model's reasoning in its answer
    if content["refusal"] or content["finish"] == "content_filter" or _declines(text):
        raise CallError("refused", one_line_of(content["refusal"] or text or "content filter", _SHOWN))
    if content["finish"] == "length":
        after = f" after '{one_line_of(text, _SHOWN)}'" if text else ""
        raise CallError("truncated", f"the answer was cut{after}")
    if not text:
        raise CallError("malformed", "the answer is empty")
    return text


def _declines(text: str) -> bool:
    return _DECLINES.match(" ".join(text.split()).replace("’", "'")) is not None
