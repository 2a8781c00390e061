"""Training several SAEs at once against one after the other: the LM's pass is shared.

    python -m experiments.bench_training

TopK SAEs of width 2,304 at block 9 of SmolLM2-135M, activations computed on the fly, 16 rows of 128 tokens a step.
Steps of one SAE and of eight alternate; what counts is 8 · t(1) / t(8). FLOPs allow, for each token, 8 (P + S) /
(P + 8 S): P of ten blocks, S = 12 · d · width of an SAE and its gradient. Result: `experiments/results/training.json`.
"""

import statistics
import time
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jsaeval
from experiments.training.data import Source
from experiments.training.recipe import Recipe
from experiments.training.step import Training, make_step, start
from experiments.training.study import save, short
from experiments.training.trainer import measure_units
from jsaeval.hooks import parse_hook


@dataclass(frozen=True)
class Config:
    """Measure the throughput of training."""

    lm: str = "smollm2-135m"
    hook: str = "blocks.9.hook_resid_post"
    width: int = 2304
    k: tuple[float, ...] = (16, 24, 32, 40, 48, 56, 64, 72)
    rows: int = 16
    context: int = 128
    rounds: int = 7


def main(config: Config) -> None:
    begun, n = time.time(), len(config.k)
    lm = jsaeval.load_lm(config.lm)
    hook, training = parse_hook(config.hook, lm.n_blocks), Training(steps=1000)
    tokens = np.random.default_rng(0).integers(20, lm.vocab, (4 * config.rows, config.context)).astype(np.int32)
    source = Source("random", len(tokens), config.rows, tokens=tokens)
    units = measure_units(lm, hook, source, n_tokens=1)

    def steps_of(k: tuple[float, ...]):
        recipe = Recipe("topk", sparsity=k, width=config.width)
        step, arrays = make_step(lm, hook, [recipe], units, training), eqx.filter(lm, eqx.is_array)
        state = {"groups": (start(recipe, units, training),), "number": 0}

        def run() -> float:
            at = time.perf_counter()
            number = state["number"]
            state["groups"], _ = jax.block_until_ready(
                step(state["groups"], arrays, source.at(number), jnp.int32(number))
            )
            state["number"] += 1
            return time.perf_counter() - at

        run()
        return run

    one, many = steps_of(config.k[-1:]), steps_of(config.k)
    singles, together = [], []
    for _ in range(config.rounds):
        singles.append(one())
        together.append(many())
        print(
            f"one {singles[-1]:.2f} s, {n} at once {together[-1]:.2f} s: {n * singles[-1] / together[-1]:.2f}x",
            flush=True,
        )
    c, d = lm.config, lm.d_model
    matrices = d * (2 * c.n_heads + 2 * c.n_kv_heads) * c.d_head + d * c.d_mlp * (2 + c.gated)
    prefix, sae = hook.prefix_stop * 2 * matrices, 12 * d * config.width
    tokens_per_step = config.rows * config.context
    result = {
        "saes": n,
        "width": config.width,
        "speed_up": short(statistics.median(n * a / b for a, b in zip(singles, together, strict=True))),
        "ceiling": short(n * (prefix + sae) / (prefix + n * sae)),
        "rounds": [short(n * a / b) for a, b in zip(singles, together, strict=True)],
        "tokens_per_s": {
            "one": short(tokens_per_step / statistics.median(singles)),
            "at_once": short(tokens_per_step / statistics.median(together)),
        },
    }
    save("training", result, time.time() - begun)
    print(result)


if __name__ == "__main__":
    main(tyro.cli(Config))
