"""From an LM, SAEs and text to a study: which latents and controls are rated, and what raters see of each.

Bricken et al. 2023 (Towards Monosemanticity, human analysis): features and neurons in one blinded queue, contexts from
the whole range of activations in eleven intervals of equal width, each interval rated against one interpretation.
"""

import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jsaeval.autointerp.activations import sparse_activations
from jsaeval.autointerp.choice import choose_latents
from jsaeval.autointerp.draws import hashed
from jsaeval.autointerp.look_alikes import Sample, leading_sample, look_alikes, scaled
from jsaeval.autointerp.sampling import LEAST
from jsaeval.autointerp.sparse import OfLatent, SparseLatents
from jsaeval.corpus.masks import Masks
from jsaeval.corpus.rows import Rows, with_documents
from jsaeval.errors import InputError
from jsaeval.forward.logit_effects import logit_effects, reaches_logits
from jsaeval.hooks import Hook
from jsaeval.lm.card import card_of
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import make_mesh
from jsaeval.rating.contexts import Contexts
from jsaeval.rating.rubric import Rubric
from jsaeval.rating.study import GROUPS, Effect, Group, Identity, Item, Study, Window
from jsaeval.run.calibration import Progress
from jsaeval.sae.module import SAE


CONTROLS = GROUPS[1:]


@dataclass(frozen=True)
class Asked:
    """What a study is made of.

    Attributes:
        latents: of each SAE, see `jsaeval.autointerp.choice.choose_latents`; of those that fire often enough.
        controls: how many of each of `CONTROLS`, for each SAE.
        intervals: how many of an item's intervals are rated, where the rubric's unit is the interval.
        contexts: shown in each interval, at most.
        repeats: share of the items that each rater gets a second time.
        precision: of matrix products.
        seed: of all draws.
    """

    latents: str = "20"
    controls: int = 5
    intervals: int = 3
    contexts: int = 5
    repeats: float = 0.08
    precision: str = "highest"
    seed: int = 0


@dataclass(frozen=True)
class Prepared:
    """A study.

    Attributes:
        study: what raters see.
        items: what its items are.
        drawn_from: by SAE, which latents could be drawn.
        notes: a line for each latent that was asked for and is left out, and for each group that cannot be matched.
    """

    study: Study
    items: dict[str, Identity]
    drawn_from: dict[str, str]
    notes: tuple[str, ...]


