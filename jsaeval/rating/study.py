"""A study: what raters are shown (`study.json`), and, in another file, what it is (`key.json`).

The server that raters talk to reads the first file and never opens the second. So nothing that it sends can depend on
whether an item is a latent or a control. Ids are random, items are stored in the order of their ids, and sizes that
would tell dictionaries apart (the scale of activations, how often something fires) are not in it: activations are given
as shares of the largest one, effects on logits as shares of the largest effect on any token.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from jsaeval.cache import atomic, sha256_of
from jsaeval.errors import InputError, one_line
from jsaeval.rating.rubric import Rubric, parse_rubric


FOLDER = "rating"  # in the folder of a run
STUDY, KEY, ANSWERS = "study.json", "key.json", "answers.sqlite"
SCHEMA = 1
INTERVALS = 11
# latent: of an SAE in question. The others are controls: a random SAE, coordinates of the activation, and random
# directions of it.
Group = Literal["latent", "random_sae", "neurons", "random_directions"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Window:
    """A few tokens around one that fires.

    Attributes:
        tokens: their texts, made visible (`jsaeval.corpus.visible.visible`), not escaped.
        shares: of the largest activation of the item, at each token; 0 where it does not fire.
        focus: index of the token that the window was chosen for.
    """

    tokens: tuple[str, ...]
    shares: tuple[float, ...]
    focus: int


@dataclass(frozen=True)
class Effect:
    """A token that becomes more or less likely. `share`: of the largest absolute effect on any token."""

    token: str
    share: float


@dataclass(frozen=True)
class Item:
    """What is rated as one: a latent, or a control that looks like one.

    Attributes:
        id: random.
        intervals: windows whose focus lies in each of `INTERVALS` intervals of equal width in (0, max], from small to
            large; there may be none in some.
        rated: numbers of the intervals that are rated one by one, from 1 to `INTERVALS`; none, where the rubric's unit
            is the item.
        promoted: tokens that become more likely, the strongest first; none where the study has no logits.
        suppressed: less likely, the strongest first.
    """

    id: str
    intervals: tuple[tuple[Window, ...], ...]
    rated: tuple[int, ...]
    promoted: tuple[Effect, ...]
    suppressed: tuple[Effect, ...]

    @property
    def units(self) -> tuple[int, ...]:
        """What each question is asked of: numbers of intervals, or 0 alone for the item as a whole."""
        return self.rated or (0,)


@dataclass(frozen=True)
class Study:
    """Everything that the server knows.

    Attributes:
        id: random.
        title: raters read it; the names of LM and corpus, say.
        rubric: what is asked.
        logits: whether the effects on logits are shown.
        repeats: share of the items that each rater gets a second time.
        seed: of the order in which each rater gets them.
        items: by id, in the order of ids.
    """

    id: str
    title: str
    rubric: Rubric
    logits: bool
    repeats: float
    seed: int
    items: dict[str, Item]


@dataclass(frozen=True)
class Identity:
    """What an item is.

    Attributes:
        sae: name of the SAE that it is a latent of, or a control for.
        group: which of `GROUPS`.
        latent: its number in its dictionary.
        density: share of the tokens at which it fires; of a control, as it is shown (`jsaeval.rating.prepare.matched`).
        largest: its largest activation.
    """

    sae: str
    group: Group
    latent: int
    density: float
    largest: float


@dataclass(frozen=True)
class AnswerKey:
    """What the items of a study are, and from what it was made.

    Attributes:
        study: id of the study.
        study_sha256: of its file.
        items: by id.
        lm: as in `report.json`.
        saes: as in `report.json`, without metrics.
        settings: what was asked for.
        provenance: as in `report.json`.
    """

    study: str
    study_sha256: str
    items: dict[str, Identity]
    lm: dict[str, Any]
    saes: list[dict[str, Any]]
    settings: dict[str, Any]
    provenance: dict[str, Any]


def study_folder(folder: Path) -> Path:
    """Where the files of a study are: `FOLDER` in the folder of a run, by the name of either.

    Raises:
        InputError: there is none.
    """
    if (folder / FOLDER / STUDY).is_file():
        return folder / FOLDER
    if (folder / STUDY).is_file() and folder.resolve().name == FOLDER:
        return folder if folder.name == FOLDER else folder.resolve()
    raise InputError(f"{folder}: no {FOLDER}/{STUDY} in it; jsaeval rate prepare makes a study")


def write_study(folder: Path, study: Study) -> str:
    """Write `study.json`; returns its SHA-256."""
    items = [
        {
            "id": item.id,
            "intervals": [
                [{"tokens": own.tokens, "shares": own.shares, "focus": own.focus} for own in windows]
                for windows in item.intervals
            ],
            "rated": item.rated,
            "promoted": [[own.token, own.share] for own in item.promoted],
            "suppressed": [[own.token, own.share] for own in item.suppressed],
        }
        for item in sorted(study.items.values(), key=lambda item: item.id)
    ]
    content = {"schema": SCHEMA, "id": study.id, "title": study.title, "rubric": study.rubric.toml}
    content |= {"logits": study.logits, "repeats": study.repeats, "seed": study.seed, "items": items}
    with atomic(folder / STUDY) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False, indent=1) + "\n", encoding="utf-8")
    return sha256_of(folder / STUDY)


def read_study(folder: Path) -> Study:
    """What `write_study` wrote.

    Raises:
        InputError: it is not there, damaged, or of another version.
    """
    path = folder / STUDY
    found = _read(path, "jsaeval rate prepare writes it")
    try:
        rubric = parse_rubric(found["rubric"], f"{path}: rubric")
        items = {own["id"]: _item(own) for own in found["items"]}
        study = Study(
            found["id"], found["title"], rubric, found["logits"], float(found["repeats"]), found["seed"], items
        )
        if not items:
            raise ValueError("no items")
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {one_line(error)})") from None
    return study


def _item(found: Mapping[str, Any]) -> Item:
    windows = tuple(tuple(_window(own) for own in windows) for windows in found["intervals"])
    if len(windows) != INTERVALS or not set(found["rated"]) <= set(range(1, INTERVALS + 1)):
        raise ValueError(f"item {found['id']}: {INTERVALS} intervals were expected")
    effects = (tuple(Effect(str(token), float(share)) for token, share in found[key]) for key in _EFFECTS)
    return Item(str(found["id"]), windows, tuple(found["rated"]), *effects)


_EFFECTS = ("promoted", "suppressed")


def _window(found: Mapping[str, Any]) -> Window:
    tokens, shares = tuple(map(str, found["tokens"])), tuple(map(float, found["shares"]))
    if len(tokens) != len(shares) or not 0 <= found["focus"] < len(tokens) or not all(map(math.isfinite, shares)):
        raise ValueError("a window without its activations")
    return Window(tokens, shares, int(found["focus"]))


def write_key(folder: Path, key: AnswerKey) -> None:
    """Write `key.json`, which nobody but its owner can read."""
    content = {"schema": SCHEMA} | vars(key) | {"items": {id: vars(own) for id, own in key.items.items()}}
    with atomic(folder / KEY) as temporary:
        temporary.chmod(0o600)
        temporary.write_text(json.dumps(content, allow_nan=False, indent=1) + "\n", encoding="utf-8")


def read_key(folder: Path, study: Study) -> AnswerKey:
    """What `write_key` wrote.

    Raises:
        InputError: it is not there, damaged, or the key of another study.
    """
    path = folder / KEY
    found = _read(path, "it says which items are latents; jsaeval rate prepare writes it")
    try:
        if unknown := {own["group"] for own in found["items"].values()} - set(GROUPS):
            raise InputError(f"{path}: group {min(unknown)!r}, one of {', '.join(GROUPS)} was expected")
        items = {id: Identity(**own) for id, own in found["items"].items()}
        key = AnswerKey(items=items, **{own: found[own] for own in _KEY_FIELDS})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {one_line(error)})") from None
    if key.study != study.id or key.study_sha256 != sha256_of(folder / STUDY):
        raise InputError(f"{path}: the key of another study; {STUDY} was changed or replaced after it was made")
    if missing := study.items.keys() ^ items.keys():
        raise InputError(f"{path}: item {min(missing)} is in one of {STUDY} and {KEY} only")
    return key


_KEY_FIELDS = ("study", "study_sha256", "lm", "saes", "settings", "provenance")


def _read(path: Path, origin: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; {origin}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({one_line(error)})") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        version = found.get("schema") if isinstance(found, dict) else None
        raise InputError(f"{path}: schema {version!r}, but this version reads schema {SCHEMA}")
    return found
