"""What raters are asked: a rubric, read from a TOML file and checked line by line.

    id = "mine"                      # a word for reports
    title = "..."
    source = "..."                   # who proposed it
    unit = "interval"                # what a question is asked of: an "interval" of activations, or the whole "item"
    intro = "..."                    # what raters read first

    [[text]]                         # written once for an item, never scored
    id = "interpretation"
    prompt = "..."
    required = true

    [[question]]
    id = "confidence"
    prompt = "..."
    answers = ["not at all", "", "", "sure"]      # what 0, 1, 2, ... mean; as many as there are answers
    needs = "logits"                              # optional: not asked where there are no logits to look at
    only_if = { question = "other", below = 3 }   # optional: else it is not applicable and adds nothing; the other one
                                                  # stands before and has no condition of its own

The score of a unit is the sum of its answers.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from jsaeval.errors import InputError, nearest


Unit = Literal["interval", "item"]
BUILT_IN = ("bricken2023", "interpretability")
MOST_ANSWERS = 10  # one digit key each
_MOST_QUESTIONS, _LONGEST = 20, 4000
_KEYS = {"id", "title", "source", "unit", "intro", "text", "question"}
_TEXT_KEYS = {"id", "prompt", "required"}
_QUESTION_KEYS = {"id", "prompt", "answers", "needs", "only_if"}
_ID = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Text:
    """Something that raters write, once for an item."""

    id: str
    prompt: str
    required: bool = False


@dataclass(frozen=True)
class Question:
    """Something that raters answer by a number.

    Attributes:
        id: a word for it.
        prompt: what is asked.
        answers: what 0, 1, 2, ... mean; an empty text means something between its neighbours.
        needs_logits: whether it can only be answered with the effects on the logits in view.
        only_if: (id of an earlier question that has no condition, bound): asked where the answer to that one is below
            the bound.
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    needs_logits: bool = False
    only_if: tuple[str, int] | None = None

    @property
    def highest(self) -> int:
        return len(self.answers) - 1

    def applies(self, answers: Mapping[str, int]) -> bool:
        """Whether it is asked, given the answers so far. Where its condition is not answered yet, it is not yet."""
        return self.only_if is None or answers.get(self.only_if[0], self.only_if[1]) < self.only_if[1]


@dataclass(frozen=True)
class Rubric:
    """Texts and questions, see the module. `version`: the beginning of the SHA-256 of its file."""

    id: str
    title: str
    source: str
    unit: Unit
    intro: str
    texts: tuple[Text, ...]
    questions: tuple[Question, ...]
    version: str
    toml: str

    def asked(self, logits: bool) -> tuple[Question, ...]:
        """The questions that can be asked, with or without the effects on the logits in view."""
        kept: list[Question] = []
        for question in self.questions:
            there = question.only_if is None or any(own.id == question.only_if[0] for own in kept)
            if (logits or not question.needs_logits) and there:
                kept.append(question)
        return tuple(kept)

    def maximum(self, logits: bool = True) -> int:
        """The highest score of a unit. It may be less than the sum of the highest answers, because of conditions."""
        asked = self.asked(logits)

        def best(question: Question) -> int:
            """Of a question and those that depend on it."""
            depend = [own for own in asked if own.only_if is not None and own.only_if[0] == question.id]
            return max(
                answer + sum(own.highest for own in depend if own.applies({question.id: answer}))
                for answer in range(question.highest + 1)
            )

        return sum(best(question) for question in asked if question.only_if is None)

    def score(self, answers: Mapping[str, int], logits: bool = True) -> int | None:
        """The sum of the answers to the questions that apply; None while one of them is not answered."""
        total = 0
        for question in self.asked(logits):
            if question.applies(answers):
                if question.id not in answers:
                    return None
                total += answers[question.id]
        return total


def load_rubric(name: str) -> Rubric:
    """A rubric by its name (`BUILT_IN`), or from a file.

    Raises:
        InputError: there is none, or it is not one; the message names the line.
    """
    if name in BUILT_IN:
        return parse_rubric((resources.files("jsaeval.rating") / "rubrics" / f"{name}.toml").read_text("utf-8"), name)
    path = Path(name)
    try:
        return parse_rubric(path.read_text(encoding="utf-8-sig"), f"--rubric {name}")
    except FileNotFoundError:
        raise InputError(f"--rubric {name}: no such file{nearest(name, BUILT_IN)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--rubric {name}: cannot be read as text ({type(error).__name__})") from None


def parse_rubric(toml: str, where: str) -> Rubric:
    """A rubric from the text of its file; `where` says whose it is, in errors.

    Raises:
        InputError: it is not one; the message names every line that is wrong.
    """
    try:
        found = tomllib.loads(toml)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not valid TOML ({error})") from None
    complaints = [f"line {line}: {said}" if line else said for line, said in sorted(set(_complaints(found, toml)))]
    if complaints:
        raise InputError(f"{where}: {'; '.join(complaints)}")
    texts = tuple(Text(own["id"], own["prompt"], own.get("required", False)) for own in found.get("text", ()))
    questions = tuple(
        Question(
            own["id"],
            own["prompt"],
            tuple(own["answers"]),
            "needs" in own,
            (own["only_if"]["question"], own["only_if"]["below"]) if "only_if" in own else None,
        )
        for own in found["question"]
    )
    version = hashlib.sha256(toml.encode()).hexdigest()[:12]
    named = {key: found[key] for key in ("id", "title", "source", "unit", "intro")}
    return Rubric(texts=texts, questions=questions, version=version, toml=toml, **named)


