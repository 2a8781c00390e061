"""The training loop: resumable, stops where a loss diverges, evaluates with the package's own metrics.

A folder of a training holds `training.json` (everything that another training would have to share to be this one),
`log.jsonl` (a line every `log_every` steps and one for each evaluation), `state.eqx` (the last good checkpoint),
`curves.svg`, and in the end each SAE as `NAME.safetensors` and as the SAELens folder `NAME.saelens`.
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
from experiments.training.curves import draw_curves
from experiments.training.data import Source, masks_of
from experiments.training.losses import check
from experiments.training.recipe import Recipe
from experiments.training.step import Group, Training, Units, finished, make_step, start
from jsaeval.cache import atomic
from jsaeval.errors import InputError
from jsaeval.forward.splice import at_hook, prefix
from jsaeval.hooks import Hook
from jsaeval.lm.decoder import Decoder
from jsaeval.run.engine import Setting
from jsaeval.sae.module import SAE, SAECard


JUDGED_BY = ("l0", "explained_variance", "ce_increase", "ce_recovered_zero", "downstream_loss", "alive")


class DivergedError(InputError):
    """A loss is not finite."""


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
        evaluations: how often to evaluate, the last one at the end included.
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
            "source": self.source.identity,
            "batch": self.source.batch,
            "recipes": [dataclasses.asdict(recipe) for recipe in self.recipes],
            "training": dataclasses.asdict(self.training),
        }
        return json.loads(json.dumps(about))


def train(lm: Decoder, hook: Hook, job: Job, say: Callable[[str], None] = print) -> list[list[SAE]]:
    """Train, and save what came out.

    Returns:
        The SAEs of each recipe.

    Raises:
        InputError: the folder holds another training, or one that is not to be resumed.
        DivergedError: a loss is not finite; the last checkpoint is kept.
    """
    for recipe in job.recipes:
        check(recipe, hook, lm.n_blocks)
    identity = job.identity(lm, hook)
    first = _claim(job, identity)
    units, training = measure_units(lm, hook, job.source), job.training
    groups = tuple(start(recipe, units, training) for recipe in job.recipes)
    if first:
        groups, first = load_checkpoint(job.out, groups)
        say(f"resumed at step {first}")
    step, arrays = make_step(lm, hook, job.recipes, units, training), eqx.filter(lm, eqx.is_array)
    names = [name for recipe in job.recipes for name in recipe.names()]
    evaluated_at = {round(training.steps * (i + 1) / job.evaluations) for i in range(job.evaluations)}
    pending, begun = [], time.time()
    log = Log(job.out / "log.jsonl", names, job.source.tokens_per_batch, first)

    for number in range(first, training.steps):
        groups, observed = step(groups, arrays, job.source.at(number), jnp.int32(number))
        pending.append(jax.tree.map(lambda *x: jnp.concatenate(x), *observed))
        done = number + 1
        last = done == training.steps
        if done % job.log_every == 0 or done % job.checkpoint_every == 0 or last or done in evaluated_at:
            lines = log.steps(done, jax.device_get(pending), time.time() - begun)
            pending = []
            if lines:
                say(lines)
        if done % job.checkpoint_every == 0 or last:
            save_checkpoint(job.out, groups, done)
        if done in evaluated_at and len(job.test):
            saes = [
                sae for group, recipe in zip(groups, job.recipes, strict=True) for sae in finished(group, recipe, units)
            ]
            say(log.evaluation(done, judge(lm, hook, saes, job.test)))

    result = []
    for group, recipe in zip(groups, job.recipes, strict=True):
        saes = finished(group, recipe, units)
        result.append([_save(sae, name, lm, hook, job) for sae, name in zip(saes, recipe.names(), strict=True)])
        dead = np.asarray((group.silent > training.dead_after).sum(-1))
        for name, n in zip(recipe.names(), dead, strict=True):
            if n == recipe.width:
                say(f"{name}: all {n} latents are dead; a smaller penalty or learning rate would help")
    draw_curves(job.out)
    return result


def measure_units(lm: Decoder, hook: Hook, source: Source, n_tokens: int = 20_000) -> Units:
    """Scale, mean and variance of the activation, from the first batches."""
    parts, count, number = [], 0, 0
    step = jax.jit(lambda lm, tokens: at_hook(lm, hook, prefix(lm, hook, tokens)))
    while count < n_tokens and number < source.size // source.batch:
        batch = source.at(number)
        if source.tokens is not None:
            tokens = batch.astype(jnp.int32)
            parts.append(np.asarray(step(lm, tokens))[np.asarray(masks_of(lm, tokens).metric)])
        else:
            parts.append(np.asarray(batch, np.float32))
        count, number = count + len(parts[-1]), number + 1
    return Units.of(np.concatenate(parts))


def judge(
    lm: Decoder, hook: Hook, saes: Sequence[SAE], tokens: Int[np.ndarray, "row position"]
) -> list[dict[str, float]]:
    """The metrics of `JUDGED_BY` for each SAE."""
    setting = Setting(groups=("norms", "reconstruction", "loss", "latents"), control_rows=0)
    results = jsaeval.evaluate(lm, saes, tokens=tokens, hook=hook.name, setting=setting)
    return [{id: entry[id] for id in JUDGED_BY} for entry in results.saes]


class Log:
    """`log.jsonl`: what each step said, averaged between lines, and each evaluation."""

    def __init__(self, path: Path, names: list[str], tokens_per_step: int, first: int):
        kept = [line for line in read_log(path) if line["step"] <= first] if first else []
        with atomic(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.path, self.names, self.tokens_per_step, self.first = path, names, tokens_per_step, first

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def steps(self, done: int, observed: list[Any], seconds: float) -> str:
        """Steps `done - len(observed) + 1 .. done`.

        Raises:
            DivergedError: a loss among them is not finite.
        """
        if not observed:
            return ""
        loss = np.stack([o.loss for o in observed])
        bad = np.argwhere(~np.isfinite(loss))
        if len(bad):
            step, which = bad[0]
            raise DivergedError(
                f"step {done - len(observed) + 1 + step}: the loss of {self.names[which]} is {loss[step, which]}; "
                f"the last good checkpoint in {self.path.parent} is kept; a smaller learning rate would help"
            )
        means = {key: np.mean([getattr(o, key) for o in observed], axis=0) for key in ("loss", "fvu", "l0")}
        speed = (done - self.first) * self.tokens_per_step / max(seconds, 1e-9)
        saes = {
            name: {key: _short(value[i]) for key, value in means.items()} | {"dead": int(observed[-1].dead[i])}
            for i, name in enumerate(self.names)
        }
        tokens = done * self.tokens_per_step
        self._write({"step": done, "tokens": tokens, "tokens_per_s": round(speed), "training": saes})
        shown = ", ".join(f"{key} {_span([sae[key] for sae in saes.values()])}" for key in ("fvu", "l0", "dead"))
        return f"step {done}, {tokens:,} tokens, {speed:,.0f} tokens/s: {shown}"

    def evaluation(self, done: int, values: list[dict[str, float]]) -> str:
        saes = {
            name: {id: _short(v) for id, v in value.items()} for name, value in zip(self.names, values, strict=True)
        }
        self._write({"step": done, "tokens": done * self.tokens_per_step, "evaluation": saes})
        return "\n".join(f"  {n}: " + ", ".join(f"{id} {v:.4g}" for id, v in s.items()) for n, s in saes.items())


def _span(values: list[float]) -> str:
    """One number, or the least and the largest of many."""
    return f"{min(values):.4g}" if min(values) == max(values) else f"{min(values):.4g} to {max(values):.4g}"


def _short(value: Any) -> float:
    return float(f"{float(value):.5g}")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one cut short by a kill is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def _claim(job: Job, identity: dict[str, Any]) -> int:
    """Take the folder; the number of steps that its checkpoint has, 0 to begin anew."""
    job.out.mkdir(parents=True, exist_ok=True)
    about, state = job.out / "training.json", job.out / "state.eqx"
    if about.exists():
        before = json.loads(about.read_text(encoding="utf-8"))["identity"]
        if changed := [key for key in identity if before.get(key) != identity[key]]:
            key = changed[0]
            raise InputError(
                f"{job.out}: holds a training with another {key} ({_difference(before.get(key), identity[key])}); "
                "choose another folder"
            )
        if not job.resume and state.exists():
            raise InputError(f"{job.out}: holds this training already; --resume goes on with it")
    with atomic(about) as temporary:
        text = json.dumps({"command": job.command, "identity": identity}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    return _checkpoint_head(state) if state.exists() else 0


def _difference(before: Any, now: Any) -> str:
    """The first thing in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                return f"{key}: {_difference(before.get(key), now.get(key))}"
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return next(_difference(a, b) for a, b in zip(before, now, strict=True) if a != b)
    return f"{before}, now {now}"


