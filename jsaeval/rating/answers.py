"""What raters answered: events folded into the answers that stand at the end."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jsaeval.rating.rubric import Rubric
from jsaeval.rating.store import Event, counting
from jsaeval.rating.study import Item, Study


@dataclass(frozen=True)
class Left:
    """What is not answered yet: how many questions that apply, and how many required texts."""

    questions: int
    texts: int

    def __bool__(self) -> bool:
        return bool(self.questions or self.texts)

    def __str__(self) -> str:
        counts = ((self.questions, "answer"), (self.texts, "text"))
        return " and ".join(f"{n} {what}{'s' * (n > 1)}" for n, what in counts if n)


@dataclass
class ItemAnswers:
    """The answers of one rater to one item, at its first or its second time.

    Attributes:
        numbers: by unit (number of an interval, or 0: the item) and question.
        texts: by id of the text, `jsaeval.rating.store.NOTE` too; never empty.
        skipped: why the rater does not rate it; None: the rater does.
        seconds: active on it.
        rubrics: versions of the rubric under which there are answers.
    """

    numbers: dict[int, dict[str, int]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    skipped: str | None = None
    seconds: float = 0.0
    rubrics: set[str] = field(default_factory=set)

    def score(self, unit: int, rubric: Rubric, logits: bool) -> int | None:
        """The score of a unit; None while something is not answered."""
        return rubric.score(self.numbers.get(unit, {}), logits)

    def left(self, item: Item, rubric: Rubric, logits: bool) -> Left:
        """What is left to do; of a skipped item nothing."""
        if self.skipped is not None:
            return Left(0, 0)
        units = [self.numbers.get(unit, {}) for unit in item.units]
        questions = sum(own.applies(unit) and own.id not in unit for unit in units for own in rubric.asked(logits))
        return Left(questions, sum(text.required and text.id not in self.texts for text in rubric.texts))

    def done(self, item: Item, rubric: Rubric, logits: bool) -> bool:
        """Whether nothing is left to do: skipped, or every unit scored and every required text written."""
        return not self.left(item, rubric, logits)


# By rater, item, and whether it was the second time.
Answers = dict[tuple[str, str, bool], ItemAnswers]


def answers_of(events: Iterable[Event], study: Study) -> Answers:
    """What stands at the end of the events of one or more raters.

    The last answer to a question counts. An answer to a question takes back a skip. Events about items or questions
    that the study does not have are left out.
    """
    events = list(events)
    questions: Mapping[str, int] = {own.id: own.highest for own in study.rubric.questions}
    found: Answers = {}
    for event in events:
        if event.item in study.items:
            own = found.setdefault((event.rater, event.item, event.again), ItemAnswers())
            own.seconds += event.seconds
    for event in counting(events):
        if event.item not in study.items:
            continue
        own = found[event.rater, event.item, event.again]
        if event.kind == "answer" and event.question in questions:
            own.numbers.setdefault(event.interval, {})[event.question] = int(event.value)
            own.rubrics.add(event.rubric)
            own.skipped = None
        elif event.kind == "clear":
            own.numbers.get(event.interval, {}).pop(event.question, None)
        elif event.kind == "text":
            own.texts[event.question] = event.value
            if not event.value.strip():
                del own.texts[event.question]
        elif event.kind == "skip":
            own.skipped = event.value
    return found