def prepare(
    lm: HostLM,
    saes: Sequence[SAE],
    hook: Hook,
    rows: Rows,
    masks: Masks,
    rubric: Rubric,
    token_text: Callable[[int], str],
    alone: Callable[[int], str],
    title: str,
    asked: Asked = Asked(),
    *,
    among: Sequence[Sequence[int]] | None = None,
    mesh: Mesh | None = None,
    cache: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    stop: Callable[[], None] = lambda: None,
) -> Prepared:
    """Make a study.

    Args:
        lm: the language model.
        saes: SAEs that read this hook.
        hook: the hook.
        rows: text, in which latents are looked at.
        masks: `metric` says which tokens count.
        rubric: what is asked.
        token_text: what raters see of a token id inside a text, with nothing in it that is invisible.
        alone: what they see of one by itself.
        title: of the study; raters read it.
        asked: of what, and how many.
        among: for each SAE, the latents among which a number of them is drawn; default all.
        mesh: devices; default all.
        cache: a folder that keeps the activations of latents; default none does.
        progress: called with a stage, what was just done in it, and all of it.
        stop: called where little would be lost; it may raise.

    Raises:
        InputError: a latent that does not exist was asked for, none fires often enough, or the LM gives NaN or Inf.
    """
    mesh = make_mesh() if mesh is None else mesh
    sample = leading_sample(lm, hook, rows, masks, mesh=mesh, precision=asked.precision)
    sources = [own for i, sae in enumerate(scaled(saes, sample)) for own in _sources(i, sae, sample, asked)]
    tables = sparse_activations(
        lm,
        [own.dictionary for own in sources],
        hook,
        rows,
        masks,
        mesh=mesh,
        precision=asked.precision,
        cache=cache,
        progress=progress,
        stop=stop,
    )
    contexts = Contexts.of(with_documents(rows, masks, card_of(lm).special_ids), masks, token_text, asked.seed)
    items: dict[str, Item] = {}
    identities: dict[str, Identity] = {}
    notes: list[str] = []
    drawn_from: dict[str, str] = {}
    latents: list[OfLatent] = []  # of the SAE at hand
    for source, table in zip(sources, tables, strict=True):
        name, keys = saes[source.of].card.name, (GROUPS.index(source.group), source.of)
        if source.group == "latent":
            pool = None if among is None else among[source.of]
            chosen, rare = choose(asked.latents, table, pool, asked.seed)
            notes += [f"{name}: latent {latent} fires {n} times, {LEAST} are needed: left out" for latent, n in rare]
            units = latents = [table.of(latent) for latent in chosen]
            known = np.arange(len(table.fires)) if pool is None else np.asarray(pool)
            often = int((table.fires[known] >= LEAST).sum())
            given = "" if pool is None else " given"
            drawn_from[name] = f"{often} of {len(known)}{given} latents, those that fire at {LEAST} tokens or more"
        else:
            # Coordinates are the same for every SAE at the hook.
            of_others = {own.latent for own in identities.values() if own.group == source.group == "neurons"}
            chosen, units = controls(table, latents, asked.controls, asked.seed, *keys, but=of_others)
            if unmatched := sum(len(own.value) > table.fires.max() for own in latents):
                notes.append(
                    f"{name}: {unmatched} of the latents fire at more tokens than any {source.called}, "
                    "which tells them apart"
                )
        if not len(chosen):
            raise InputError(f"{name}: no {source.called} fires at {LEAST} tokens or more; give more --rows")
        effects = _effects(lm, hook, source.dictionary, chosen, alone)
        for latent, entries, of_latent in zip(chosen.tolist(), units, effects, strict=True):
            shown = contexts.by_interval(entries, asked.contexts, *keys, latent)
            id = secrets.token_hex(8)
            items[id] = Item(id, shown, _rated(shown, rubric, asked, *keys, latent), *of_latent)
            density = len(entries.value) / max(1, table.n_tokens)
            identities[id] = Identity(name, source.group, latent, density, float(entries.value.max()))
    items = {id: items[id] for id in sorted(items)}
    study = Study(secrets.token_hex(8), title, rubric, reaches_logits(hook), asked.repeats, asked.seed, items)
    return Prepared(study, identities, drawn_from, tuple(notes))


@dataclass(frozen=True)
class _Source:
    """A dictionary that items come from: the `of`-th SAE, or a control for it."""

    of: int
    group: Group
    dictionary: SAE

    @property
    def called(self) -> str:
        """One of its units."""
        return {
            "latent": "latent",
            "random_sae": "latent of a random SAE",
            "neurons": "coordinate of the activation",
            "random_directions": "random direction",
        }[self.group]


def _sources(of: int, sae: SAE, sample: Sample, asked: Asked) -> Iterator[_Source]:
    yield _Source(of, "latent", sae)
    if asked.controls:
        alike = look_alikes(sae, sample, asked.seed + of, asked.precision, CONTROLS)
        for group in CONTROLS:
            yield _Source(of, group, alike[group])


def choose(
    wanted: str, table: SparseLatents, pool: Sequence[int] | None, seed: int
) -> tuple[Int[np.ndarray, " chosen"], list[tuple[int, int]]]:
    """Latents that fire at `LEAST` tokens or more, and those that were named and do not, with how often they fire.

    Args:
        wanted: see `choose_latents`; a number is drawn by strata of density.
        table: of a whole dictionary.
        pool: latents among which a number is drawn; None: all.
        seed: of the draw.

    Raises:
        InputError: a latent that does not exist.
    """
    often = table.fires >= LEAST
    density: Float[np.ndarray, " latent"] = np.where(often, table.density, 0.0)
    if pool is not None:
        density = np.where(np.isin(np.arange(len(density)), np.asarray(pool)), density, 0.0)
    asked = choose_latents(wanted, density, seed)
    return asked[often[asked]], [(int(own), int(table.fires[own])) for own in asked[~often[asked]]]


