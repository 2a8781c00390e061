"""The training loop: resumable, stops where it diverges, evaluates with the package's own metrics.

A folder of a training holds `plan.json` (everything that another training would have to share to be this one),
`log.jsonl` (a line every `log_every` steps and one for each evaluation), `state.eqx` (the last good checkpoint),
`curves.svg`, and in the end each SAE as `NAME.safetensors` and as the SAELens folder `saelens/NAME`.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

import jsaeval
from experiments.training.checkpoint import claim, load_checkpoint, save_checkpoint
from experiments.training.curves import draw_curves
from experiments.training.data import Source
from experiments.training.losses import check
from experiments.training.recipe import Recipe
from experiments.training.record import DivergedError, Log, diverged
from experiments.training.step import Group, Training, Units, finished, make_step, start
from jsaeval.errors import InputError
from jsaeval.forward.batch import default_masks
from jsaeval.forward.splice import at_hook, prefix
from jsaeval.hooks import Hook
from jsaeval.lm.decoder import Decoder
from jsaeval.run.engine import Setting
from jsaeval.run.evaluate import SAEResult
from jsaeval.sae.module import SAE, SAECard


JUDGED_BY = ("l0", "explained_variance", "ce_increase", "ce_recovered_zero", "downstream_loss", "alive")


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        out: its folder.
        recipes: what to train; all share the LM's pass.
        training: how.
        source: what on.
        test: rows of tokens to evaluate on.
        log_every, checkpoint_every: steps.
        evaluations: how often to evaluate, the last one at the end included; 0 for never.
        command: written down as what made this.
        resume: go on from the checkpoint in `out`, if there is one.
    """

    out: Path
    recipes: tuple[Recipe, ...]
    training: Training
    source: Source
    test: Int[np.ndarray, "row position"]
    log_every: int = 50
    checkpoint_every: int = 500
    evaluations: int = 4
    command: str = ""
    resume: bool = False

    def identity(self, lm: Decoder, hook: Hook) -> dict[str, Any]:
        """What a checkpoint must have been made with."""
        about = {
            "lm": lm.card.sha256,
            "hook": hook.name,
            "source": self.source.identity(),
            "recipes": [dataclasses.asdict(recipe) for recipe in self.recipes],
            "training": dataclasses.asdict(self.training),
        }
        return json.loads(json.dumps(about))

    def names(self) -> list[str]:
        """Of the SAEs, in the order of the recipes."""
        return [name for recipe in self.recipes for name in recipe.names()]


@dataclass(frozen=True)
class Trained:
    """What came out: the SAEs of each recipe, and the seconds that training took, those before a kill included."""

    saes: list[list[SAE]]
    seconds: float

    def flat(self) -> list[SAE]:
        """The SAEs of all recipes, one after the other."""
        return [sae for saes in self.saes for sae in saes]


