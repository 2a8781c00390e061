"""What raters send, checked against the study; anything else is refused in one sentence."""

import asyncio
import math
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from jsaeval.rating.rubric import Question
from jsaeval.rating.server.texts import typed
from jsaeval.rating.store import LONGEST_TEXT, NOTE
from jsaeval.rating.study import Item, Study


MOST_BYTES, _MOST_FIELDS = 64 * 1024, 512
MOST_SECONDS = 10  # for a form to arrive
# Why an item is skipped: what the form sends, and what is stored.
REASONS = {
    "unclear": "I cannot judge it",
    "language": "I do not read its language",
    "unwanted": "I would rather not read it",
    "broken": "It is not shown as it should be",
    "other": "Another reason",
}
LONGEST_REASON = 500
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
_NUMBER = re.compile(r"[0-9]{1,2}")


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form.

    Raises:
        HTTPException: it is none, too large, or does not arrive.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "A form was expected.")
    try:
        async with asyncio.timeout(MOST_SECONDS):
            body = await _body_of(request)
    except TimeoutError:
        said = f"The form took longer than {MOST_SECONDS} seconds to arrive, and nothing was stored."
        raise HTTPException(408, said) from None
    except ClientDisconnect:  # nobody is there to read this
        raise HTTPException(400, "The form did not arrive.") from None
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:  # UnicodeDecodeError too
        raise HTTPException(400, "The form cannot be read.") from None
    form = dict(fields)
    if len(form) != len(fields):
        raise HTTPException(400, "A field of the form is there twice.")
    return form


async def _body_of(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"That is too much at once: at most {MOST_BYTES // 1024} KB are taken.")
    return bytes(body)


def nonce_of(form: Mapping[str, str]) -> str:
    """The nonce, by which an event sent twice is stored once."""
    nonce = form.get("nonce", "")
    if not _NONCE.fullmatch(nonce):
        raise HTTPException(400, "The form has no valid nonce.")
    return nonce


def seconds_of(form: Mapping[str, str]) -> float:
    """Seconds of activity; 0 where nothing measured them."""
    try:
        seconds = float(form.get("seconds") or 0)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise HTTPException(400, "The seconds are no number.")
    return seconds


def asked_of(form: Mapping[str, str], study: Study, item: Item) -> tuple[int, Question]:
    """(unit, question) that an answer is about."""
    unit, id = form.get("unit", ""), form.get("question", "")
    if not _NUMBER.fullmatch(unit) or int(unit) not in item.units:
        raise HTTPException(422, "That group is not rated here.")
    for question in study.rubric.asked(study.logits):
        if question.id == id:
            return int(unit), question
    raise HTTPException(422, "There is no such question.")


def value_of(text: str, question: Question) -> str:
    """An answer to a question."""
    if not _NUMBER.fullmatch(text) or int(text) > question.highest:
        raise HTTPException(422, f"An answer from 0 to {question.highest} was expected.")
    return str(int(text))


def text_of(id: str, text: str, study: Study) -> str:
    """What was written to one of the texts, as it is stored."""
    if id not in {NOTE, *(own.id for own in study.rubric.texts)}:
        raise HTTPException(422, "There is no such text.")
    return _short(typed(text), LONGEST_TEXT)


def reason_of(form: Mapping[str, str]) -> str:
    """Why an item is skipped."""
    if form.get("reason") not in REASONS:
        raise HTTPException(422, "A reason for the skip was expected.")
    more = _short(typed(form.get("more", "")), LONGEST_REASON).strip()
    reason = REASONS[form["reason"]]
    return f"{reason}: {more}" if more else reason


def _short(text: str, longest: int) -> str:
    if len(text) > longest:
        raise HTTPException(422, f"The text is too long: at most {longest} characters are kept.")
    return text
