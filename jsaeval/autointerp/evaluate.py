"""`explain`: an LM, SAEs and text → explanations of latents, their scores, and what they have to beat."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jax.sharding import Mesh

from jsaeval.autointerp.activations import sparse_activations
from jsaeval.autointerp.choice import choose_latents
from jsaeval.autointerp.evidence import Evidence
from jsaeval.autointerp.explanation import Explainer, Explanation, RuleSimulator, Simulation, Simulator
from jsaeval.autointerp.floors import floor_explanations
from jsaeval.autointerp.look_alikes import leading_sample, look_alikes, scaled
from jsaeval.autointerp.lookup import Lookup
from jsaeval.autointerp.sampling import Sizes, evidence
from jsaeval.autointerp.scores import Scored, score
from jsaeval.autointerp.summary import summarise
from jsaeval.corpus.masks import Masks
from jsaeval.corpus.rows import Rows, with_documents
from jsaeval.hooks import Hook
from jsaeval.lm.card import card_of
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import make_mesh
from jsaeval.run.calibration import Progress
from jsaeval.sae.module import SAE


# Latents that an explainer or a simulator gets at once; between two such parts a run can be stopped.
AT_ONCE = 16
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Asked:
    """What to explain.

    Attributes:
        latents: see `jsaeval.autointerp.choice.choose_latents`.
        floor_latents: how many of the random SAE, and how many coordinates of the activation; 0: none of them.
        sizes: examples of each latent.
        precision: of matrix products in the LM and the SAE.
        seed: of the choice of latents and examples, the floors and the bootstrap.
    """

    latents: str = "50"
    floor_latents: int = 20
    sizes: Sizes = Sizes()
    precision: str = "highest"
    seed: int = 0


@dataclass(frozen=True)
class Dictionary:
    """Latents of one dictionary, explained and scored; every list is in the order of `evidence`.

    Attributes:
        sae: the dictionary.
        look_alike: None for an SAE that was asked about, else what its look-alike is called.
        evidence: of the latents.
        explanations: of them; of one with a problem, an explanation with that as its error.
        scored: the scores of the explanations.
        floors: scores of the explanations that they have to beat, by name; none for a look-alike.
    """

    sae: SAE
    look_alike: str | None
    evidence: list[Evidence]
    explanations: list[Explanation]
    scored: list[Scored]
    floors: dict[str, list[Scored]]


@dataclass(frozen=True)
class Explained:
    """What was found of one SAE: its latents, those of its look-alikes, and the summary of both."""

    own: Dictionary
    look_alikes: tuple[Dictionary, ...]
    summary: dict[str, Any]


# Gives the explainer for a dictionary; None where it knows nothing of it.
MakeExplainer = Callable[[SAE, str | None], Explainer | None]


class Work(NamedTuple):
    """What is to be done of one dictionary: an SAE, or its look-alike of the name given.

    `sound` is the evidence of the latents that can be explained, out of all `evidence`.
    """

    of: int
    look_alike: str | None
    sae: SAE
    explainer: Explainer
    evidence: list[Evidence]

    @property
    def sound(self) -> list[Evidence]:
        return [own for own in self.evidence if own.problem is None]


def explain(
    lm: HostLM,
    saes: Sequence[SAE],
    hook: Hook,
    rows: Rows,
    masks: Masks,
    explainer: MakeExplainer,
    simulator: Simulator,
    token_text: Callable[[int], str],
    asked: Asked = Asked(),
    *,
    ready: Callable[[Sequence[Work]], None] = lambda work: None,
    mesh: Mesh | None = None,
    cache: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    stop: Callable[[], None] = lambda: None,
) -> list[Explained]:
    """Explain latents of SAEs at one hook and score the explanations.

    Args:
        lm: the language model.
        saes: SAEs that read this hook.
        hook: the hook.
        rows: text, in which latents are looked at. In bare token arrays special tokens and rows end documents.
        masks: `metric` says which tokens count.
        explainer: makes the explainer of a dictionary: an SAE, or its look-alike of the name given.
        simulator: predicts activations from explanations.
        token_text: the text of a token id.
        asked: what.
        ready: called when the evidence is there, before anything is explained; it may raise.
        mesh: devices; default all.
        cache: a folder that keeps the activations of latents; default none does.
        progress: called with a stage, what was just done in it, and all of it.
        stop: called where little would be lost; it may raise.

    Raises:
        InputError: a latent that does not exist was asked for, or the LM gives NaN or Inf.
    """
    mesh = make_mesh() if mesh is None else mesh
    rows = with_documents(rows, masks, card_of(lm).special_ids)
    sample = leading_sample(lm, hook, rows, masks, mesh=mesh, precision=asked.precision)
    entries: list[tuple[int, str | None, SAE]] = []
    for i, sae in enumerate(scaled(saes, sample)):
        entries.append((i, None, sae))
        if asked.floor_latents:
            alike = look_alikes(sae, sample, asked.seed, asked.precision)
            entries += [(i, name, own) for name, own in alike.items()]
    tables = sparse_activations(
        lm,
        [sae for _, _, sae in entries],
        hook,
        rows,
        masks,
        mesh=mesh,
        precision=asked.precision,
        cache=cache,
        progress=progress,
        stop=stop,
    )
    work = []
    for (i, look_alike, sae), table in zip(entries, tables, strict=True):
        own = explainer(sae, look_alike)
        if own is not None:
            wanted = asked.latents if look_alike is None else str(asked.floor_latents)
            latents = choose_latents(wanted, table.density, asked.seed)
            work.append(
                Work(i, look_alike, sae, own, evidence(table, rows, masks, latents.tolist(), asked.seed, asked.sizes))
            )
    ready(work)
    count = _Count(progress, stop, sum(len(own.sound) for own in work))
    found: list[list[Dictionary]] = [[] for _ in saes]
    for own in work:
        found[own.of].append(_dictionary(own, simulator, token_text, asked.seed, count))
    return [_with_summary(own[0], tuple(own[1:]), asked.seed) for own in found]


@dataclass(frozen=True)
class _Count:
    """Progress in latents, out of so many."""

    progress: Progress
    stop: Callable[[], None]
    total: int

    def parts(self, items: Sequence[_Item], shown: bool = False) -> Iterator[Sequence[_Item]]:
        for first in range(0, len(items), AT_ONCE):
            part = items[first : first + AT_ONCE]
            yield part
            if shown:
                self.progress("explanations", len(part), self.total)
            self.stop()


def _dictionary(
    work: Work, simulator: Simulator, token_text: Callable[[int], str], seed: int, count: _Count
) -> Dictionary:
    known, sound = work.evidence, work.sound
    explanations: list[Explanation] = []
    for part in count.parts(sound, shown=True):
        explanations += work.explainer.explain(part)
    scored = _in_order(known, _scores(explanations, sound, simulator, count))
    floors: dict[str, list[Scored]] = {}
    if work.look_alike is None:
        by_token = Lookup(token_text, "token").explain(sound)
        for name, own in floor_explanations(explanations, by_token, seed).items():
            follower = RuleSimulator() if own.by_rule else simulator
            floors[name] = _in_order(known, _scores(own.explanations, sound, follower, count))
    made = {own.latent: own for own in explanations}
    whole = [made.get(own.latent) or Explanation(own.latent, "", "", error=own.problem) for own in known]
    return Dictionary(work.sae, work.look_alike, known, whole, scored, floors)


def _scores(
    explanations: Sequence[Explanation], known: Sequence[Evidence], simulator: Simulator, count: _Count
) -> list[Scored]:
    scored = []
    for part in count.parts(list(zip(explanations, known, strict=True))):
        there = [pair for pair in part if pair[0].error is None]
        simulated = dict(zip((own.latent for own, _ in there), simulator.simulate(there), strict=True))
        scored += [score(simulated.get(own.latent, Simulation()), of, own.error) for own, of in part]
    return scored


def _in_order(known: Iterable[Evidence], scored: Iterable[Scored]) -> list[Scored]:
    """Of all latents, those with a problem too."""
    by_latent = {own.latent: own for own in scored}
    return [by_latent.get(own.latent) or score(Simulation(), own) for own in known]


def _with_summary(own: Dictionary, look_alikes: tuple[Dictionary, ...], seed: int) -> Explained:
    others = {str(alike.look_alike): alike.scored for alike in look_alikes}
    return Explained(own, look_alikes, summarise(own.scored, own.floors, others, seed))
