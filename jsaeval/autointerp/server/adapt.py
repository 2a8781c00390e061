"""Parameters that some servers object to, and what is sent to them instead.

Names of parameters differ between servers and change over time (`max_tokens` became `max_completion_tokens` for some
models, others allow one temperature only; a JSON schema is asked for in three ways). A server that objects says so with
HTTP 400 or 422 (or 500) and the name of the parameter; from then on it gets the next form.
"""

from collections.abc import Callable, Mapping
from typing import Any


_Body = dict[str, Any]


def _renamed(body: _Body) -> _Body:
    return {("max_completion_tokens" if name == "max_tokens" else name): value for name, value in body.items()}


def _without(parameter: str) -> Callable[[_Body], _Body]:
    return lambda body: {name: value for name, value in body.items() if name != parameter}


def _object_with_schema(body: _Body) -> _Body:
    schema = body["response_format"]["json_schema"]["schema"]
    return body | {"response_format": {"type": "json_object", "schema": schema}}


def _object(body: _Body) -> _Body:
    return body | {"response_format": {"type": "json_object"}}


# By parameter, what is sent after the first, second, ... objection.
FORMS: dict[str, tuple[Callable[[_Body], _Body], ...]] = {
    "max_tokens": (_renamed,),
    "temperature": (_without("temperature"),),
    "response_format": (_object_with_schema, _object, _without("response_format")),
}


def adapted(body: _Body, objections: Mapping[str, int]) -> _Body:
    """The body that a server gets which has objected to each parameter so many times."""
    for name, times in objections.items():
        if times and name in body:
            body = FORMS[name][times - 1](body)
    return body


def objected(body: _Body, message: str, objections: Mapping[str, int]) -> str | None:
    """Which parameter of an adapted body a server's message objects to, if another form of it is left."""
    for name, forms in FORMS.items():
        if name in message and name in body and objections.get(name, 0) < len(forms):
            return name
    return None
