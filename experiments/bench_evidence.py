"""What does it cost to find out where all latents fire, beside the forward pass up to the hook alone?

    python -m experiments.bench_evidence

The pass of `jsaeval explain` over all latents of the SAE, and the same batches through the blocks before the hook with
nothing kept, in alternation on the same rows; each from the end of its first batch to the end of its last, so that
compilation is left out. Prints both and the median of their ratios.

Measured on 2 x86-64 cores, SmolLM2-135M in float32, 256 rows of 128: 1.15 (of 5 rounds, 1.04 to 1.18). Three minutes.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jsaeval
from jsaeval.autointerp.activations import sparse_activations
from jsaeval.corpus.masks import Masks, make_masks
from jsaeval.corpus.rows import Rows, text_rows
from jsaeval.forward.splice import prefix, read_at_hook
from jsaeval.hooks import Hook, parse_hook
from jsaeval.lm.card import card_of
from jsaeval.lm.load import load_tokenizer
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import make_mesh, map_rows, replicate
from jsaeval.run.batches import Batches, default_batch
from jsaeval.run.placed import Model
from jsaeval.sae.module import SAE


@dataclass(frozen=True)
class Config:
    """Time the pass that finds evidence."""

    lm: str = "smollm2-135m"
    corpus: str = "ag-news"
    rows: int = 256
    context: int = 128
    rounds: int = 5


def main(config: Config) -> None:
    lm, sae = jsaeval.load_lm(config.lm), jsaeval.load_sae(config.lm)
    tokenizer = load_tokenizer(lm)
    assert sae.card.hook is not None
    hook = parse_hook(sae.card.hook)
    rows = text_rows(config.corpus, tokenizer, config.rows, config.context)
    masks = make_masks(np.asarray(rows.tokens), card_of(lm).special_ids, rows.pad)
    ratios = []
    for _ in range(config.rounds):
        plain = between(prefix_pass(lm, hook, rows, masks))
        found = between(evidence_pass(lm, sae, hook, rows, masks))
        ratios.append(found / plain)
        print(f"prefix {plain:.2f} s, with all latents {found:.2f} s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")


def between(ends: Iterator[float]) -> float:
    """Seconds from the first to the last of some times."""
    times = list(ends)
    return times[-1] - times[0]


def prefix_pass(lm: HostLM, hook: Hook, rows: Rows, masks: Masks) -> Iterator[float]:
    """When each batch was done. One batch is always on its way while another is waited for, as in the other pass."""
    mesh = make_mesh()
    model, block = Model.place(lm, mesh), replicate(jnp.int32(hook.block), mesh)

    def run(shared, tokens):
        arrays, block = shared
        whole, at = model.whole(arrays), hook.at(block)
        with jax.default_matmul_precision("highest"):
            return read_at_hook(whole, at, prefix(whole, at, tokens))[0]

    step: Callable = jax.jit(map_rows(run, mesh))
    batches = Batches(np.asarray(rows.tokens), masks, default_batch(rows.tokens.shape[1], mesh), mesh)
    pending = None
    for batch in (*batches, None):
        dispatched = None if batch is None else step((model.arrays, block), batch.tokens)
        if pending is not None:
            pending.block_until_ready()
            yield time.perf_counter()
        pending = dispatched


def evidence_pass(lm: HostLM, sae: SAE, hook: Hook, rows: Rows, masks: Masks) -> Iterator[float]:
    """When each batch was done."""
    times = []
    sparse_activations(lm, [sae], hook, rows, masks, progress=lambda *_: times.append(time.perf_counter()))
    yield from times


if __name__ == "__main__":
    main(tyro.cli(Config))
