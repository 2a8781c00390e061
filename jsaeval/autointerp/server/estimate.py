"""What calls will cost, said before the first of them is made."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.server.calls import Budget, Call
from jsaeval.autointerp.server.client import Server
from jsaeval.errors import InputError
from jsaeval.lm.tokenizer import TextTokenizer


# Seconds for a token of request or answer, as long as no call to a server was timed.
_PACE = 0.005
# A text as long as explanations are, for calls that will have one.
_USUAL = "words that name a place or a direction, most of all where something is said to begin or to end there"


@dataclass(frozen=True)
class Estimate:
    """Of calls that are still to be made. Those that have to be repeated come on top: after a failure, or because an
    answer turns out to be of no use.

    Attributes:
        calls: to make, each once.
        kept: whose answers are there.
        prompt_tokens: counted with the tokenizer of the LM that is explained; that of the server may differ.
        completion_tokens: at most.
        seconds: with so many calls at a time as the server is given.
        timed: whether the server's own pace is behind that, which kept answers tell; if not, `_PACE` is.
    """

    calls: int = 0
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    timed: bool = True

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            self.calls + other.calls,
            self.kept + other.kept,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
            self.timed and other.timed,
        )

    def describe(self, budget: Budget | None = None) -> str:
        """In a line; with a budget, also where it will not be enough."""
        if not self.calls:
            return f"no calls to make ({self.kept:,} answers are kept)"
        line = (
            f"{self.calls:,} calls to make ({self.kept:,} answers are kept; calls that have to be repeated come on "
            f"top), about {self.prompt_tokens:,} tokens to read and at most {self.completion_tokens:,} to write"
        )
        line += f", about {_duration(self.seconds)}"
        if not self.timed:
            line += f" if a token takes {1000 * _PACE:g} ms (the pace of the server is not known)"
        if budget is not None:
            tokens = self.prompt_tokens + self.completion_tokens
            if budget.calls is not None and self.calls > budget.calls - budget.spent_calls:
                line += f"; more than the {budget.calls:,} calls of --max-calls"
            if budget.tokens is not None and tokens > budget.tokens - budget.spent_tokens:
                line += f"; more than the {budget.tokens:,} tokens of --max-tokens"
        return line


def estimate(calls: Iterable[Call], server: Server, tokenizer: TextTokenizer) -> Estimate:
    """Of calls to a server; nothing is asked of it (but for the name of its model, where none was given)."""
    left, kept, read, write = set[str](), set[str](), 0, 0
    for call in calls:  # of which there may be more than fit into memory
        key = call.key(server.base_url, server.name)
        if key in left or key in kept:
            continue
        if server.has(call):
            kept.add(key)
        else:
            left.add(key)
            read += len(tokenizer.encode([call.text])[0])
            write += call.completion
    seconds = (server.pace or _PACE) * (read + write) / max(1, min(server.concurrency, len(left)))
    return Estimate(len(left), len(kept), read, write, seconds, not left or server.pace is not None)


def unwritten(latent: int) -> Explanation:
    """Stands for an explanation that is not there yet: a text of a usual length."""
    return Explanation(latent, f"{_USUAL} ({latent})", "none")


def confirm(planned: Estimate, yes: bool, ask: Callable[[str], str] | None = input) -> None:
    """Go on only if somebody agrees; without calls to make nobody is asked.

    Args:
        planned: the calls.
        yes: agreed beforehand (`--yes`).
        ask: puts a question and returns the answer; None: nobody is there.

    Raises:
        InputError: nobody agreed.
    """
    if yes or not planned.calls:
        return
    if ask is None:
        raise InputError(f"{planned.describe()}: say --yes to make them")
    if ask(f"{planned.describe()}. Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise InputError("stopped before the first call; --yes goes on without asking")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
