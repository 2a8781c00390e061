"""One task in an LM: its texts as tokens, its features, its probes and what stands beside them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from jsaeval.corpus.tasks import Split, Task, split
from jsaeval.corpus.texts import TokenIds, text_tokens
from jsaeval.errors import InputError
from jsaeval.lm.tokenizer import TextTokenizer
from jsaeval.probes.features import Pooled, bag_of_words
from jsaeval.probes.fit import KINDS, KS, PENALTIES, Examples, Kind, Probe, Wanted, fit_probes, wanted
from jsaeval.probes.logistic import Penalty


# Sets of features. Of an SAE: its latents, what it makes of x, what it loses; a random SAE as sparse, and its latents
# with labels in random order. Of the LM or the text alone: "x", "bag_of_words" (which tokens occur), "none".
OF_SAE = ("latents", "reconstruction", "error", "random_sae", "shuffled_labels")
# On these every kind of probe is fitted, for they stand against each other.
_FULL = ("latents", "random_sae", "x")
TOP = 6


@dataclass(frozen=True)
class Which:
    """The probes that are fitted on the latents, on x and on the latents of a random SAE."""

    kinds: tuple[Kind, ...] = KINDS
    ks: tuple[int, ...] = KS
    penalties: tuple[Penalty, ...] = PENALTIES

    def on(self, features: str, width: int) -> list[Wanted]:
        """Those on a set of features; on the others dense ones, and of shuffled labels no k-sparse ones."""
        kinds: list[Kind] = [kind for kind in self.kinds if kind in _kinds(features)]
        return wanted(features, width, kinds, self.ks, self.penalties)


def _kinds(features: str) -> tuple[Kind, ...]:
    return KINDS if features in _FULL else ("single", "dense") if features == "shuffled_labels" else ("dense",)


@dataclass(frozen=True)
class Drawn:
    """The examples of a task that are used: training, validation and test texts, in this order.

    `ids`: their tokens; `cut`: how many lost their beginning.
    """

    task: Task
    texts: tuple[str, ...]
    labels: Bool[np.ndarray, " text"]
    ids: tuple[TokenIds, ...]
    parts: Split
    cut: int

    @property
    def train(self) -> Int[np.ndarray, " train"]:
        """Training and validation texts."""
        return np.concatenate([self.parts.train, self.parts.validation])

    def examples(self, features: Float[np.ndarray, "text feature"]) -> Examples:
        """Features of all texts with their labels."""
        train, test = self.train, self.parts.test
        validates = np.isin(train, self.parts.validation)
        return Examples(features[train], self.labels[train], features[test], self.labels[test], validates)


def draw(task: Task, tokenizer: TextTokenizer, context: int, examples: int | None, seed: int = 0) -> Drawn:
    """Draw and tokenise examples.

    Args:
        task: texts and labels.
        tokenizer: of the LM.
        context: positions of a text; a longer one keeps its end.
        examples: at most so many; None: all.
        seed: of the draw.

    Raises:
        InputError: a class has too few examples for three parts.
    """
    order = split(task, seed, examples)
    indices, part = np.concatenate(order), np.repeat(np.arange(3), [len(own) for own in order])
    tokens = text_tokens([task.texts[i] for i in indices], tokenizer, context)
    kept, left_out = _different(tokens.ids, task.labels[indices])
    if len(kept) < len(indices):
        task = dataclasses.replace(task, left_out=task.left_out | left_out)
        indices, part = indices[kept], part[kept]
    for number, name in enumerate(Split._fields):
        labels = task.labels[indices[part == number]]
        if not len(labels) or labels.all() or not labels.any():
            raise InputError(f"task {task.name}: its {len(labels)} {name} texts are not of both labels")
    return Drawn(
        task=task,
        texts=tuple(task.texts[i] for i in indices),
        labels=task.labels[indices],
        ids=tuple(tokens.ids[i] for i in kept),
        parts=Split(*(np.flatnonzero(part == number) for number in range(3))),
        cut=sum(tokens.cut[i] for i in kept),
    )


def _different(
    ids: Sequence[TokenIds], labels: Bool[np.ndarray, " text"]
) -> tuple[Int[np.ndarray, " kept"], dict[str, int]]:
    """Texts that differ as the LM sees them, in their order; and how many were left out for what reason.

    Long texts may differ in nothing but what was cut off.
    """
    alike: dict[bytes, list[int]] = {}
    for i, own in enumerate(ids):
        alike.setdefault(own.tobytes(), []).append(i)
    clear = [own for own in alike.values() if len({bool(labels[i]) for i in own}) == 1]
    kept = np.array([own[0] for own in clear], int)
    contradicting = sum(len(own) for own in alike.values()) - sum(len(own) for own in clear)
    found = {"alike after the cut": len(ids) - len(kept) - contradicting, "contradicting after it": contradicting}
    return kept, {reason: n for reason, n in found.items() if n}


@dataclass(frozen=True)
class Top:
    """A text on which the winner of a task is most active."""

    text: str
    label: bool
    activation: float


@dataclass(frozen=True)
class Fitted:
    """A probe, and whose features it is on; None: of the LM or the text alone."""

    sae: int | None
    probe: Probe


@dataclass(frozen=True)
class TaskResult:
    """What was found for one task. `top`: of each SAE, where its best single latent is most active."""

    name: str
    group: str
    meaning: str
    examples: tuple[int, int, int]
    cut: int
    left_out: dict[str, int]
    labels: Bool[np.ndarray, " test"]
    fitted: tuple[Fitted, ...]
    top: tuple[tuple[Top, ...], ...]


def probe_task(
    drawn: Drawn,
    pooled: Sequence[Pooled],
    random: Sequence[Float[np.ndarray, "text latent"]],
    which: Which = Which(),
    mesh: Mesh | None = None,
    seed: int = 0,
) -> TaskResult:
    """Fit all probes of a task.

    Args:
        drawn: its examples.
        pooled: features of its texts by each SAE.
        random: latents of each SAE's random control.
        which: probes.
        mesh: devices.
        seed: of the order of shuffled labels.
    """
    sets: dict[str, Examples] = {}
    owner: dict[str, tuple[int | None, str]] = {}

    def add(sae: int | None, name: str, examples: Examples) -> None:
        key = name if sae is None else f"{name} {sae}"
        sets[key], owner[key] = examples, (sae, name)

    for i, (own, control) in enumerate(zip(pooled, random, strict=True)):
        latents = drawn.examples(own.latents)
        for name, examples in zip(
            OF_SAE,
            (latents, *map(drawn.examples, (own.reconstruction, own.error, control)), _shuffled(latents, seed)),
            strict=True,
        ):
            add(i, name, examples)
    add(None, "x", drawn.examples(pooled[0].x))
    add(None, "bag_of_words", drawn.examples(bag_of_words(drawn.ids, drawn.train)))
    probes = [
        dataclasses.replace(probe, features=key)
        for key, (_, name) in owner.items()
        for probe in which.on(name, sets[key].x_train.shape[1])
    ]
    fitted = [
        Fitted(owner[probe.features][0], dataclasses.replace(probe, features=owner[probe.features][1]))
        for probe in fit_probes(sets, probes, mesh)
    ]
    return TaskResult(
        name=drawn.task.name,
        group=drawn.task.group,
        meaning=drawn.task.meaning,
        examples=(len(drawn.parts.train), len(drawn.parts.validation), len(drawn.parts.test)),
        cut=drawn.cut,
        left_out=drawn.task.left_out,
        labels=drawn.labels[drawn.parts.test],
        fitted=(*fitted, Fitted(None, _majority(drawn))),
        top=tuple(_top(drawn, own.latents, winner(fitted, i)) for i, own in enumerate(pooled)),
    )


def winner(fitted: Sequence[Fitted], sae: int) -> int | None:
    """The best single latent of an SAE, if it was asked for."""
    for own in fitted:
        if (own.sae, own.probe.features, own.probe.kind) == (sae, "latents", "single") and own.probe.chosen:
            return own.probe.chosen[0]
    return None


def _shuffled(examples: Examples, seed: int) -> Examples:
    """With the labels of training and of validation examples in random order. Those of the test stay."""
    rng, labels = np.random.default_rng(seed), examples.y_train.copy()
    for part in (examples.validates, ~examples.validates):
        labels[part] = rng.permutation(labels[part])
    return dataclasses.replace(examples, y_train=labels)


def _majority(drawn: Drawn) -> Probe:
    """What says the share of yes in the training examples of every text."""
    labels = drawn.labels[drawn.train]
    logit = float(np.log(labels.mean()) - np.log1p(-labels.mean()))
    loss = float(np.mean(np.logaddexp(0, logit) - labels * logit))
    return Probe("none", "dense", 0, None, None, (), loss, True, np.full(len(drawn.parts.test), logit))


def _top(drawn: Drawn, latents: Float[np.ndarray, "text latent"], latent: int | None) -> tuple[Top, ...]:
    if latent is None:
        return ()
    values = latents[:, latent]
    order = np.argsort(-values, kind="stable")[:TOP]
    return tuple(Top(drawn.texts[i], bool(drawn.labels[i]), float(values[i])) for i in order if values[i] > 0)
