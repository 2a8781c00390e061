"""The prompt of the `host` simulator, as token ids: an explanation, then lines `token<tab>unknown`.

The form is that of the simulator that predicts all tokens at once in Bills et al. 2023; the words and examples are this
package's own. What the LM would put after the tab of each line is its prediction, so the positions of the tabs have to
be known. They are exact by construction: every piece of the prompt (the token of a line, tab, level, end of line) is
encoded alone, and ids are put side by side; nothing can merge across a piece.

Levels are one token each, so that the distribution over them is read off at one position. Where a tokenizer splits "10"
(SmolLM2, Qwen, Gemma: digits stand alone), the levels are 0 to 9, as in Bricken et al. 2023: P("10") would be
P("1") P("0" after "1"), and the second factor needs a forward pass of its own for every token of a text.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from jsaeval.autointerp.explanation import LEVELS
from jsaeval.errors import InputError
from jsaeval.lm.tokenizer import TextTokenizer


_TASK = (
    "A neuron of a language model fires at some tokens of a text, and is silent at the others. What makes it fire is "
    "said in its explanation. Each line of the text is a token, a tab, and how strongly the neuron fires there: from 0 "
    "(not at all) to {top} (as strongly as it ever does). At most tokens it is 0. Where it is not known, the line says "
    "unknown.\n\n"
)
_NEURON = "Neuron {number}\nExplanation: {text}\nText:\n"
# Explanation, tokens with levels on a scale to 9 (the strongest is the highest level), and how many lines are unknown.
_EXAMPLES: tuple[tuple[str, tuple[tuple[str, int], ...], int], ...] = (
    (
        "colours, of things in a street",
        (
            ("The", 0),
            (" red", 9),
            (" car", 0),
            (" stood", 0),
            (" by", 0),
            (" a", 0),
            (" dark", 3),
            (" green", 8),
            (" gate", 0),
            (".", 0),
        ),
        0,
    ),
    (
        "the word 'not', and verbs that are denied",
        (
            ("She", 0),
            (" did", 1),
            (" not", 9),
            (" want", 2),
            (" tea", 0),
            (",", 0),
            (" and", 0),
            (" he", 0),
            (" could", 1),
            (" not", 9),
            (" wait", 2),
            (".", 0),
        ),
        4,
    ),
    (
        "what somebody is paid",
        (
            (" The", 0),
            (" clerk", 0),
            (" asked", 0),
            (" whether", 0),
            (" her", 1),
            (" salary", 9),
            (" would", 0),
            (" rise", 2),
            (" in", 0),
            (" May", 0),
        ),
        7,
    ),
)


@dataclass(frozen=True)
class HostPrompt:
    """How prompts are written with one tokenizer.

    Attributes:
        tokenizer: of the LM that simulates.
        subject: of the LM whose latents are simulated; its tokens are the lines.
        levels: ids of the levels "0", "1", ...
        tab, unknown, end: ids of what follows the token of a line.
        head: ids of everything before the explanation that is tested.
    """

    tokenizer: TextTokenizer
    subject: TextTokenizer
    levels: tuple[int, ...]
    tab: tuple[int, ...]
    unknown: tuple[int, ...]
    end: tuple[int, ...]
    head: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: TextTokenizer, subject: TextTokenizer | None = None) -> "HostPrompt":
        """With the tokenizers of the LM that simulates, and of the one whose latents are simulated (default: the same).

        Raises:
            InputError: a digit is not one token.
        """
        ids = [_alone(tokenizer, str(level)) for level in range(LEVELS)]
        spoken = LEVELS if len(ids[-1]) == 1 else LEVELS - 1
        for level, own in enumerate(ids[:spoken]):
            if len(own) != 1 or tokenizer.token(own[0]).strip() != str(level):
                raise InputError(
                    f"the tokenizer of the simulator has no token for {level} alone; use an LM whose digits are tokens"
                )
        tab, unknown, end = (_alone(tokenizer, text) for text in ("\t", "unknown", "\n"))
        levels = tuple(level for (level,) in ids[:spoken])
        own = cls(tokenizer, tokenizer if subject is None else subject, levels, tab, unknown, end)
        first = tokenizer.bos if tokenizer.bos is not None else tokenizer.eos
        (task,) = tokenizer.encode([_TASK.format(top=spoken - 1)])
        head = [] if first is None else [first]
        head += task
        for number, (text, lines, hidden) in enumerate(_EXAMPLES, 1):
            head += own._neuron(number, text)
            for i, (token, level) in enumerate(lines):
                shown = unknown if i < hidden else (levels[-1 if level == 9 else level],)
                head += (*_alone(tokenizer, token), *tab, *shown, *end)
            head += end
        return replace(own, head=tuple(head))

    def __call__(
        self, explanation: str, tokens: Int[np.ndarray, " position"]
    ) -> tuple[Int[np.ndarray, " prompted"], Int[np.ndarray, " position"]]:
        """The ids of a prompt, and where in it each token's level would follow: the positions of the tabs.

        Args:
            explanation: "" says nothing.
            tokens: ids of the tokenizer of the subject.
        """
        ids, at = [*self.head, *self._neuron(len(_EXAMPLES) + 1, explanation)], []
        for token in tokens.tolist():
            ids += (*self._line(token), *self.tab)
            at.append(len(ids) - 1)
            ids += (*self.unknown, *self.end)
        return np.array(ids, np.int32), np.array(at, np.int32)

    def _line(self, token: int) -> tuple[int, ...]:
        """A token of the subject in the tokens of the simulator; what would end a field or a line is written out."""
        text = self.subject.token(token)
        special = token in (self.subject.bos, self.subject.eos, self.subject.pad)
        broken = "\n" in text or "\t" in text
        if self.subject.sha256 == self.tokenizer.sha256 and not special and not broken:
            return (token,)
        return _alone(self.tokenizer, text.replace("\n", "\\n").replace("\t", "\\t"))

    def _neuron(self, number: int, explanation: str) -> tuple[int, ...]:
        return _alone(self.tokenizer, _NEURON.format(number=number, text=" ".join(explanation.split())))


def _alone(tokenizer: TextTokenizer, text: str) -> tuple[int, ...]:
    """Ids of a piece that follows another; tokenizers of SentencePiece put a space before what begins a text."""
    first, whole = tokenizer.encode(["\n", "\n" + text])
    rest = whole[len(first) :]
    if whole[: len(first)] == first and tokenizer.decode(rest).strip() == text.strip():
        return tuple(rest)
    return tuple(tokenizer.encode([text])[0])
