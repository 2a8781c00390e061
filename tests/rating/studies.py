"""Studies that were made up: items with windows of words, and what tests do with them."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jsaeval.rating.rubric import Rubric, load_rubric
from jsaeval.rating.store import Store
from jsaeval.rating.study import ANSWERS, FOLDER, INTERVALS, Effect, Item, Study, Window, write_study


WORDS = re.findall(
    r"\w+",
    """the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which
    market shares river bank engine water light stone winter morning oil prices rose fell sharply against dollar
    minister said Tuesday court ruling software company quarter profit team season goal scored election votes""",
)


def make_item(
    rng: np.random.Generator, id: str, windows: int, length: int, rated: tuple[int, ...], logits: bool
) -> Item:
    """An item of random words, `windows` of `length` tokens in every interval."""
    intervals = []
    for i in range(INTERVALS):
        own = []
        for _ in range(windows):
            tokens = tuple(f" {word}" for word in rng.choice(WORDS, length))
            shares = np.where(rng.random(length) < 0.2, rng.random(length) * (i + 1) / INTERVALS, 0.0)
            focus = length // 2
            shares[focus] = (i + 1 - 0.9 * rng.random()) / INTERVALS
            own.append(Window(tokens, tuple(shares.tolist()), focus))
        intervals.append(tuple(own))
    raised = sorted((float(own) for own in rng.random(10)), reverse=True) if logits else []
    effects = [tuple(Effect(f" {rng.choice(WORDS)}", sign * share) for share in raised) for sign in (1, -1)]
    return Item(id, tuple(intervals), rated, *effects)


def make_study(
    items: int = 6,
    rubric: str | Rubric = "bricken2023",
    rated: tuple[int, ...] = (3, 7, 11),
    logits: bool = True,
    repeats: float = 0.0,
    windows: int = 4,
    length: int = 9,
    seed: int = 0,
) -> Study:
    """A study of random words."""
    rng = np.random.default_rng(seed)
    asked = load_rubric(rubric) if isinstance(rubric, str) else rubric
    rated = rated if asked.unit == "interval" else ()
    ids = sorted(rng.bytes(8).hex() for _ in range(items))
    made = {id: make_item(rng, id, windows, length, rated, logits) for id in ids}
    return Study(rng.bytes(8).hex(), "A small LM on news", asked, logits, repeats, seed, made)


@dataclass(frozen=True)
class Served:
    """A study on disk, without its key, and its store."""

    folder: Path
    study: Study
    store: Store


def on_disk(folder: Path, study: Study) -> Served:
    """Write a study to the folder of a run."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    write_study(folder / FOLDER, study)
    return Served(folder, study, Store(folder / FOLDER / ANSWERS, study.id))
