"""What a sweep costs: time per SAE as their number, width, context and hook depth grow, beside the count of FLOPs.

    python -m experiments.bench_sweep

Steps of `jsaeval run` without controls on SmolLM2-135M, with random TopK SAEs: time does not depend on their quality.
Every round times each case next to the base case (one SAE of width 2,304 at block 9, context 128), and the ratio of
the two is what counts; medians over rounds. Result: `experiments/results/sweep.json` and `.svg`; README.md, "Studies".

FLOPs are those of matrix products on visible tokens, the head included, as in `experiments/efficiency.py`: the prefix
once, the suffix and the head for the clean stream and each SAE, encoder and decoder once per SAE.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure

import jsaeval
from experiments.training.study import RESULTS, save, short
from jsaeval.cache import atomic
from jsaeval.corpus.masks import make_masks
from jsaeval.hooks import Hook
from jsaeval.lm.decoder import Decoder
from jsaeval.report.drawing import STYLE
from jsaeval.sae.module import SAE


@dataclass(frozen=True)
class Config:
    """Measure the cost of a sweep."""

    lm: str = "smollm2-135m"
    tokens: int = 512
    """Of a step."""
    rounds: int = 3


@dataclass(frozen=True)
class Case:
    """A step: how many SAEs of which width, on rows of which length, behind which block."""

    saes: int = 1
    width: int = 2304
    context: int = 128
    block: int = 9


BASE = Case()
SERIES = {
    "saes": [dataclasses.replace(BASE, saes=n) for n in (1, 2, 4, 8, 16)],
    "width": [dataclasses.replace(BASE, width=w) for w in (1152, 2304, 4608, 9216, 18432)],
    "context": [dataclasses.replace(BASE, context=c) for c in (64, 128, 256, 512)],
    "block": [dataclasses.replace(BASE, block=b) for b in (0, 9, 19, 28)],
}
LABELS = {"saes": "SAEs at once", "width": "latents", "context": "positions of a row", "block": "block of the hook"}


def flops_per_token(lm: Decoder, case: Case) -> float:
    """Useful FLOPs of a step, per token."""
    c = lm.config
    matrices = c.d_model * (2 * c.n_heads + 2 * c.n_kv_heads) * c.d_head + c.d_model * c.d_mlp * (2 + c.gated)
    block = 2 * matrices + 2 * (case.context + 1) * c.n_heads * c.d_head  # each token sees half the row
    before, streams = case.block + 1, 1 + case.saes
    suffix = streams * ((c.n_blocks - before) * block + 2 * c.d_model * c.vocab)
    return before * block + suffix + case.saes * 4 * c.d_model * case.width


def random_sae(width: int, d: int, seed: int) -> SAE:
    """A TopK-48 SAE with random weights."""
    W = jax.random.normal(jax.random.key(seed), (width, d)) / d**0.5
    return SAE(W.T, jnp.zeros(width), W, jnp.zeros(d), activation="topk", k=min(48, width))


def compile_step(lm: Decoder, case: Case, tokens_per_step: int) -> Callable[[], object]:
    """A function that runs one step and waits for it."""
    rows = max(1, tokens_per_step // case.context)
    tokens = jax.random.randint(jax.random.key(0), (rows, case.context), 20, lm.vocab, jnp.int32)
    masks = make_masks(tokens, lm.card.special_ids, lm.card.pad)
    saes = [random_sae(case.width, lm.d_model, seed) for seed in range(case.saes)]

    def run(lm, saes, tokens, masks, mean, zero):
        at = Hook(case.block, "hook_resid_post")
        return jsaeval.batch_statistics(lm, saes, tokens, hook=at, masks=masks, mean=mean, zero=zero)

    arguments = (lm, saes, tokens, masks, jnp.zeros(lm.d_model), jnp.zeros((1, case.context, lm.d_model)))
    compiled = jax.jit(run).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def clock(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(config: Config) -> None:
    begun = time.time()
    lm = jsaeval.load_lm(config.lm)
    base = compile_step(lm, BASE, config.tokens)
    base()
    result: dict[str, Any] = {"lm": config.lm, "base": dataclasses.asdict(BASE), "tokens_per_step": config.tokens}
    for name, cases in SERIES.items():
        result[name] = [measure(lm, case, base, config, name) for case in cases]
    save("sweep", result, time.time() - begun)
    draw(result)


def measure(lm: Decoder, case: Case, base: Callable[[], object], config: Config, series: str) -> dict[str, float]:
    """Time per SAE and token of a case, as a share of the base case's, and the same share of FLOPs."""
    run = base if case == BASE else compile_step(lm, case, config.tokens)
    run()
    ratios, seconds = [], []
    for _ in range(config.rounds):
        one, other = clock(base), clock(run)
        ratios.append(other / case.saes / one)
        seconds.append(other)
    flops = flops_per_token(lm, case) / case.saes / flops_per_token(lm, BASE)
    line = {
        series: getattr(case, series),
        "time_per_sae": short(statistics.median(ratios)),
        "flops_per_sae": short(flops),
        "rounds": [short(r) for r in ratios],
        "tokens_per_s_per_sae": short(config.tokens * case.saes / statistics.median(seconds)),
    }
    print(line, flush=True)
    return line


def draw(result: dict[str, Any]) -> None:
    """A panel for each thing that grows: measured time and FLOPs, per SAE, over the base case."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 2.8), layout="constrained")
        for axes, series in zip(figure.subplots(1, len(SERIES)), SERIES, strict=True):
            lines = result[series]
            x = [line[series] for line in lines]
            low, middle, high = np.percentile([line["rounds"] for line in lines], [0, 50, 100], axis=1)
            axes.plot(x, middle, "o-", color="#1b4d72", markersize=4, label="measured time")
            axes.fill_between(x, low, high, color="#1b4d72", alpha=0.15, linewidth=0)
            axes.plot(x, [line["flops_per_sae"] for line in lines], "s--", color="#a3481c", markersize=4, label="FLOPs")
            if series != "block":
                axes.set_xscale("log", base=2)
            axes.set(xlabel=LABELS[series], ylim=(0, None))
            axes.set_xticks(x, [f"{v:,}" for v in x])
            axes.minorticks_off()
        figure.axes[0].set_ylabel("per SAE and token, base = 1")
        figure.axes[0].legend(frameon=False)
        base = result["base"]
        figure.suptitle(
            f"Cost per SAE on {result['lm']}; base: one SAE of {base['width']:,} latents behind block {base['block']}, "
            f"rows of {base['context']}",
            fontsize=10,
        )
        with atomic(RESULTS / "sweep.svg") as temporary:
            figure.savefig(temporary, format="svg")


if __name__ == "__main__":
    main(tyro.cli(Config))
