"""Studies that nobody prepared, and raters that nobody is."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jsaeval.rating.queue import queue_of
from jsaeval.rating.rubric import load_rubric
from jsaeval.rating.store import NOTE, Event, Store
from jsaeval.rating.study import (
    ANSWERS,
    FOLDER,
    GROUPS,
    INTERVALS,
    AnswerKey,
    Effect,
    Identity,
    Item,
    Study,
    Window,
    write_key,
    write_study,
)


# How interpretable the items of each group are, 0 to 1.
QUALITY = {"latent": 0.8, "random_sae": 0.35, "neurons": 0.2, "random_directions": 0.1}
LM = {"name": "tiny", "sha256": "aa" * 32, "n_blocks": 3, "d_model": 16, "vocab": 50}
HOOK = "blocks.1.hook_resid_post"


def about_sae(name: str, sha256: str = "f00") -> dict:
    """An SAE as a report has it, without metrics."""
    source = {"format": "jsaeval", "path": f"{name}.safetensors", "sha256": sha256}
    about = {"name": name, "hook": HOOK, "architecture": "relu", "d_in": 16, "d_sae": 40, "d_out": 16}
    return about | {"source": source}


PROVENANCE = {
    "plan": {"latents": "20"},
    "versions": {"jsaeval": "0.1.0", "jax": "0.10.2"},
    "platform": "Linux",
    "devices": ["cpu"],
    "mesh": {"data": 1, "model": 1},
    "processes": 1,
    "dtype": "float32",
    "precision": "highest",
    "peak_rss_mb": 512.0,
    "wall_s": 12.0,
}


def made_study(
    latents=12, controls=6, saes=("one",), rubric="bricken2023", logits=True, rated=(3, 7, 11), repeats=0.1, token="cat"
) -> tuple[Study, AnswerKey]:
    """A study with as many latents and items of each control group of each SAE; the key as it was before it is written.

    Ids have no order that tells groups apart.
    """
    rng = np.random.default_rng(5)
    identities = [
        Identity(sae, group, i, float(10.0 ** -rng.uniform(0.5, 4.5)), float(rng.uniform(1, 9)))
        for sae in saes
        for group in GROUPS
        for i in range(latents if group == "latent" else controls)
    ]
    read = load_rubric(rubric)
    units = rated if read.unit == "interval" else ()
    items, identity_of = {}, {}
    names = sorted(f"i{number:06x}" for number in rng.choice(2**24, len(identities), replace=False).tolist())
    for id, place in zip(names, rng.permutation(len(identities)).tolist(), strict=True):
        windows = tuple(
            (Window(("the", " " + token, " sat"), (0.0, k / INTERVALS, 0.0), 1),) for k in range(1, INTERVALS + 1)
        )
        effects = (Effect(f" {token}s", 1.0),), (Effect(" dog", -0.5),)
        items[id] = Item(id, windows, units, *(effects if logits else ((), ())))
        identity_of[id] = identities[place]
    study = Study("study0", "tiny on made text", read, logits, repeats, 3, items)
    settings = {"hook": HOOK, "corpus": "made", "rows": 8, "positions": 32, "latents": str(latents), "seed": 0}
    return study, AnswerKey(study.id, "", identity_of, LM, [about_sae(own) for own in saes], settings, PROVENANCE)


def write(folder: Path, study: Study, key: AnswerKey) -> Store:
    """The study in the folder of a run, and its store, empty."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    write_key(place, dataclasses.replace(key, study_sha256=write_study(place, study)))
    return Store(place / ANSWERS, study.id)


def answer(study, rater, item, unit, question, value, again=False, kind="answer", seconds=1.0) -> Event:
    """An event with a nonce of its own."""
    nonce = f"{rater}/{item}/{again}/{unit}/{question}/{value}/{np.random.default_rng().integers(2**60)}"
    return Event(nonce, rater, item, again, kind, unit, question, str(value), seconds, study.rubric.version)


def simulated(study: Study, key: AnswerKey, rater: str, noise: float, seed: int, most: int | None = None) -> Iterator:
    """What a rater does through the queue: every question from the item's quality, with noise; higher intervals are
    better."""
    rng = np.random.default_rng(seed)
    for place in queue_of(study, rater)[:most]:
        item = study.items[place.item]
        yield answer(study, rater, item.id, 0, "interpretation", "animals", place.again, "text")
        for unit in item.units:
            given: dict[str, int] = {}
            for question in study.rubric.asked(study.logits):
                if not question.applies(given):
                    continue
                quality = QUALITY[key.items[item.id].group] + 0.02 * (unit - 6) * (unit > 0)
                value = round(question.highest * quality + noise * question.highest * rng.standard_normal())
                given[question.id] = int(np.clip(value, 0, question.highest))
                yield answer(study, rater, item.id, unit, question.id, given[question.id], place.again)
        if rng.random() < 0.1:
            yield answer(study, rater, item.id, 0, NOTE, "odd", place.again, "text")


def events_of(*events: Event) -> list[Event]:
    """Events as a store would number them."""
    return [dataclasses.replace(own, id=i) for i, own in enumerate(events, 1)]
