"""Speed and numbers side by side with SAELens `run_evals`, on the same tokens, LM and SAEs, in alternation.

    make compare-saelens          (or: python experiments/compare_saelens.py)

Makes an environment of the peer's own in `.venv-saelens` on first use. Both sides run SmolLM2-135M in float32 on the
same rows, with every token counted and spliced, batches of 8, and every metric on; ours without controls, which the
peer does not have. A round is: the peer, ours, ours with 8 SAEs at once, ours with another SAE and `lm_cache`, without
`curve`. Only `run_evals` and only `evaluate` are timed; compilation of ours is left out and printed.

Measured on 2 x86-64 cores, median of 3 rounds, tokens/s and SAE: peer 103, ours 238, with 8 SAEs 411, with another SAE
and `lm_cache` 375. About 9 minutes.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jsaeval
from experiments.peer_environment import peer_environment
from jsaeval.cache import cache_dir
from jsaeval.corpus.rows import text_rows
from jsaeval.forward.batch import GROUPS
from jsaeval.forward.controls import random_sae
from jsaeval.forward.splice import prefix
from jsaeval.hooks import parse_hook
from jsaeval.lm.load import load_tokenizer
from jsaeval.run.engine import Setting


WORKER = Path(__file__).with_name("saelens_worker.py")
HOOK, PEER_HOOK = "blocks.9.hook_resid_post", "model.layers.9"
# What both sides report, by the name on each; the peer's mean variance is per batch and left out.
SHARED = {
    "kl_div_with_sae": "downstream_loss",
    "ce_loss_without_sae": "ce_clean",
    "ce_loss_with_sae": "ce_spliced",
    "ce_loss_score": "ce_recovered_zero",
    "kl_div_score": "kl_recovered_zero",
    "explained_variance": "explained_variance",
    "mse": "mse",
    "cossim": "cosine",
    "l2_ratio": "l2_ratio",
    "l0": "l0",
    "l1": "l1",
}


@dataclass(frozen=True)
class Config:
    """Compare with SAELens."""

    rows: int = 32
    """Rows of 128 tokens that each side evaluates in a round."""
    rounds: int = 3
    saes: int = 8
    """SAEs that ours evaluates at once."""
    width: int = 4608
    batch: int = 8


def main(config: Config) -> None:
    python = peer_environment("saelens")
    lm = jsaeval.load_lm("smollm2-135m")
    model = cache_dir("peers") / f"saelens-{lm.card.sha256[:16]}"
    if not (model / "config.json").exists():
        subprocess.run([python, WORKER, "export", lm.card.source, model], check=True)
    rows = text_rows("ag-news", load_tokenizer(lm), config.rows, 128)
    tokens = np.ascontiguousarray(rows.tokens, np.int32)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "tokens.npy", tokens)
        names = write_saes(lm, tokens, config, folder)
        worker = [python, WORKER, "serve", model, folder / "tokens.npy"]
        with subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdin is not None and peer.stdout is not None
            compare(lm, tokens, names, config, folder, peer.stdin, peer.stdout)


def compare(lm, tokens, names: list[Path], config: Config, folder: Path, to_peer: IO[str], from_peer: IO[str]) -> None:
    answer(from_peer)  # it is ready
    saes = [jsaeval.load_sae(name) for name in names]
    setting = Setting(config.batch, control_rows=0)
    cached = dataclasses.replace(setting, groups=tuple(group for group in GROUPS if group != "curve"))
    common: dict[str, Any] = {"tokens": tokens, "metric_mask": "all", "mesh": jsaeval.make_mesh(1)}
    lm_cache = folder / "cache"

    def ask(n_rows: int) -> dict[str, Any]:
        to_peer.write(json.dumps({"saes": [str(names[0])], "rows": n_rows, "batch": config.batch}) + "\n")
        to_peer.flush()
        return answer(from_peer)

    def ours(some, setting, **more) -> tuple[float, Any]:
        """Tokens per second and SAE, and the results."""
        results = jsaeval.evaluate(lm, some, setting=setting, **common, **more)
        made = results.provenance
        return tokens.size * len(some) / (made["wall_s"] - made["compile_s"]), results

    ask(config.batch)  # warm-up: one batch
    ours(saes[:1], cached, lm_cache=lm_cache)  # fills the cache
    speed: dict[str, list[float]] = {"peer": [], "one": [], "many": [], "cached": []}
    theirs, mine = {}, None
    for i in range(config.rounds):
        reply = ask(config.rows)
        theirs = reply["metrics"][0]
        speed["peer"].append(tokens.size / reply["seconds"][0])
        rate, mine = ours(saes[:1], setting)
        speed["one"].append(rate)
        speed["many"].append(ours(saes, setting)[0])
        speed["cached"].append(ours(saes[1:2], cached, lm_cache=lm_cache)[0])
        print(f"round {i + 1}: " + ", ".join(f"{name} {rates[-1]:.0f}" for name, rates in speed.items()), flush=True)
    assert mine is not None
    show_numbers(theirs, mine)
    show_speed(speed, config, mine.provenance["compile_s"])


def show_numbers(theirs: dict[str, float], mine) -> None:
    print(f"\n{'metric':22}{'SAELens':>14}{'jsaeval':>14}{'relative difference':>22}")
    for their_id, our_id in SHARED.items():
        a, b = theirs[their_id], mine.saes[0][our_id]
        print(f"{our_id:22}{a:14.6g}{b:14.6g}{abs(a - b) / abs(a):22.1e}")


def show_speed(speed: dict[str, list[float]], config: Config, compile_s: float) -> None:
    labels = {
        "peer": "SAELens run_evals, one SAE",
        "one": "jsaeval, one SAE",
        "many": f"jsaeval, {config.saes} SAEs at once, per SAE",
        "cached": "jsaeval, another SAE with lm_cache, without curve",
    }
    print(f"\n{'tokens/s, median of ' + str(config.rounds) + ' rounds':52}{'tokens/s':>9}{'× peer, by round':>34}")
    for name, label in labels.items():
        ratios = [ours / theirs for ours, theirs in zip(speed[name], speed["peer"], strict=True)]
        by_round = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{label:52}{statistics.median(speed[name]):9.0f}{statistics.median(ratios):12.2f}  ({by_round})")
    print(f"(ours compiles first: {compile_s:.0f} s for one SAE, not counted)")


def answer(stream: IO[str]) -> dict[str, Any]:
    """The next line of JSON; whatever else the peer prints is passed over."""
    for line in stream:
        if line.startswith("{"):
            return json.loads(line)
    sys.exit("the peer stopped; its message is above")


def write_saes(lm, tokens: np.ndarray, config: Config, folder: Path) -> list[Path]:
    """JumpReLU SAEs of random directions with an L0 of about 48, as SAELens folders. Their quality does not matter."""
    hook = parse_hook(HOOK, lm.n_blocks)
    x = jax.jit(lambda lm, tokens: prefix(lm, hook, tokens))(lm, jnp.asarray(tokens[:8]))
    sample = x[:, 1:].reshape(-1, lm.d_model)
    names = []
    for i in range(config.saes):
        sae = random_sae(i, config.width, jnp.float32(48), jnp.mean(sample, axis=0), sample)
        card = jsaeval.SAECard(f"random-{i}", PEER_HOOK, "smollm2-135m")
        names.append(folder / card.name)
        jsaeval.save_sae(dataclasses.replace(sae, card=card), names[-1], format="saelens")
        cfg = json.loads((names[-1] / "cfg.json").read_text())
        cfg["metadata"] |= {"prepend_bos": False, "context_size": tokens.shape[1]}
        (names[-1] / "cfg.json").write_text(json.dumps(cfg))
    return names


if __name__ == "__main__":
    main(tyro.cli(Config))