def save_checkpoint(out: Path, groups: tuple[Group, ...], step: int) -> None:
    """Groups after a number of steps; the checkpoint before is replaced when this one is whole."""
    with atomic(out / "state.eqx") as temporary, temporary.open("wb") as stream:
        stream.write(json.dumps({"step": step}).encode() + b"\n")
        eqx.tree_serialise_leaves(stream, groups)


def _checkpoint_head(path: Path) -> int:
    with path.open("rb") as stream:
        return json.loads(stream.readline())["step"]


def load_checkpoint(out: Path, groups: tuple[Group, ...]) -> tuple[tuple[Group, ...], int]:
    """What `save_checkpoint` wrote, into groups of the same shape.

    Raises:
        InputError: the file is damaged.
    """
    path = out / "state.eqx"
    try:
        with path.open("rb") as stream:
            step = json.loads(stream.readline())["step"]
            return eqx.tree_deserialise_leaves(stream, groups), step
    except (ValueError, KeyError, RuntimeError, EOFError) as error:
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0]}); delete it to begin anew") from None


def _save(sae: SAE, name: str, lm: Decoder, hook: Hook, job: Job) -> SAE:
    tokens = job.training.steps * job.source.tokens_per_batch
    declared = json.dumps({"command": job.command, "training_tokens": tokens, "distinct_tokens": _distinct(job.source)})
    card = SAECard(f"{lm.card.name}.{hook.name}.{name}", hook.name, lm.card.name, declared=declared)
    sae = dataclasses.replace(sae, card=card)
    jsaeval.save_sae(sae, job.out / f"{name}.safetensors")
    jsaeval.save_sae(sae, job.out / f"{name}.saelens", format="saelens")
    return sae


def _distinct(source: Source) -> int:
    return source.size if source.tokens is None else int(source.tokens.size)
