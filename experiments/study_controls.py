"""Which metrics tell a trained SAE from ones that should be worse?

    python -m experiments.study_controls --out runs/controls

Five kinds of TopK SAE with the same k and width: trained on `tiny`; random directions with the same L0 (the package's
own floor); trained with its decoder frozen at random directions (Korznikov et al. 2026, arXiv 2602.14111); trained on
a randomly initialised `tiny` and judged in it (Heap et al. 2025, arXiv 2501.17727); and a second seed of the trained
one: intervals cover the text, not the training, so how far two seeds lie apart is the yardstick for the rest.
Result: `experiments/results/controls.json` and `.svg`; README.md, "Studies".
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure

import jsaeval
from experiments import train_tiny_lm
from experiments.training.data import token_source
from experiments.training.recipe import Recipe
from experiments.training.step import Training
from experiments.training.study import RESULTS, difference, evaluated, judged_tokens, number, numbers, save
from experiments.training.text import MORE_PROSE, split
from experiments.training.trainer import Job, Trained, train
from jsaeval.cache import atomic, keep_programs
from jsaeval.hooks import parse_hook
from jsaeval.lm.decoder import Decoder
from jsaeval.metrics.metric import wins
from jsaeval.metrics.registry import REGISTRY
from jsaeval.report.drawing import STYLE


METRICS = (
    "explained_variance",
    "downstream_reconstruction",
    "downstream_fvu",
    "downstream_loss",
    "ce_clean",
    "ce_increase",
    "ce_recovered_zero",
    "kl_recovered_zero",
    "top1_agreement",
    "l0",
    "l1_scaled",
    "alive",
    "dense",
)
# Those whose unit is the activation's own: they cannot be compared between two LMs.
OF_ONE_LM = ("downstream_reconstruction", "l1_scaled")
TRAINED, SEED, FROZEN, RANDOM, OTHER_LM = (
    "trained",
    "trained, another seed",
    "frozen random decoder",
    "random SAE",
    "trained on a random LM",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare SAEs that should differ."""

    out: Path
    """Folder for the SAEs and the logs."""
    hook: str = "blocks.1.hook_resid_post"
    width: int = 768
    k: float = 16
    tokens: int = 1_000_000
    batch: int = 16
    lr: float = 1e-3
    rows: int = 128
    """Rows of AG News to judge on."""
    resume: bool = False


def main(config: Config) -> None:
    keep_programs()
    lm = jsaeval.load_lm("tiny")
    random_lm = random_like(lm)
    tokens = judged_tokens(lm, config.rows)
    recipe = Recipe("topk", "local", (config.k,), config.width)
    own = [recipe, dataclasses.replace(recipe, seed=1), dataclasses.replace(recipe, frozen_decoder=True)]
    at_home = _train(lm, own, config, tokens, "tiny")
    abroad = _train(random_lm, [recipe], config, tokens, "random-lm")
    after = time.time()
    trained = evaluated(lm, at_home.flat(), tokens, control_rows=config.rows)
    elsewhere = evaluated(random_lm, abroad.flat(), tokens)

    first, seed, frozen = trained.saes
    (other,) = elsewhere.saes
    assert first.controls is not None
    floor = first.controls.floors["random_sae"]
    lines = {
        TRAINED: numbers(first, METRICS),
        SEED: numbers(seed, METRICS),
        FROZEN: numbers(frozen, METRICS),
        RANDOM: {id: number(floor.metrics[id]) for id in METRICS if id in floor.metrics},
        OTHER_LM: numbers(other, METRICS),
    }
    against: dict[str, Any] = {
        SEED: {id: verdict(difference(first, seed, id), id) for id in _summed(lines[SEED])},
        FROZEN: {id: verdict(difference(first, frozen, id), id) for id in _summed(lines[FROZEN])},
        RANDOM: {id: verdict(number(floor.difference[id]), id) for id in _summed(lines[RANDOM])},
        OTHER_LM: {
            id: verdict(difference(first, other, id), id) for id in _summed(lines[OTHER_LM]) if id not in OF_ONE_LM
        },
    }
    result = {
        "lm": "tiny",
        "hook": config.hook,
        "k": config.k,
        "width": config.width,
        "judged_tokens": first.metrics["mse"].n,
        "saes": lines,
        "trained_minus_other": against,
    }
    save("controls", result, at_home.seconds + abroad.seconds + time.time() - after)
    draw(result, RESULTS / "controls.svg")


def random_like(lm: Decoder) -> Decoder:
    """An LM of the same shape that was never trained."""
    fresh = train_tiny_lm.initial(train_tiny_lm.Config(out=Path()))
    card = dataclasses.replace(lm.card, name="tiny, random weights", sha256="seed 0")
    return dataclasses.replace(fresh, card=card)


def _train(lm: Decoder, recipes: list[Recipe], config: Config, tokens: np.ndarray, name: str) -> Trained:
    source = token_source(lm, split(MORE_PROSE).train, config.tokens, 128, config.batch)
    training = Training(steps=source.size // source.batch, lr=config.lr)
    job = Job(config.out / name, tuple(recipes), training, source, tokens[:16], resume=config.resume, evaluations=1)
    return train(lm, parse_hook(config.hook), job)


def _summed(line: dict[str, Any]) -> list[str]:
    """Metrics that have an interval and a better direction."""
    return [id for id, v in line.items() if "ci95" in v and id in REGISTRY and REGISTRY[id].direction != "neither"]


def verdict(change: dict[str, Any], id: str) -> dict[str, Any]:
    """Is the trained SAE better, by the metric's own direction?"""
    won = wins(REGISTRY[id].direction, change["ci95"])
    return change | {"trained_is": "not separated" if won is None else "better" if won else "worse"}


def draw(result: dict[str, Any], path: Path) -> None:
    """A panel a metric: each SAE's value with its interval."""
    shown = [id for id in METRICS if id not in ("ce_clean", *OF_ONE_LM)]
    names = list(result["saes"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        grid = figure.subplots(2, len(shown) // 2, sharey=True)
        for axes, id in zip(grid.flat, shown, strict=True):
            for i, name in enumerate(names):
                value = result["saes"][name].get(id)
                if value is None:
                    continue
                low, high = value.get("ci95", (value["value"],) * 2)
                axes.plot([low, high], [i, i], color="#1b4d72", linewidth=2)
                axes.plot(value["value"], i, "o", color="#1b4d72", markersize=4)
            axes.set(title=f"{id} {_better(id)}", yticks=range(len(names)))
            axes.set_yticklabels(names)
            axes.title.set_fontsize(8)
            axes.grid(axis="x", color="#e4e4e4")
        grid[0, 0].invert_yaxis()
        where = f"{result['lm']}, {result['hook']}, k = {result['k']:g}"
        title = f"What separates a trained SAE from its look-alikes ({where}); ↑ higher, ↓ lower is better"
        figure.suptitle(title, fontsize=10)
        with atomic(path) as temporary:
            figure.savefig(temporary, format="svg")


def _better(id: str) -> str:
    return {"higher": "↑", "lower": "↓"}.get(REGISTRY[id].direction, "")


if __name__ == "__main__":
    main(tyro.cli(Config))
