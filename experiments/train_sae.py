"""Train the TopK SAE that ships with the package, on SmolLM2-135M.

    python experiments/train_sae.py --out runs/sae

The text is disjoint from the default evaluation corpus: no document of it, and none that shares 13 words in a row
with it. Activations of the hook are collected once, without special tokens and position 0; then the SAE is trained on
them with `jsaeval.metrics.objectives.mse_of_activations` (the `mse` of the report) plus the auxiliary loss of Gao et
al. 2024 (arXiv 2406.04093, §2.4) that revives dead latents.
"""

import dataclasses
import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float

import jsaeval
from jsaeval.cache import SAE_PROBES, cache_dir
from jsaeval.corpus.documents import Documents, ag_news, probe_task
from jsaeval.corpus.masks import make_masks
from jsaeval.corpus.rows import text_rows
from jsaeval.forward.splice import at_hook, prefix
from jsaeval.hooks import parse_hook
from jsaeval.lm.load import load_tokenizer
from jsaeval.metrics.objectives import mse_of_activations
from jsaeval.sae.module import SAE, SAECard


# Tasks of the sae-probes wheel whose texts are English prose, and how many characters to take of each.
TEXTS = {
    "97_news_class": 2_000_000,
    "100_news_fake": 1_800_000,
    "45_context_ans": 700_000,
    "48_cm_correct": 700_000,
    "94_ai_gen": 700_000,
    "56_wikidatasex_or_gender": 700_000,
    "111_yelp_data": 500_000,
    "98_cancer_cat": 300_000,
}
SHINGLE = 13


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a TopK SAE."""

    out: Path
    """Folder for the SAE and its log."""
    lm: str = "smollm2-135m"
    hook: str = "blocks.9.hook_resid_post"
    width: int = 2304
    k: int = 48
    tokens: int = 1_500_000
    """Training tokens; they are gone over several times."""
    steps: int = 12_000
    batch: int = 1024
    lr: float = 7e-4
    aux_k: int = 128
    """How many dead latents are asked to explain what the live ones leave over."""
    dead_after: int = 200_000
    """A latent is dead when it has not fired for this many tokens."""
    seed: int = 0


def main(config: Config) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    x = collect(config)
    start = time.time()
    sae = train(config, x)
    declared = {
        "command": "python experiments/train_sae.py",
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k != "out"},
        "training_tokens": len(x),
        "training_seconds": round(time.time() - start),
    }
    card = SAECard(f"{config.lm}.{config.hook}.topk-{config.k}", config.hook, config.lm, declared=json.dumps(declared))
    sae = dataclasses.replace(sae, card=card)
    jsaeval.save_sae(sae, config.out / f"{card.name}.safetensors", dtype=jnp.bfloat16)
    print(f"saved {config.out / card.name}.safetensors")


def training_documents(seed: int) -> Iterator[str]:
    """Documents of `TEXTS`, shuffled, without any that overlaps the default evaluation corpus."""
    held_out = {shingle for text in ag_news() for shingle in shingles(text)}
    chosen, dropped = {}, 0
    for task, budget in TEXTS.items():
        texts = probe_task(task)["prompt"].astype(str).drop_duplicates().tolist()
        random.Random(seed).shuffle(texts)
        for text in texts:
            if budget <= 0:
                break
            if held_out.isdisjoint(shingles(text)):
                chosen.setdefault(text)
                budget -= len(text)
            else:
                dropped += 1
    texts = list(chosen)
    random.Random(seed).shuffle(texts)
    print(f"{len(texts)} training documents; {dropped} left out because they overlap the evaluation corpus")
    return iter(texts)


def shingles(text: str) -> set[tuple[str, ...]]:
    """All runs of `SHINGLE` words, or the whole text where it is shorter."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


