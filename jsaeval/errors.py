"""The one error a user is meant to see: what is wrong, where, and what would work."""

import difflib
from collections.abc import Iterable


_LISTED = 40  # options in an error


class InputError(ValueError):
    """Bad input. Its message is one line that names the thing, the value, and what would work.

    The command line prints it and exits with code 2; nothing was evaluated and nothing was overwritten.
    """


def nearest(name: str, options: Iterable[str]) -> str:
    """`'; did you mean X?'` when one of `options` is close to `name`, else a list of them."""
    choices = list(options)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {listed(choices, _LISTED)}" if choices else ""


def listed(items: Iterable[object], most: int) -> str:
    """The first of some items, and how many more there are."""
    names = [str(item) for item in items]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def one_line(error: Exception) -> str:
    """What an error of another library says, in a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
