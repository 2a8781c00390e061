"""Simulator `server-logprobs`: levels from the distribution of the next token after each `token<tab>`, in one call.

Bills et al. 2023, all tokens at once: the prompt holds the explanation and the tokens, each followed by a tab and an
unknown level. Nothing has to be written; the server echoes the prompt, and at each unknown level lists the tokens that
it would have expected. Over those that are levels, normalised, the expected level is taken. Bills' word "unknown" is a
question mark here, because many tokenizers join a tab with the letters after it.

"10" is a token of its own for some servers. Others split it, and then the probability of "1" would be that of 1 and 10
together; they get a scale that ends at 9, where each level is one token (as Bricken et al. 2023 have it).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jsaeval.autointerp.explanation import LEVELS, Simulation
from jsaeval.autointerp.measures import expected_levels
from jsaeval.autointerp.server.calls import Answer, Call, CallError
from jsaeval.autointerp.server.client import Server
from jsaeval.autointerp.server.echo import (
    UNKNOWN,
    after_tabs,
    are_tops,
    level_distribution,
    placeholders,
    read_echo,
    shift_of,
    votes,
)
from jsaeval.autointerp.server.estimate import Estimate, estimate
from jsaeval.autointerp.server.prompting import demonstrations, text_prompt
from jsaeval.autointerp.server.simulated import Pair, Simulated, examples_of, read, shown_examples, simulations, sound
from jsaeval.autointerp.texts import one_line_of
from jsaeval.errors import InputError
from jsaeval.lm.tokenizer import TextTokenizer


# How many tokens are asked for at each place. The legacy endpoint of OpenAI allows five, vLLM twenty.
LISTED = (20, 5)
_SPLIT, _WHOLE = 9, 10  # highest level
_SHOWN = 40  # characters of a token of the server


@dataclass(frozen=True)
class Echoing:
    """How a server answers.

    Attributes:
        listed: tokens at each place.
        shift: `top_logprobs[i]` is of token i + shift.
        highest: level whose name is one token: 10, or 9.
    """

    listed: int
    shift: int
    highest: int


@dataclass(frozen=True)
class LogprobSimulator:
    """Simulation by a completions server that echoes log-probabilities of its prompt.

    Attributes:
        server: that is asked.
        tokenizer: of the LM that is explained.
    """

    server: Server
    tokenizer: TextTokenizer

    def simulate(self, pairs: Sequence[Pair]) -> list[Simulation]:
        """One call for each example, after one that finds out how the server answers. Values are expected levels.

        Raises:
            InputError: the server cannot echo, or what stops all calls; see `Server.answers`.
        """
        return simulations(pairs, self._examples)

    def estimate(self, pairs: Sequence[Pair]) -> Estimate:
        """What `simulate` will ask for."""
        if not (able := sound(pairs)):
            return Estimate()
        probed = any(self.server.has(probe_call(listed)) for listed in LISTED)
        how = self.probe() if probed else Echoing(LISTED[0], 0, _WHOLE)
        calls = (logprobs_call(*own, how) for own in shown_examples(able, self.tokenizer))
        return estimate(itertools.chain([probe_call(how.listed)], calls), self.server, self.tokenizer)

    def probe(self) -> Echoing:
        """How the server answers, from one call.

        Raises:
            InputError: it does not echo its prompt, lists no tokens, or what it lists cannot be told apart.
        """
        answer: Answer | CallError = CallError("rejected", "")
        # What it did not reject in an earlier run comes first.
        for listed in sorted(LISTED, key=lambda listed: not self.server.has(probe_call(listed))):
            (answer,) = self.server.answers([probe_call(listed)])
            if isinstance(answer, Answer):
                return self._echoing(listed, answer)
            if answer.kind != "rejected":
                break
        raise InputError(f"{self.server.base_url}: {_ADVICE} ({answer})")

    def _echoing(self, listed: int, answer: Answer) -> Echoing:
        where, content = self.server.base_url, answer.content
        shift = shift_of(tuple(content["votes"]))
        if shift is None:
            raise InputError(
                f"{where}: cannot tell whether its logprobs are of a token or of the next one (it would have expected "
                f"{content['votes'][0]} and {content['votes'][1]} of {content['tokens']} tokens); use server-json"
            )
        if content["problem"]:
            raise InputError(
                f"{where}: its tokenizer does not keep levels apart ({content['problem']}); use server-json"
            )
        return Echoing(listed, shift, content["highest"])

    def _examples(self, pairs: Sequence[Pair]) -> list[Simulated | CallError]:
        how = self.probe()

        def simulated(answer: Answer, size: int) -> Simulated:
            if answer.content["lost"]:
                raise CallError("alignment lost", answer.content["lost"])
            levels, mass = level_distribution(answer.content["tops"], how.highest)
            return Simulated(expected_levels(levels), levels, float(mass.mean()), how.highest)

        sizes = [len(example.tokens) for _, evidence in pairs for example in examples_of(evidence)]
        calls = [logprobs_call(*own, how) for own in shown_examples(pairs, self.tokenizer)]
        return read(self.server, self.server.answers(calls), sizes, simulated)


_ADVICE = "does not return the logprobs of an echoed prompt; vLLM and llama.cpp's Python server do, or use server-json"


def simulation_prompt(explanation: str, tokens: Sequence[str], highest: int) -> str:
    """The text that ends with the tokens, each with an unknown level.

    In the demonstrations the levels of the first half of the first text are unknown, so that a question mark is no
    surprise and a level no less.
    """
    neurons = []
    for own in demonstrations():
        records = [[(token, min(level, highest)) for token, level in record] for record in own.records]
        first, hidden = records[0], len(records[0]) // 2
        shown = [(token, UNKNOWN if i < hidden else level) for i, (token, level) in enumerate(first)]
        neurons.append({"explanation": own.explanation, "records": [shown, *records[1:]]})
    return text_prompt(
        "simulate_logprobs",
        demonstrations=neurons,
        explanation=one_line_of(explanation),
        tokens=tokens,
        highest=highest,
    )


def logprobs_call(explanation: str, tokens: Sequence[str], how: Echoing) -> Call:
    """The call for one example. Of the response only the unknown levels are kept: it has a megabyte or so."""
    prompt = simulation_prompt(explanation, tokens, how.highest)

    def keep(response: Any) -> dict[str, Any]:
        try:
            echo = read_echo(response)
            counts = votes(echo)
            if shift_of(counts) == 1 - how.shift:
                raise CallError("alignment lost", "the server counts tokens in another way than at first")
            return {"tops": placeholders(echo, prompt.count("\t"), len(tokens), how.shift), "lost": None}
        except CallError as error:
            if error.kind != "alignment lost":
                raise
            return {"tops": [], "lost": error.detail}

    def holds(content: dict[str, Any]) -> bool:
        lost = content.get("lost", 0)
        return isinstance(lost, str) or (lost is None and are_tops(content.get("tops"), len(tokens)))

    return _echo_call(prompt, how.listed, keep, holds)


def _echo_call(
    prompt: str, listed: int, keep: Callable[[Any], dict[str, Any]], holds: Callable[[dict[str, Any]], bool]
) -> Call:
    # One token is written, because servers disagree on what none is: for some it is as many as fit.
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": listed}
    return Call("completions", body, keep, holds)


def probe_call(listed: int) -> Call:
    """A call whose answer shows how a server answers: a text that can be foreseen, with levels and a question mark."""
    count = "".join(f"line\t{level}\n" for level in range(LEVELS))
    prompt = f"{count * 4}line\t{UNKNOWN}\n"

    def keep(response: Any) -> dict[str, Any]:
        echo = read_echo(response)
        found = {"votes": list(votes(echo)), "tokens": len(echo.tokens), "highest": _WHOLE, "problem": None}
        names = [str(level) for level in range(LEVELS)] * 4 + [UNKNOWN]
        try:
            after = [echo.tokens[i] for i in after_tabs(echo, len(names))]
        except CallError as error:
            if not any("\t" in token for token in echo.tokens):
                raise CallError("malformed", "the prompt is not echoed") from None
            return found | {"problem": error.detail}
        for token, name in zip(after, names, strict=True):
            if name == "10" and token == "1":
                found["highest"] = _SPLIT
            elif token != name and not (name == UNKNOWN and token.startswith(UNKNOWN)):
                return found | {"problem": f"{one_line_of(repr(token), _SHOWN)} for {name!r}"}
        return found

    return _echo_call(prompt, listed, keep, _is_probe)


def _is_probe(content: dict[str, Any]) -> bool:
    found = content.get("votes")
    return (
        isinstance(found, list)
        and [type(own) for own in (*found, content.get("tokens"))] == [int] * 3
        and content.get("highest") in (_SPLIT, _WHOLE)
        and isinstance(content.get("problem", 0), str | None)
    )