def train(lm: Decoder, hook: Hook, job: Job, say: Callable[[str], None] = print) -> Trained:
    """Train, and save what came out.

    Raises:
        InputError: the folder holds another training, or one that is not to be resumed; an objective has no meaning;
            two SAEs would have the same name.
        DivergedError: a loss or a weight is not finite; the last good checkpoint is kept.
    """
    for recipe in job.recipes:
        check(recipe, hook, lm.n_blocks)
    names = job.names()
    if len(set(names)) < len(names):
        raise InputError(f"two SAEs would be called {next(n for n in names if names.count(n) > 1)}; train them apart")
    first = claim(job.out, job.identity(lm, hook), job.command, job.resume)
    units, training = measure_units(lm, hook, job.source), job.training
    groups, spent = tuple(start(recipe, units, training) for recipe in job.recipes), 0.0
    if first:
        groups, spent = load_checkpoint(job.out, groups)
        say(f"resumed at step {first}")
    step, arrays = make_step(lm, hook, job.recipes, units, training), eqx.filter(lm, eqx.is_array)
    evaluated_at = {round(training.steps * (i + 1) / job.evaluations) for i in range(job.evaluations)}
    log = Log(job.out / "log.jsonl", names, job.source.tokens_per_batch, first)
    pending, begun, since = [], time.time() - spent, time.time()

    for number in range(first, training.steps):
        groups, observed = step(groups, arrays, job.source.at(number), jnp.int32(number))
        pending.append(jax.tree.map(lambda *x: jnp.concatenate(x), *observed))
        done = number + 1
        keep = done % job.checkpoint_every == 0 or done == training.steps
        if not (keep or done % job.log_every == 0 or done in evaluated_at):
            continue
        for line in log.steps(done, jax.device_get(pending), time.time() - since):
            say(line)
        pending = []
        if keep or done in evaluated_at:
            _check_weights(groups, job, done)
        # Evaluated before it is kept: what is not in the checkpoint is done again when resumed.
        if done in evaluated_at and len(job.test):
            say(log.evaluation(done, judge(lm, hook, _finished(groups, job, units), job.test)))
        if keep:
            save_checkpoint(job.out, groups, done, time.time() - begun)
        since = time.time()

    saes = iter(_finished(groups, job, units))
    result = [[_save(next(saes), name, lm, hook, job) for name in recipe.names()] for recipe in job.recipes]
    for group, recipe in zip(groups, job.recipes, strict=True):
        dead = np.asarray((group.silent > training.dead_after).sum(-1))
        for name, n in zip(recipe.names(), dead, strict=True):
            if n == recipe.width:
                say(f"{name}: all {n} latents are dead; a smaller penalty or learning rate would help")
    draw_curves(job.out)
    return Trained(result, time.time() - begun)


def _finished(groups: tuple[Group, ...], job: Job, units: Units) -> list[SAE]:
    return [sae for group, recipe in zip(groups, job.recipes, strict=True) for sae in finished(group, recipe, units)]


def _check_weights(groups: tuple[Group, ...], job: Job, step: int) -> None:
    """Raises DivergedError where a weight is not finite: a loss tells of the weights before its step only."""
    for group, recipe in zip(groups, job.recipes, strict=True):
        leaves = [np.isfinite(np.asarray(w)) for w in jax.tree.leaves(group.weights)]
        for i, name in enumerate(recipe.names()):
            if not all(leaf[i].all() for leaf in leaves):
                raise DivergedError(diverged(job.out, step, name, "its weights are NaN or Inf"))


def measure_units(lm: Decoder, hook: Hook, source: Source, n_tokens: int = 20_000) -> Units:
    """Scale, mean and variance of the activation, from the first batches."""
    parts, count, number = [], 0, 0
    step = jax.jit(lambda lm, tokens: at_hook(lm, hook, prefix(lm, hook, tokens)))
    while count < n_tokens and number < source.size // source.batch:
        batch = source.at(number)
        if source.tokens is not None:
            tokens = batch.astype(jnp.int32)
            parts.append(np.asarray(step(lm, tokens))[np.asarray(default_masks(lm, tokens).metric)])
        else:
            parts.append(np.asarray(batch, np.float32))
        count, number = count + len(parts[-1]), number + 1
    return Units.of(np.concatenate(parts))


def judge(
    lm: Decoder, hook: Hook, saes: Sequence[SAE], tokens: Int[np.ndarray, "row position"]
) -> list[dict[str, float]]:
    """The metrics of `JUDGED_BY` for each SAE; NaN for one that gives no finite numbers."""
    setting = Setting(groups=("norms", "reconstruction", "loss", "latents"), control_rows=0)
    results = jsaeval.evaluate(lm, saes, tokens=tokens, hook=hook.name, setting=setting)
    return [
        {id: entry[id] if isinstance(entry, SAEResult) else float("nan") for id in JUDGED_BY}
        for entry in results.entries
    ]


def _save(sae: SAE, name: str, lm: Decoder, hook: Hook, job: Job) -> SAE:
    tokens = job.training.steps * job.source.tokens_per_batch
    declared = json.dumps({"command": job.command, "training_tokens": tokens, "distinct_tokens": job.source.n_tokens})
    card = SAECard(f"{lm.card.name}.{hook.name}.{name}", hook.name, lm.card.name, declared=declared)
    sae = dataclasses.replace(sae, card=card)
    jsaeval.save_sae(sae, job.out / f"{name}.safetensors")
    jsaeval.save_sae(sae, job.out / "saelens" / name, format="saelens")
    return sae
