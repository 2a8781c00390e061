"""Simulator `server-json`: a chat model writes a level for each token, as JSON of a given shape.

What does not have that shape is a failure that is counted (the released simulators of this kind score it as zeros). One
more answer is asked for, at a temperature at which it will be another one.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jsaeval.autointerp.explanation import LEVELS, Simulation
from jsaeval.autointerp.server.calls import Answer, Call, CallError
from jsaeval.autointerp.server.chat import answered_text, chat_call
from jsaeval.autointerp.server.client import Server
from jsaeval.autointerp.server.estimate import Estimate, estimate
from jsaeval.autointerp.server.prompting import chat_prompt, demonstrations
from jsaeval.autointerp.server.simulated import Pair, Simulated, examples_of, read, shown_examples, simulations, sound
from jsaeval.autointerp.texts import one_line_of
from jsaeval.lm.tokenizer import TextTokenizer


# Of an answer: `"31": 0,` takes about six tokens.
_TOKENS_A_LEVEL, _MORE_TOKENS = 8, 32
_RETRIED = ("malformed", "truncated")
_SECOND = 1.0  # temperature


@dataclass(frozen=True)
class JSONSimulator:
    """Simulation by a chat model.

    Attributes:
        server: that is asked.
        tokenizer: of the LM that is explained.
    """

    server: Server
    tokenizer: TextTokenizer

    def simulate(self, pairs: Sequence[Pair]) -> list[Simulation]:
        """One call for each example, and one more where the answer is of no use. Values are levels from 0 to 10.

        Raises:
            InputError: what stops all calls; see `Server.answers`.
        """
        return simulations(pairs, self._examples)

    def estimate(self, pairs: Sequence[Pair]) -> Estimate:
        """What `simulate` will ask for, if every answer that is still to come is of use."""
        return estimate(self._foreseen(sound(pairs)), self.server, self.tokenizer)

    def _foreseen(self, pairs: Sequence[Pair]) -> Iterator[Call]:
        """A call for each example, and one more where the answer that is kept is of no use."""
        for text, tokens in shown_examples(pairs, self.tokenizer):
            yield (first := json_call(text, tokens))
            if (answer := self.server.kept(first)) is not None and _is_retried(answer, len(tokens)):
                yield json_call(text, tokens, _SECOND)

    def _calls(self, pairs: Sequence[Pair], temperature: float) -> list[Call]:
        return [json_call(*own, temperature) for own in shown_examples(pairs, self.tokenizer)]

    def _examples(self, pairs: Sequence[Pair]) -> list[Simulated | CallError]:
        sizes = [len(example.tokens) for _, evidence in pairs for example in examples_of(evidence)]
        found = read(self.server, self.server.answers(self._calls(pairs, temperature=0.0)), sizes, _simulated)
        again = [i for i, own in enumerate(found) if isinstance(own, CallError) and own.kind in _RETRIED]
        if again:
            calls = self._calls(pairs, _SECOND)
            second = self.server.answers([calls[i] for i in again])
            for i, own in zip(again, read(self.server, second, [sizes[i] for i in again], _simulated), strict=True):
                found[i] = own
        return found


def _simulated(answer: Answer, size: int) -> Simulated:
    return Simulated(np.array(parse_levels(answered_text(answer), size), np.float64))


def _is_retried(answer: Answer, size: int) -> bool:
    try:
        _simulated(answer, size)
    except CallError as error:
        return error.kind in _RETRIED
    return False


def json_call(explanation: str, tokens: Sequence[str], temperature: float = 0.0) -> Call:
    """The chat for one example; the shape of its answer is asked for as a JSON schema."""
    neurons = []
    for own in demonstrations():
        record = own.records[0]
        neurons.append(
            {
                "explanation": own.explanation,
                "tokens": [token for token, _ in record],
                "levels": [level for _, level in record],
            }
        )
    subject = {"explanation": one_line_of(explanation), "tokens": tokens, "levels": None}
    messages = chat_prompt("simulate_json", demonstrations=neurons, subject=subject)
    names = [str(i) for i in range(1, len(tokens) + 1)]
    schema = {
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 0, "maximum": LEVELS - 1} for name in names},
        "required": names,
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "levels", "strict": True, "schema": schema}}
    most = _TOKENS_A_LEVEL * len(tokens) + _MORE_TOKENS
    return chat_call(messages, most, temperature, response_format=shape)


def parse_levels(text: str, size: int) -> list[int]:
    """The levels in an answer, in the order of the tokens.

    Raises:
        CallError: it is not one JSON object with every number from 1 to `size` once and whole numbers from 0 to 10.
    """
    fenced = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        found = json.loads(fenced, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise CallError("malformed", f"no JSON ({error})") from None
    if not isinstance(found, dict):
        raise CallError("malformed", "no JSON object")
    names = [str(i) for i in range(1, size + 1)]
    if set(found) != set(names):
        raise CallError("malformed", f"levels of {len(set(found) & set(names))} of {size} tokens, {len(found)} in all")
    levels = [found[name] for name in names]
    for name, level in zip(names, levels, strict=True):
        if not isinstance(level, int) or isinstance(level, bool) or not 0 <= level < LEVELS:
            raise CallError("malformed", f"the level of token {name} is no whole number from 0 to 10")
    return levels


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found
