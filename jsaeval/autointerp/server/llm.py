"""Explainer `llm`: a chat model says what the strongest examples have in common.

`bills`: Bills et al. 2023. The strongest examples alone, activations as 0 to 10, a phrase as the answer.
`bricken`: Bricken et al. 2023 (Towards Monosemanticity, automated interpretability). Examples of all strengths and some
random text, in windows of nine tokens with levels from 0 to 9, tokens that the latent makes more and less likely, and
reasoning before the answer. Their examples of the same tokens out of context are not in the evidence.
The texts of the prompts and their demonstrations are our own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from jsaeval.autointerp.evidence import INTERVALS, Evidence, Example
from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.server.calls import Answer, Call, CallError
from jsaeval.autointerp.server.chat import answered_text, chat_call
from jsaeval.autointerp.server.client import Server
from jsaeval.autointerp.server.estimate import Estimate, estimate
from jsaeval.autointerp.server.prompting import Demonstration, chat_prompt, demonstrations, is_sparse
from jsaeval.autointerp.server.shown import one_line, quantised, token_texts
from jsaeval.autointerp.texts import LONGEST_TEXT, one_line_of
from jsaeval.errors import InputError, nearest
from jsaeval.lm.tokenizer import TextTokenizer


Prompt = Literal["bills", "bricken"]
PROMPTS: tuple[Prompt, ...] = get_args(Prompt)
# Top examples of Bills' prompt; top, of each interval, and random examples of Bricken's.
_BILLS, _TOP, _EACH, _RANDOM = 5, 10, 2, 5
_AROUND = 4  # tokens on either side, in Bricken's windows
_BILLS_TOKENS, _BRICKEN_TOKENS = 100, 600  # of an answer, at most
_HIGHEST = 9  # level of Bricken's prompt
_ANSWER = re.compile(r"^[\s*#]*explanation[\s*]*:[\s*]*(.*)$", re.IGNORECASE | re.MULTILINE)

# A token and its level.
_Records = list[list[tuple[str, int]]]


@dataclass(frozen=True)
class LLMExplainer:
    """Explanations by a chat model.

    Attributes:
        server: that is asked.
        tokenizer: of the LM that is explained.
        prompt: `bills` or `bricken`.
        logits: by latent, tokens that it makes more and less likely, the most so first, where this is known; for
            `bricken`.

    Raises:
        InputError: no such prompt.
    """

    server: Server
    tokenizer: TextTokenizer
    prompt: str = "bills"
    logits: Mapping[int, tuple[Sequence[str], Sequence[str]]] | None = None

    def __post_init__(self):
        if self.prompt not in PROMPTS:
            raise InputError(f"--prompt {self.prompt!r}: no such prompt{nearest(self.prompt, PROMPTS)}")

    def explain(self, evidence: Sequence[Evidence]) -> list[Explanation]:
        """One call for each latent that can be explained.

        Raises:
            InputError: what stops all calls; see `Server.answers`.
        """
        able = _able(evidence)
        answers = dict(zip((own.latent for own in able), self.server.answers(self._calls(able)), strict=True))
        return [self._one(own, answers.get(own.latent), self.server.failed) for own in evidence]

    def kept(self, evidence: Sequence[Evidence]) -> list[Explanation | None]:
        """What `explain` will give without a call; None for others."""
        able = _able(evidence)
        answers = {own.latent: self.server.kept(call) for own, call in zip(able, self._calls(able), strict=True)}
        asked = {latent for latent, answer in answers.items() if answer is None}
        return [
            None if own.latent in asked else self._one(own, answers.get(own.latent), lambda kind: None)
            for own in evidence
        ]

    def estimate(self, evidence: Sequence[Evidence]) -> Estimate:
        """What `explain` will ask for."""
        return estimate(self._calls(_able(evidence)), self.server, self.tokenizer)

    def _calls(self, evidence: Sequence[Evidence]) -> list[Call]:
        if self.prompt == "bills":
            return [chat_call(bills_messages(own, self.tokenizer), _BILLS_TOKENS) for own in evidence]
        logits = self.logits or {}
        return [
            chat_call(bricken_messages(own, self.tokenizer, *logits.get(own.latent, ((), ()))), _BRICKEN_TOKENS)
            for own in evidence
        ]

    def _one(self, evidence: Evidence, answer: Answer | CallError | None, failed: Callable[[str], None]) -> Explanation:
        """`failed`: told the kind of an answer that is of no use."""
        name = f"llm {self.prompt} {self.server.name}"
        if answer is None:
            return Explanation(evidence.latent, "", name, error=evidence.problem or "no examples to explain it by")
        try:
            if isinstance(answer, CallError):
                raise answer
            return Explanation(evidence.latent, self._read(answer), name)
        except CallError as error:
            if error is not answer:
                failed(error.kind)
            return Explanation(evidence.latent, "", name, error=str(error))

    def _read(self, answer: Answer) -> str:
        text = answered_text(answer)
        if self.prompt == "bricken":
            # Reasoning that leaks into explanations spoiled 13 to 19 % of theirs; without the line there is none.
            found = _ANSWER.findall(text)
            if not found or not found[-1].strip():
                raise CallError("malformed", "the answer has no line that begins with 'Explanation:'")
            text = found[-1]
        text = one_line_of(text, LONGEST_TEXT).strip(" \"'*`“”")
        if not text:
            raise CallError("malformed", "the answer is empty")
        return text


def _able(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Of the latents that can be explained."""
    return [own for own in evidence if own.problem is None and own.of("explain")]