def collect(config: Config) -> Float[np.ndarray, "token d_in"]:
    """Activations at the hook over the training text, float16, kept in the cache folder."""
    lm = jsaeval.load_lm(config.lm)
    tokenizer, hook, context = load_tokenizer(lm), parse_hook(config.hook, lm.n_blocks), 128
    identity = f"{SAE_PROBES.sha256}/train_sae/{config.seed}/{sorted(TEXTS.items())}/{SHINGLE}"
    text = Documents("train_sae", identity, lambda: training_documents(config.seed))
    rows = text_rows(text, tokenizer, -(-config.tokens // (context - 1)), context)
    key = f"{rows.sha256()[:16]}-{lm.card.sha256[:16]}-{config.hook}"
    path = cache_dir("activations") / f"{key}.npy"
    if path.exists():
        return np.load(path, mmap_mode="r")

    @jax.jit
    def step(lm, tokens):
        return at_hook(lm, hook, prefix(lm, hook, tokens)).astype(jnp.float16)

    masks = make_masks(np.asarray(rows.tokens), lm.card.special_ids, rows.pad)
    parts, start, batch = [], time.time(), 16
    for i in range(0, len(rows.tokens) - batch + 1, batch):
        x = np.asarray(step(lm, jnp.asarray(rows.tokens[i : i + batch], jnp.int32)))
        parts.append(x[masks.metric[i : i + batch]])
        if i % (50 * batch) == 0:
            done = i + batch
            print(f"collecting {done * context:,} tokens, {done * context / (time.time() - start):.0f} tokens/s")
    np.save(path, np.concatenate(parts))
    return np.load(path, mmap_mode="r")


class State(eqx.Module):
    """What a training step changes."""

    W_enc: Array
    b_enc: Array
    W_dec: Array
    b_dec: Array

    def sae(self, k: int) -> SAE:
        return SAE(self.W_enc, self.b_enc, self.W_dec, self.b_dec, self.b_dec, activation="topk", k=k)


def train(config: Config, x: Float[np.ndarray, "token d_in"]) -> SAE:
    """Adam on the normalised mse; the decoder's rows stay unit vectors."""
    sample = np.asarray(x[:: max(1, len(x) // 20_000)], np.float32)
    scale = float(np.sqrt(x.shape[1]) / np.linalg.norm(sample, axis=1).mean())
    spread = float(np.square((sample - sample.mean(0)) * scale).sum(1).mean())
    rng = np.random.default_rng(config.seed)
    decoder = rng.standard_normal((config.width, x.shape[1])).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    zeros = jnp.zeros(config.width)
    state = State(jnp.asarray(decoder.T.copy()), zeros, jnp.asarray(decoder), jnp.asarray(sample.mean(0) * scale))
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.lr, 500),
            optax.constant_schedule(config.lr),
            optax.linear_schedule(config.lr, 0.0, config.steps // 2),
        ],
        [500, config.steps - config.steps // 2],
    )
    optimiser: Any = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b1=0.9, b2=0.999))

    def loss(state: State, batch, dead):
        sae = state.sae(config.k)
        main = mse_of_activations(sae, batch) / spread
        extra = jax.lax.cond(dead.any(), lambda: auxiliary(sae, batch, dead), lambda: jnp.zeros(()))
        return main + extra / 32, main

    def auxiliary(sae, batch, dead):
        """How well the dead latents explain what the live ones leave over (Gao et al. 2024, §2.4)."""
        rest = jax.lax.stop_gradient(batch - sae.decode(sae.encode(batch)))
        pre = jnp.where(dead[None], (batch - sae.b_pre[None]) @ sae.W_enc + sae.b_enc[None], -1e9)
        values, indices = jax.lax.top_k(pre, config.aux_k)
        z = jnp.zeros_like(pre).at[jnp.arange(len(pre))[:, None], indices].set(jax.nn.relu(values))
        return jnp.sum(jnp.square(rest - z @ sae.W_dec), -1).mean() / jnp.sum(jnp.square(rest), -1).mean()

    @jax.jit
    def step(state, opt, silent, batch):
        batch = batch.astype(jnp.float32) * scale
        dead = silent > config.dead_after
        (_, main), grads = jax.value_and_grad(loss, has_aux=True)(state, batch, dead)
        updates, opt = optimiser.update(grads, opt)
        state = eqx.apply_updates(state, updates)
        norm = jnp.linalg.norm(state.W_dec, axis=1, keepdims=True)
        state = dataclasses.replace(state, W_dec=state.W_dec / norm)
        fired = (state.sae(config.k).encode(batch[:256]) != 0).any(0)
        return state, opt, jnp.where(fired, 0, silent + len(batch)), main, dead.sum()

    opt, silent = optimiser.init(state), jnp.zeros(config.width, jnp.int32)
    log, start, order = (config.out / "log.jsonl").open("w"), time.time(), rng.permutation(len(x))
    for i in range(config.steps):
        at = (i * config.batch) % (len(x) - config.batch)
        if at < config.batch:
            order = rng.permutation(len(x))
        batch = jnp.asarray(x[np.sort(order[at : at + config.batch])])
        state, opt, silent, fvu, dead = step(state, opt, silent, batch)
        if (i + 1) % 200 == 0 or i == 0:
            line = {"step": i + 1, "fvu": round(float(fvu), 4), "dead": int(dead), "s": round(time.time() - start)}
            log.write(json.dumps(line) + "\n")
            log.flush()
            print(line, flush=True)
    # Back to the units of x: pre-activations of topk may be divided by the scale, its choice does not change.
    return State(state.W_enc, state.b_enc / scale, state.W_dec, state.b_dec / scale).sae(config.k)


if __name__ == "__main__":
    main(tyro.cli(Config))
