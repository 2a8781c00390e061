"""`probe`: an LM, SAEs and tasks → probes of every task."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from jsaeval.corpus.tasks import Task
from jsaeval.errors import InputError
from jsaeval.forward.controls import random_sae
from jsaeval.hooks import Hook
from jsaeval.lm.card import card_of
from jsaeval.lm.load import load_tokenizer
from jsaeval.lm.protocol import HostLM, check_host
from jsaeval.lm.tokenizer import TextTokenizer
from jsaeval.mesh import make_mesh
from jsaeval.probes import state
from jsaeval.probes.activations import Activations, ActivationStore, key_of, open_store, text_activations
from jsaeval.probes.features import Encoder, Pool
from jsaeval.probes.fit import KS
from jsaeval.probes.task import Drawn, TaskResult, Which, draw, probe_task
from jsaeval.run.calibration import Progress
from jsaeval.sae.module import SAE


# Activations that fix the scale of an SAE and its random control; a few of every task.
SAMPLE = 2048


@dataclass(frozen=True)
class Asked:
    """How to probe: everything that is not the LM, the SAEs or the tasks.

    Attributes:
        which: probes.
        pool: a text is its last token, or the mean or the maximum over its tokens.
        context: positions of a text, BOS included; a longer one keeps its end.
        examples: of a task, at most; None: all.
        precision: of matrix products in the LM and the SAE.
        seed: of the examples, the random SAE and the bootstrap.
    """

    which: Which = field(default_factory=Which)
    pool: Pool = "last"
    context: int = 128
    examples: int | None = 1024
    precision: str = "highest"
    seed: int = 0


def probe(
    lm: HostLM,
    saes: Sequence[SAE],
    hook: Hook,
    tasks: Sequence[Task],
    asked: Asked = Asked(),
    *,
    tokenizer: TextTokenizer | None = None,
    mesh: Mesh | None = None,
    cache: Path | None = None,
    folder: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    stop: Callable[[], None] = lambda: None,
) -> list[TaskResult]:
    """Probe SAEs at one hook for every task.

    Args:
        lm: the language model.
        saes: SAEs that read this hook.
        hook: the hook.
        tasks: from `jsaeval.corpus.tasks.open_tasks`.
        asked: how.
        tokenizer: of the LM; default the one that it was loaded with.
        mesh: devices; default all.
        cache: a folder for activations of the LM, from which another call takes them.
        folder: where the results of each task are kept, from which this call goes on; default nowhere.
        progress: called with a stage ("activations", "probes"), what was just done in it, and all of it.
        stop: called where nothing would be lost; it may raise.

    Raises:
        InputError: the LM is none, a task is too small, or the LM gives NaN or Inf.
    """
    check_host(lm)
    tokenizer = load_tokenizer(lm) if tokenizer is None else tokenizer
    mesh = make_mesh() if mesh is None else mesh
    for sae in saes:
        if asked.which.ks != KS and max(asked.which.ks) > sae.d_sae:
            raise InputError(f"--k {max(asked.which.ks)}: {sae.card.name} has {sae.d_sae} latents")
    context = context_of(lm, asked)
    drawn = [draw(task, tokenizer, context, asked.examples, asked.seed) for task in tasks]
    kept = "last" if asked.pool == "last" else "tokens"
    store = open_store(cache, lm, hook, asked.precision, kept)
    texts = [ids for own in drawn for ids in own.ids]
    text_activations(lm, hook, texts, mesh, kept, asked.precision, store, progress, stop)
    sample = _sample(drawn, store)
    saes = [sae.with_scale(float(np.linalg.norm(sample, axis=1).mean())) for sae in saes]
    encoders, controls = [], []
    paths = _paths(folder, lm, saes, hook, tasks, asked)
    results = []
    for own, path in zip(drawn, paths, strict=True):
        found = None if path is None else state.load(path)
        if found is None:
            if not encoders:
                encoders = [Encoder(sae, asked.pool, mesh, asked.precision) for sae in saes]
                controls = [Encoder(_random(sae, sample, asked), asked.pool, mesh, asked.precision) for sae in saes]
            x = [store[key_of(ids)] for ids in own.ids]
            pooled = [encoder(x) for encoder in encoders]
            random = [encoder(x).latents for encoder in controls]
            found = probe_task(own, pooled, random, asked.which, mesh, asked.seed)
            if path is not None:
                state.save(path, found)
        results.append(found)
        progress("probes", 1, len(drawn))
        stop()
    return results


def context_of(lm: HostLM, asked: Asked) -> int:
    """Positions of a text: no more than the LM has."""
    return min(asked.context, card_of(lm).context or asked.context)


def _paths(
    folder: Path | None, lm: HostLM, saes: Sequence[SAE], hook: Hook, tasks: Sequence[Task], asked: Asked
) -> list[Path] | list[None]:
    """Where the results of each task lie."""
    if folder is None:
        return [None] * len(tasks)
    identities = [task.identity for task in tasks]
    # The sample is made of all tasks.
    how = dataclasses.asdict(asked), metadata.version("jsaeval"), identities
    about = card_of(lm).sha256, str(lm.unembedding.dtype), [(sae.card.sha256, sae.architecture) for sae in saes]
    named = zip(tasks, identities, strict=True)
    return [state.path_of(folder, how, about, hook.name, task.name, identity) for task, identity in named]


def _sample(drawn: Sequence[Drawn], store: ActivationStore) -> Float[np.ndarray, "token width"]:
    """Activations at training texts, as many of each task."""
    each = -(-SAMPLE // len(drawn))
    rows: list[Activations] = []
    for own in drawn:
        found = np.concatenate([store[key_of(own.ids[i])] for i in own.parts.train])
        rows.append(found[np.linspace(0, len(found) - 1, min(each, len(found)), dtype=int)])
    return np.concatenate(rows)


def _random(sae: SAE, sample: Float[np.ndarray, "token width"], asked: Asked) -> SAE:
    """A random SAE with as many active latents on the sample."""
    x = jnp.asarray(sample)
    with jax.default_matmul_precision(asked.precision):
        l0 = jnp.mean(jnp.sum(sae.encode(x.astype(sae.W_enc.dtype)) != 0, axis=-1).astype(jnp.float32))
        return random_sae(asked.seed, sae.d_sae, l0, jnp.mean(x, axis=0), x)