def bills_messages(evidence: Evidence, tokenizer: TextTokenizer) -> list[dict[str, str]]:
    """The chat of Bills' prompt: the strongest examples of the split `explain`, at most five."""
    shown = _strongest(evidence)[:_BILLS]
    neurons = [_bills(own.records, own.explanation) for own in demonstrations()]
    return chat_prompt(
        "explain_bills", demonstrations=neurons, subject=_bills(_records(shown, tokenizer, highest=10), None)
    )


def _bills(records: _Records, explanation: str | None) -> dict:
    return {"records": records, "sparse": is_sparse(records), "explanation": explanation}


def bricken_messages(
    evidence: Evidence, tokenizer: TextTokenizer, promotes: Sequence[str] = (), suppresses: Sequence[str] = ()
) -> list[dict[str, str]]:
    """The chat of Bricken's prompt: top, interval and random examples of the split `explain`."""
    intervals = evidence.of("explain", "interval")
    found = {"Strongest": _strongest(evidence)[:_TOP]}
    for i in range(INTERVALS, 0, -1):
        own = [example for example in intervals if example.interval == i]
        found[f"Between {i - 1} and {i} tenths of the largest activation"] = own[:_EACH]
    found["Random text"] = evidence.of("explain", "random")[:_RANDOM]
    found = {heading: [_narrow(example) for example in own] for heading, own in found.items() if own}
    # One scale for all of them.
    records = iter(_records([example for own in found.values() for example in own], tokenizer, _HIGHEST))
    groups = [(heading, [next(records) for _ in own]) for heading, own in found.items()]
    subject = {
        "groups": groups,
        "promotes": [one_line(token) for token in promotes],
        "suppresses": [one_line(token) for token in suppresses],
        "explanation": None,
    }
    demonstrated = [_bricken(own) for own in demonstrations()]
    return chat_prompt("explain_bricken", demonstrations=demonstrated, subject=subject)


def _bricken(own: Demonstration) -> dict:
    records = [[(token, min(_HIGHEST, level)) for token, level in record] for record in own.records]
    groups = [("Strongest", records[:2]), ("Weaker", records[2:-1]), ("Random text", records[-1:])]
    return {
        "groups": groups,
        "promotes": own.promotes,
        "suppresses": own.suppresses,
        "reasoning": own.reasoning,
        "explanation": own.explanation,
    }


def _strongest(evidence: Evidence) -> list[Example]:
    """Top examples, the strongest first; where there are none, those that it fires in."""
    examples = evidence.of("explain", "top") or evidence.of("explain", "interval", "active") or evidence.of("explain")
    return sorted(examples, key=lambda example: -float(np.max(example.activations, initial=0.0)))


def _narrow(example: Example) -> tuple:
    around = slice(max(0, example.focus - _AROUND), example.focus + _AROUND + 1)
    return example.tokens[around], example.activations[around]


def _records(shown: Sequence, tokenizer: TextTokenizer, highest: int) -> _Records:
    """Tokens and levels of examples, on one scale."""
    pairs = [(own.tokens, own.activations) if isinstance(own, Example) else own for own in shown]
    levels = quantised([activations for _, activations in pairs], highest)
    return [
        list(zip(token_texts(tokenizer, tokens), own.tolist(), strict=True))
        for (tokens, _), own in zip(pairs, levels, strict=True)
    ]