def _complaints(found: Mapping[str, Any], toml: str) -> Iterator[tuple[int, str]]:
    """(line, what is wrong there); line 0: of the whole file."""
    lines = _Lines(toml)
    yield from _unknown(found, _KEYS, lambda key: lines.of_key(key), "")
    for key in ("id", "title", "source", "intro"):
        yield from _text(found, key, lines.of_key(key), key)
    if found.get("unit") not in get_args(Unit):
        yield lines.of_key("unit"), f"unit: {' or '.join(map(repr, get_args(Unit)))} was expected"
    seen: dict[str, int] = {}
    for table in ("text", "question"):
        entries = found.get(table, [])
        if not isinstance(entries, list) or not all(isinstance(own, dict) for own in entries):
            yield lines.of_key(table), f"{table}: [[{table}]] was expected"
            continue
        if len(entries) > _MOST_QUESTIONS:
            yield 0, f"{len(entries)} [[{table}]], at most {_MOST_QUESTIONS} are possible"
        for i, own in enumerate(entries):
            line = lines.of_entry(table, i)
            yield from ((line, said) for said in _entry(table, own, seen))
            if isinstance(own.get("id"), str):
                decides = isinstance(own.get("answers"), list) and "only_if" not in own
                seen[own["id"]] = len(own["answers"]) if decides else 0
    if not found.get("question"):
        yield 0, "no [[question]]: at least one is needed"


def _entry(table: str, own: Mapping[str, Any], seen: Mapping[str, int]) -> Iterator[str]:
    known = _TEXT_KEYS if table == "text" else _QUESTION_KEYS
    yield from (said for _, said in _unknown(own, known, lambda key: 0, ""))
    yield from (said for key in ("id", "prompt") for _, said in _text(own, key, 0, key))
    if isinstance(own.get("id"), str):
        if not _ID.fullmatch(own["id"]):
            yield f"id {own['id']!r}: small letters, digits and _ were expected, at most 40"
        if own["id"] == "note":
            yield "id 'note' is that of the note that every item has"
        if own["id"] in seen:
            yield f"id {own['id']!r} is there twice"
    if table == "text":
        if not isinstance(own.get("required", False), bool):
            yield "required: true or false was expected"
        return
    answers = own.get("answers")
    if not isinstance(answers, list) or not all(isinstance(one, str) for one in answers):
        yield 'answers: a list of texts was expected, e.g. ["no", "yes"]'
    elif not 2 <= len(answers) <= MOST_ANSWERS:
        yield f"answers: {len(answers)}, but 2 to {MOST_ANSWERS} are possible (one digit key each)"
    if own.get("needs", "logits") != "logits":
        yield "needs: 'logits' was expected, nothing else can be missing"
    yield from _condition(own.get("only_if"), seen)


def _condition(only_if: Any, seen: Mapping[str, int]) -> Iterator[str]:
    if only_if is None:
        return
    if not isinstance(only_if, dict) or only_if.keys() != {"question", "below"}:
        yield 'only_if: { question = "...", below = 3 } was expected'
        return
    of, below = only_if["question"], only_if["below"]
    if not seen.get(of if isinstance(of, str) else ""):
        yield f"only_if: {of!r} is no question before this one that is always asked"
    elif not isinstance(below, int) or isinstance(below, bool) or not 0 < below < seen[of]:
        yield f"only_if: below {below!r}, 1 to {seen[of] - 1} were expected"


def _unknown(own: Mapping[str, Any], known: set[str], line: Any, what: str) -> Iterator[tuple[int, str]]:
    for key in own.keys() - known:
        yield line(key), f"{what}{key!r}: no such key{nearest(key, sorted(known))}"


def _text(own: Mapping[str, Any], key: str, line: int, name: str) -> Iterator[tuple[int, str]]:
    value = own.get(key)
    if not isinstance(value, str) or not value.strip():
        yield line, f"{name}: a text was expected"
    elif len(value) > _LONGEST:
        yield line, f"{name}: {len(value)} characters, at most {_LONGEST} are possible"


class _Lines:
    """Where things stand in a TOML file. tomllib does not say."""

    def __init__(self, toml: str):
        self._lines = toml.splitlines()

    def of_key(self, key: str) -> int:
        """Line of a key outside all tables, counted from 1; 0: it is not there."""
        for i, line in enumerate(self._lines, 1):
            if line.lstrip().startswith("["):
                return 0
            if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return i
        return 0

    def of_entry(self, table: str, index: int) -> int:
        """Line of the `index`-th [[table]]."""
        found = [i for i, line in enumerate(self._lines, 1) if re.match(rf"\s*\[\[\s*{table}\s*\]\]", line)]
        return found[index] if index < len(found) else 0
