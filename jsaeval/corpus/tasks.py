"""Probe tasks: texts, each with a yes or a no. The 113 of the `sae-probes` wheel, or one's own.

A task holds every text once. In the wheel up to two thirds of a task's rows repeat a text; copies on both sides of a
split would be remembered instead of understood, so they are left out, and so are texts that appear with both labels.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jsaeval.corpus.documents import probe_task
from jsaeval.corpus.task_tables import FORMS, TaskTable, read_table
from jsaeval.errors import InputError, nearest


# One of each kind; `jsaeval probe` without --tasks.
DEFAULT = (
    "113_movie_sent",
    "21_headline_istrump",
    "56_wikidatasex_or_gender",
    "65_high-school",
    "87_glue_cola",
    "96_spam_is",
    "106_hate_hate",
    "124_world_country_United_States",
    "126_art_type_book",
    "139_news_class_Politics",
    "149_twt_emotion_happiness",
    "159_code_Python",
)
LEAST, MOST_CLASSES = 20, 50
SHARES = {"train": 0.5, "validation": 0.125}  # the rest tests


class Listed(NamedTuple):
    """What is known of a task of the wheel: the label that counts as yes, its rows and different texts, and what yes
    means. The wheel is MIT-licensed; the texts are those of many data sets, each under its own terms."""

    group: str
    positive: str
    rows: int
    distinct: int
    meaning: str


@dataclass(frozen=True)
class Task:
    """Different texts with labels. `left_out` counts rows by the reason why they are not in it."""

    name: str
    group: str
    meaning: str
    texts: tuple[str, ...]
    labels: Bool[np.ndarray, " example"]
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """SHA-256 of texts and labels."""
        lines = (f"{label:d}{text}" for text, label in zip(self.texts, self.labels, strict=True))
        return hashlib.sha256("\0".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


class Split(NamedTuple):
    """Indices of examples; no text is in two parts."""

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]


def catalogue() -> dict[str, Listed]:
    """The tasks of the wheel, by name."""
    text = resources.files("jsaeval.corpus").joinpath("probe_tasks.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {
        row["name"]: Listed(row["group"], row["positive"], int(row["rows"]), int(row["distinct"]), row["meaning"])
        for row in rows
    }


def open_tasks(names: Sequence[str], text_column: str = "text", label_column: str = "label") -> list[Task]:
    """Tasks by name, by group, `all`, or one's own.

    Args:
        names: names or groups of the catalogue, `all`, or what `read_table` takes: files and data sets. One with more
            than two labels is one task for each, against all others.
        text_column, label_column: of files and data sets.

    Raises:
        InputError: no such task, or a table that holds none; in a line.
    """
    known = catalogue()
    groups = {listed.group for listed in known.values()}
    tasks: dict[str, Task] = {}
    for name in names:
        if name in known or name in groups or name == "all":
            chosen = [own for own, listed in known.items() if name in (own, listed.group, "all")]
            tasks |= {own: _of_wheel(own, known[own]) for own in chosen if own not in tasks}
            continue
        where = f"--tasks {name!r}"
        table = read_table(name, where)
        if table is None:
            hint = nearest(name, [*known, *sorted(groups), "all"])
            raise InputError(f"{where}: no such task{hint}; one's own come from {FORMS}")
        for task in _of_table(table, text_column, label_column, where):
            if task.name in tasks:
                raise InputError(f"{where}: there is a task {task.name} already; give it another name")
            tasks[task.name] = task
    return list(tasks.values())


def _of_wheel(name: str, listed: Listed) -> Task:
    table = probe_task(name)
    labels = table["target"].astype(str) == listed.positive
    return make_task(name, listed.group, listed.meaning, table["prompt"].tolist(), labels.to_numpy())


def _of_table(table: TaskTable, text_column: str, label_column: str, where: str) -> list[Task]:
    rows = table.rows
    for flag, column in (("--text-column", text_column), ("--label-column", label_column)):
        if column not in rows.columns:
            raise InputError(f"{where}: no column {column!r}; {flag} may be {', '.join(map(str, rows))}")
    labels = rows[label_column]
    kept = labels.notna() & (labels.astype(str).str.strip() != "")
    texts = rows.loc[kept, text_column].tolist()
    labels = labels.loc[kept].map(lambda label: label if isinstance(label, str) else f"{label}")
    classes, without = sorted(labels.unique()), int((~kept).sum())
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise InputError(
            f"{where}: column {label_column!r} has {len(classes)} different labels; two, or up to {MOST_CLASSES} "
            "classes, were expected"
        )

    def one(name: str, label: str, rest: str) -> Task:
        meaning = f"{label_column} is {label}{rest}{table.note}"
        task = make_task(name, "own", meaning, texts, (labels == label).to_numpy())
        return replace(task, left_out=task.left_out | ({"no label": without} if without else {}))

    if len(classes) == 2:
        return [one(table.name, classes[1], f" (else {classes[0]})")]
    return [one(f"{table.name}:{label}", label, "") for label in classes]


def make_task(name: str, group: str, meaning: str, texts: Sequence[Any], labels: Bool[np.ndarray, " example"]) -> Task:
    """A task of texts that may be empty, doubled, or contradict each other; such rows are left out and counted.

    Raises:
        InputError: fewer than 20 examples are left, or they are all of one class.
    """
    seen: dict[str, set[bool]] = {}
    left_out = Counter()
    for text, label in zip(texts, labels, strict=True):
        if not isinstance(text, str) or not text.strip():
            left_out["empty"] += 1
        else:
            left_out["doubled"] += text in seen
            seen.setdefault(text, set()).add(bool(label))
    kept = {text: found.pop() for text, found in seen.items() if len(found) == 1}
    left_out["contradicting"] = len(seen) - len(kept)
    own = np.fromiter(kept.values(), bool, len(kept))
    if len(own) < LEAST:
        raise InputError(f"task {name}: {len(own)} different examples; at least {LEAST} are needed")
    if own.all() or not own.any():
        raise InputError(f"task {name}: all examples have one label ({'yes' if own[0] else 'no'}: {meaning})")
    return Task(name, group, meaning, tuple(kept), own, {reason: n for reason, n in left_out.items() if n})


def split(task: Task, seed: int = 0, examples: int | None = 1024) -> Split:
    """Train, validate and test: 1/2, 1/8 and 3/8 of the examples, the same share of yes in each.

    Which part a text goes to does not depend on the order of the file.

    Args:
        task: texts and labels.
        seed: of the draw.
        examples: of the task, at most; None: all.

    Raises:
        InputError: a class has too few examples for three parts.
    """
    keys = np.array(
        [hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()[:8] for text in task.texts]
    )
    order, n = np.argsort(keys, kind="stable"), len(task.labels)
    share = min(1.0, (examples or n) / n)
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for label in (False, True):
        own = order[task.labels[order] == label]
        own = own[: max(3, round(share * len(own)))]
        if len(own) < 3:
            raise InputError(f"task {task.name}: only {len(own)} examples are {'yes' if label else 'no'}; 3 are needed")
        train = min(len(own) - 2, round(SHARES["train"] * len(own)))
        validation = min(len(own) - train - 1, max(1, round(SHARES["validation"] * len(own))))
        for part, indices in zip(parts, np.split(own, [train, train + validation]), strict=True):
            parts[part].append(indices)
    made = Split(*(np.sort(np.concatenate(own)) for own in parts.values()))
    texts = [{task.texts[i] for i in part} for part in made]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    return made