def controls(
    table: SparseLatents, latents: Sequence[OfLatent], n: int, seed: int, *keys: int, but: Collection[int] = ()
) -> tuple[Int[np.ndarray, " chosen"], list[OfLatent]]:
    """Units of a control dictionary, each matched with a latent: which they are, and where they fire then.

    The latents are gone through in a random order, again and again; to each is drawn one of the units that fire at as
    many tokens or more, or, if there is none, the one that fires most. Units that fire at fewer than `LEAST` tokens
    are not taken.

    Args:
        table: of the whole dictionary.
        latents: of the SAE.
        n: how many units.
        seed: of the draws.
        keys: of the draws, besides the seed.
        but: units that are not taken.
    """
    order = np.argsort(hashed(seed, *keys, np.arange(len(latents))), kind="stable")
    left = np.setdiff1d(np.flatnonzero(table.fires >= LEAST), list(but))
    found: dict[int, OfLatent] = {}
    for i in range(min(n, len(left))):
        latent = latents[order[i % len(latents)]]
        fires = table.fires[left]
        fit = left[fires >= min(len(latent.value), fires.max())]
        drawn = int(fit[np.argmin(hashed(seed, *keys, i, fit))])
        found[drawn] = matched(table.of(drawn), latent)
        left = left[left != drawn]
    chosen = np.array(sorted(found), np.int32)
    return chosen, [found[own] for own in chosen.tolist()]


def matched(control: OfLatent, latent: OfLatent) -> OfLatent:
    """A control that fires at as many tokens as a latent, as much as that does.

    Its threshold is raised to its n strongest activations, n the number of the latent's, and the r-th strongest gets
    the share of the largest that the latent's r-th strongest has. Otherwise how many contexts there are, in which
    intervals, and how dark they are, would tell raters what is a control. It shows a control at its best: what latents
    are better by is rather underestimated. If it fires less often than the latent, it keeps all, with shares from the
    whole range of the latent's.
    """
    n = min(len(control.value), len(latent.value))
    strongest = np.argsort(-control.value, kind="stable")[:n]
    shares = np.sort(latent.value.astype(np.float64))[::-1] / latent.value.max()
    value = np.zeros(len(control.value))
    value[strongest] = shares[np.linspace(0, len(shares) - 1, n).round().astype(np.int64)] * control.value.max()
    kept = np.sort(strongest)
    return OfLatent(control.row[kept], control.position[kept], value[kept].astype(np.float32))


def _rated(shown: Sequence[Sequence[Window]], rubric: Rubric, asked: Asked, *keys: int) -> tuple[int, ...]:
    """Some of the intervals that have contexts, drawn uniformly; none, where the rubric asks about whole items."""
    if rubric.unit != "interval":
        return ()
    filled = np.array([i for i, windows in enumerate(shown, 1) if windows], np.int64)
    order = np.argsort(hashed(asked.seed, *keys, filled), kind="stable")
    return tuple(sorted(filled[order[: asked.intervals]].tolist()))


def _effects(
    lm: HostLM, hook: Hook, sae: SAE, latents: Int[np.ndarray, " n"], token_text: Callable[[int], str]
) -> Iterator[tuple[tuple[Effect, ...], tuple[Effect, ...]]]:
    """The tokens that each latent makes more likely, and less."""
    if not reaches_logits(hook):
        yield from [((), ())] * len(latents)
        return
    found = logit_effects(lm, sae.W_dec[latents])
    for i in range(len(latents)):
        largest = max(float(np.abs(found.top[i]).max()), float(np.abs(found.bottom[i]).max())) or 1.0
        ends = ((found.top_ids[i], found.top[i]), (found.bottom_ids[i], found.bottom[i]))
        promoted, suppressed = (
            tuple(
                Effect(token_text(int(id)), round(float(own) / largest, 3)) for id, own in zip(ids, values, strict=True)
            )
            for ids, values in ends
        )
        yield promoted, suppressed
