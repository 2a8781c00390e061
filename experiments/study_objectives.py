"""Local, end-to-end and end-to-end + downstream SAEs at equal L0, after Braun et al. 2024 (arXiv 2405.12241).

    python -m experiments.study_objectives --out runs/objectives

On `tiny`, after the second of its five blocks: TopK SAEs, so that L0 is the same number for every objective, and with
`--penalty` relu SAEs with an L1 penalty, as in the paper. Result: `experiments/results/objectives.json` and `.svg`;
README.md, "Studies", says what came out and how long it took.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import jsaeval
from experiments.training.data import token_source
from experiments.training.recipe import Form, Recipe
from experiments.training.step import Training
from experiments.training.study import RESULTS, difference, evaluated, judged_tokens, numbers, save, short
from experiments.training.text import MORE_PROSE, split
from experiments.training.trainer import Job, train
from jsaeval.cache import atomic, keep_programs
from jsaeval.hooks import parse_hook
from jsaeval.report.drawing import STYLE
from jsaeval.report.fronts import plain_numbers


OBJECTIVES = ("local", "e2e+ds", "e2e")
METRICS = (
    "l0",
    "ce_increase",
    "ce_recovered_zero",
    "downstream_loss",
    "fvu",
    "mse",
    "downstream_reconstruction",
    "downstream_fvu",
    "alive",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare the objectives."""

    out: Path
    """Folder for the SAEs and the log."""
    lm: str = "tiny"
    hook: str = "blocks.1.hook_resid_post"
    width: int = 768
    k: tuple[float, ...] = (4, 8, 16, 32)
    penalty: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Coefficients of L1 for relu SAEs, by objective; none by default."""
    beta: float = 0.01
    form: Form = "paper"
    tokens: int = 500_000
    batch: int = 16
    lr: float = 1e-3
    rows: int = 128
    """Rows of AG News to judge on."""
    resume: bool = False


def main(config: Config) -> None:
    keep_programs()
    lm, text = jsaeval.load_lm(config.lm), split(MORE_PROSE)
    hook = parse_hook(config.hook, lm.n_blocks)
    source = token_source(lm, text.train, config.tokens, 128, config.batch)
    shared: dict[str, Any] = {"width": config.width, "form": config.form, "beta": config.beta}
    recipes = [Recipe("topk", o, config.k, **shared) for o in OBJECTIVES if config.k]
    recipes += [Recipe("relu", o, config.penalty[o], **shared) for o in OBJECTIVES if config.penalty.get(o)]  # type: ignore
    steps = source.size // source.batch
    tokens = judged_tokens(lm, config.rows)
    training = Training(steps=steps, lr=config.lr, aux=0.0)
    job = Job(config.out, tuple(recipes), training, source, tokens[:16], resume=config.resume, checkpoint_every=200)
    trained, after = train(lm, hook, job), time.time()
    results = evaluated(lm, trained.flat(), tokens)

    entries, lines = iter(results.saes), []
    for recipe in recipes:
        for value in recipe.sparsity:
            entry = next(entries)
            line = {"architecture": recipe.architecture, "objective": recipe.objective, "sparsity": value}
            lines.append((line | {"metrics": numbers(entry, METRICS)}, entry))
    result = {
        "lm": config.lm,
        "hook": hook.name,
        "training_tokens": steps * source.tokens_per_batch,
        "judged_tokens": results.saes[0].metrics["mse"].n,
        "saes": [line for line, _ in lines],
        "differences": _differences(lines),
        "l0_at_equal_ce_increase": l0_ratios([line for line, _ in lines]),
    }
    save("objectives", result, trained.seconds + time.time() - after)
    draw(result["saes"], f"{config.lm}, {hook.name}", RESULTS / "objectives.svg")


def _differences(lines: list[tuple[dict[str, Any], Any]]) -> list[dict[str, Any]]:
    """Each end-to-end TopK SAE minus the local one of the same k, on the same rows."""
    local = {
        line["sparsity"]: entry
        for line, entry in lines
        if (line["architecture"], line["objective"]) == ("topk", "local")
    }
    ids = ("ce_increase", "downstream_loss", "fvu", "downstream_fvu")
    return [
        {"objective": line["objective"], "k": line["sparsity"]}
        | {id: difference(entry, local[line["sparsity"]], id) for id in ids}
        for line, entry in lines
        if line["architecture"] == "topk" and line["objective"] != "local"
    ]


def l0_ratios(saes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """L0 that an end-to-end SAE needs for the CE increase of each local one, as a share of the local L0.

    Interpolated on the logarithms of L0 and CE increase; left out beyond the ends of a curve.
    """

    def curve(architecture: str, objective: str) -> tuple[np.ndarray, np.ndarray]:
        chosen = [s["metrics"] for s in saes if (s["architecture"], s["objective"]) == (architecture, objective)]
        points = sorted((m["ce_increase"]["value"], m["l0"]["value"]) for m in chosen if m["ce_increase"]["value"] > 0)
        x, y = np.log(np.array(points).reshape(-1, 2)).T
        return x, y

    out = []
    for architecture in dict.fromkeys(s["architecture"] for s in saes):
        x, y = curve(architecture, "local")
        for objective in ("e2e", "e2e+ds"):
            others, l0 = curve(architecture, objective)
            for ce, at in zip(x, y, strict=True):
                if len(others) > 1 and others[0] <= ce <= others[-1]:
                    needed = np.exp(np.interp(ce, others, l0))
                    ratio = {"ce_increase": short(np.exp(ce)), "local_l0": short(np.exp(at)), "l0": short(needed)}
                    head = {"architecture": architecture, "objective": objective}
                    out.append(head | ratio | {"ratio": short(needed / np.exp(at))})
    return out


PANELS = {
    "ce_increase": "CE increase (nats)",
    "downstream_loss": "KL from the clean LM (nats)",
    "fvu": "FVU at the hook",
    "downstream_fvu": "FVU of later blocks",
}
LOOKS = {"local": ("#1b4d72", "o", "-"), "e2e+ds": ("#3d7a45", "s", "--"), "e2e": ("#a3481c", "^", ":")}


def draw(saes: list[dict[str, Any]], where: str, path: Path) -> None:
    """One panel a metric, over L0; lower is better in all."""
    kinds = list(dict.fromkeys(s["architecture"] for s in saes))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3 * len(kinds)), layout="constrained")
        grid = figure.subplots(len(kinds), len(PANELS), squeeze=False)
        for row, kind in zip(grid, kinds, strict=True):
            for axes, (id, label) in zip(row, PANELS.items(), strict=True):
                for objective, (colour, marker, dash) in LOOKS.items():
                    chosen = [s["metrics"] for s in saes if (s["architecture"], s["objective"]) == (kind, objective)]
                    chosen.sort(key=lambda m: m["l0"]["value"])
                    if not chosen:
                        continue
                    x, y = ([m[key]["value"] for m in chosen] for key in ("l0", id))
                    low, high = zip(*(m[id]["ci95"] for m in chosen), strict=True)
                    axes.plot(x, y, color=colour, marker=marker, linestyle=dash, label=objective, markersize=4)
                    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.set(xscale="log", yscale="log", xlabel=f"L0 of {kind} SAEs", ylabel=label)
                axes.set_xticks(
                    ticks := sorted(
                        {
                            round(s["metrics"]["l0"]["value"])
                            for s in saes
                            if s["architecture"] == kind and s["objective"] == "local"
                        }
                    ),
                    [str(t) for t in ticks],
                )
                axes.xaxis.set_minor_locator(NullLocator())
                plain_numbers(axes.yaxis)
        grid[0, 0].legend(frameon=False)
        figure.suptitle(f"What an SAE is trained for ({where}): lower is better; bands are 95 % intervals", fontsize=10)
        with atomic(path) as temporary:
            figure.savefig(temporary, format="svg")


if __name__ == "__main__":
    main(tyro.cli(Config))
