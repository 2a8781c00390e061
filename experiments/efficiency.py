"""How much of the machine's matrix-product rate the pass reaches: useful FLOP/s over the FLOP/s of its own shapes.

    python experiments/efficiency.py

In one process, in alternation: the compiled step of `jsaeval run` on one SAE without controls, and the matrix products
of the LM's own shapes, alone, each weighted with its share of the FLOPs. Useful FLOPs are those of matrix products on
visible tokens: attention counts the causal half, and everything that is no matrix product counts nothing.

Measured on 2 x86-64 cores, float32: 0.87, median of 7 rounds (144 of 166 GFLOP/s). About a minute.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import tyro

import jsaeval
from jsaeval.corpus.masks import make_masks
from jsaeval.hooks import Hook, parse_hook
from jsaeval.lm.decoder import Decoder
from jsaeval.sae.module import SAE, SAECard


@dataclass(frozen=True)
class Config:
    """Measure the share of the matrix-product rate."""

    rows: int = 8
    context: int = 128
    rounds: int = 7


@dataclass(frozen=True)
class Product:
    """(m, k) @ (k, n), `count` times a step. Small ones are repeated in one timed call."""

    m: int
    k: int
    n: int
    count: float
    repeat: int = 10

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.k * self.n


def products(lm: Decoder, sae: SAE, config: Config) -> dict[str, Product]:
    """The matrix products of a step: prefix once, suffix and head for two streams, the SAE once."""
    c, tokens, hook = lm.config, config.rows * config.context, parse_hook(sae.card.hook or "")
    before, after = int(hook.prefix_stop), lm.n_blocks - int(hook.prefix_stop)
    heads = (c.n_heads + 2 * c.n_kv_heads) * c.d_head
    shapes = {"qkv": (c.d_model, heads), "out": (c.n_heads * c.d_head, c.d_model)}
    shapes |= {"up": (c.d_model, (1 + c.gated) * c.d_mlp), "down": (c.d_mlp, c.d_model)}
    found = {f"{name}, prefix": Product(tokens, *shape, before) for name, shape in shapes.items()}
    found |= {f"{name}, suffix": Product(2 * tokens, *shape, after) for name, shape in shapes.items()}
    found |= {"encoder": Product(tokens, sae.d_in, sae.d_sae, 1), "decoder": Product(tokens, sae.d_sae, sae.d_out, 1)}
    chunk = 32  # positions that the head takes at once
    return found | {"unembedding": Product(c.vocab, c.d_model, chunk, 2 * tokens / chunk)}


def attention_flops(lm: Decoder, config: Config) -> float:
    """Of one row in one block: scores and values of the visible half."""
    return 2 * 2 * config.context * (config.context + 1) / 2 * lm.config.n_heads * lm.config.d_head


def main(config: Config) -> None:
    jax.config.update("jax_default_matmul_precision", "highest")
    lm, sae = jsaeval.load_lm("smollm2-135m"), jsaeval.load_sae("smollm2-135m")
    parts, hook = products(lm, sae, config), parse_hook(sae.card.hook or "")
    dense = sum(p.flops * p.count for p in parts.values())
    blocks = hook.prefix_stop + 2 * (lm.n_blocks - hook.prefix_stop)
    useful = dense + attention_flops(lm, config) * config.rows * blocks
    tokens = config.rows * config.context
    step, alone = compile_step(lm, sae, hook, config), {name: compile_product(p) for name, p in parts.items()}
    shares, rates = [], []
    for _ in range(config.rounds):
        seconds = {name: clock(run) / parts[name].repeat for name, run in alone.items()}
        rate = dense / sum(seconds[name] * p.count for name, p in parts.items())
        own = useful / clock(step)
        shares.append(own / rate)
        rates.append((rate, own))
        print(f"matrix products alone {rate / 1e9:.0f} GFLOP/s, the step {own / 1e9:.0f}: {own / rate:.2f}", flush=True)
    print(f"{useful / tokens / 1e6:.0f} M useful FLOPs a token")
    print(f"share, median of {config.rounds} rounds: {statistics.median(shares):.2f}")


def compile_step(lm: Decoder, sae: SAE, hook: Hook, config: Config) -> Callable[[], object]:
    tokens = jax.random.randint(jax.random.key(0), (config.rows, config.context), 20, lm.vocab, jnp.int32)
    masks = make_masks(tokens, lm.card.special_ids, lm.card.pad)

    def run(lm, sae, tokens, masks, block, mean, zero):
        at = hook.at(block)
        return jsaeval.batch_statistics(lm, [sae], tokens, hook=at, masks=masks, mean=mean, zero=zero)

    sae = dataclasses.replace(sae, card=SAECard())
    mean, zero = jnp.zeros(lm.d_model), jnp.zeros((1, config.context, lm.d_model))
    arguments = (lm, sae, tokens, masks, jnp.int32(hook.block), mean, zero)
    compiled = jax.jit(run).lower(*arguments).compile()
    return lambda: compiled(*arguments)


def compile_product(p: Product) -> Callable[[], object]:
    """The product `repeat` times in a loop, as in the loop over blocks; each on other inputs, or XLA does it once."""
    a, b = jnp.ones((p.m, p.k)), jnp.ones((p.k, p.n))

    def run(a, b):
        def once(i, total):
            return total + jnp.sum((a @ (b + i.astype(b.dtype)))[0])

        return jax.lax.fori_loop(0, p.repeat, once, jnp.zeros(()))

    compiled = jax.jit(run).lower(a, b).compile()
    return lambda: compiled(a, b)


def clock(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Config))
