"""Log-probabilities of a prompt that a completions server echoes: where they stand, and what they say of levels.

Servers disagree on what `top_logprobs[i]` is. OpenAI's legacy endpoint and vLLM give the distribution *of* token i,
given those before it; llama.cpp's Python server gives the distribution *after* token i (and then lists token i in it as
well) for models without BOS, and that of token i for models with one. So nothing is taken on trust: prompts have many
tokens that cannot be missed, and the reading under which they are predicted is the right one.

Lines are found by their tabs, not by `text_offset`: offsets count a BOS that the server put before the prompt, and
drift where a character is spread over several tokens. Tokens of a prompt hold no tab of their own, so the n-th token
that ends with a tab is that of the n-th line however the token before it was split.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jsaeval.autointerp.explanation import LEVELS
from jsaeval.autointerp.server.calls import CallError


# Places where no level is known yet.
UNKNOWN = "?"
_LEAST = -1e9  # nats
_LEVEL_NAMES = [str(level) for level in range(LEVELS)]


@dataclass(frozen=True)
class Echo:
    """An echoed prompt: the text of each token, and the likeliest tokens that the server lists at it."""

    tokens: list[str]
    top: list[dict[str, float] | None]


def read_echo(response: Any) -> Echo:
    """The log-probabilities in a response of a completions endpoint.

    Raises:
        CallError: there are none, or the prompt is not among them.
    """
    try:
        logprobs: dict[str, Any] = response["choices"][0]["logprobs"]
        tokens, top = logprobs["tokens"], logprobs["top_logprobs"]
    except (KeyError, IndexError, TypeError):
        raise CallError("malformed", "the server returns no logprobs") from None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise CallError("malformed", "the server returns no tokens")
    top = [_numbers(own) for own in top] if isinstance(top, list) else []
    if not any(top):
        raise CallError("malformed", "the server returns no top_logprobs")
    if len(top) != len(tokens):
        raise CallError("alignment lost", f"{len(tokens)} tokens have {len(top)} top_logprobs")
    return Echo(tokens, top)


def _numbers(top: Any) -> dict[str, float] | None:
    if not isinstance(top, dict):
        return None
    # Servers write null, or -Infinity, for what cannot be.
    return {name: min(0.0, own) for name, own in top.items() if isinstance(own, int | float) and own > _LEAST} or None


def are_tops(found: Any, size: int) -> bool:
    """Whether something that was read from a file can be `placeholders` of so many lines."""
    return (
        isinstance(found, list)
        and len(found) == size
        and all(isinstance(top, dict) for top in found)
        and all(isinstance(own, int | float) and _LEAST < own <= 0 for top in found for own in top.values())
    )


def votes(echo: Echo) -> tuple[int, int]:
    """How many tokens are the likeliest under each reading: `top[i]` is of token i, or of token i + 1."""
    counts = [0, 0]
    for i, top in enumerate(echo.top):
        if top is not None:
            best = max(top, key=top.__getitem__)
            for shift in (0, 1):
                counts[shift] += i + shift < len(echo.tokens) and echo.tokens[i + shift] == best
    return counts[0], counts[1]


def shift_of(counts: tuple[int, int]) -> int | None:
    """0 or 1: `top[i]` is of token i + shift; None where the counts do not tell."""
    less, more = sorted(counts)
    return None if more < 3 + 1.5 * less else counts.index(more)


def after_tabs(echo: Echo, lines: int) -> list[int]:
    """Index of the token that follows each of the tabs of a prompt.

    Raises:
        CallError: other tokens than those of the prompt; a tab that is not the end of a token.
    """
    found = []
    for i, token in enumerate(echo.tokens):
        if "\t" in token and len(found) < lines:  # what the model wrote after the prompt may have some
            if token.count("\t") > 1 or not token.endswith("\t"):
                raise CallError("alignment lost", f"a token of the server is {token!r}")
            found.append(i + 1)
    if len(found) < lines or found[-1] >= len(echo.tokens):
        raise CallError("alignment lost", f"{len(found)} of {lines} lines of the prompt were echoed")
    return found


def placeholders(echo: Echo, tabs: int, lines: int, shift: int) -> list[dict[str, float]]:
    """The likeliest tokens at the places of the unknown levels of the last lines.

    Args:
        echo: of the prompt.
        tabs: in the prompt.
        lines: with unknown levels, the last of the prompt.
        shift: `top[i]` is of token i + shift.

    Raises:
        CallError: the lines are not found, or the server says nothing of one.
    """
    found = []
    for i in after_tabs(echo, tabs)[tabs - lines :]:
        if not echo.tokens[i].startswith(UNKNOWN):
            raise CallError("alignment lost", f"{echo.tokens[i]!r} stands where {UNKNOWN!r} was asked for")
        top = echo.top[i - shift]
        if top is None:
            raise CallError("alignment lost", "a line of the prompt has no top_logprobs")
        found.append(top)
    return found


def level_distribution(
    tops: list[dict[str, float]], highest: int
) -> tuple[Float[np.ndarray, "position level"], Float[np.ndarray, " position"]]:
    """Distributions over the levels 0 to 10, and the probability that levels had before they were normalised.

    Args:
        tops: log-probabilities of tokens at each place, in nats. A level that is not listed has probability 0.
        highest: 10, or 9 for tokenizers that split "10"; level 10 has no probability then.

    Raises:
        CallError: at some place no level is listed.
    """
    raw = np.zeros((len(tops), LEVELS))
    for row, top in zip(raw, tops, strict=True):
        for level, name in enumerate(_LEVEL_NAMES[: highest + 1]):
            if (logprob := top.get(name)) is not None:
                row[level] = math.exp(logprob)
    mass = raw.sum(axis=1)
    if not (mass > 0).all():
        most = max(map(len, tops), default=0)
        raise CallError("no levels", f"none is among the {most} likeliest tokens at {int((mass <= 0).sum())} places")
    return raw / mass[:, None], mass
