"""Do the latents of an SAE tell the board of the game that a language model plays?

    python -m experiments.othello --out runs/othello

The question of Karvonen et al. 2024 (arXiv 2408.00113) at CPU size: a decoder of 5 blocks learns random legal games of
6 × 6 Othello, TopK SAEs learn its residual stream, and on games that nobody was trained on every property of the board
(a square is mine, theirs or empty, as the player to move sees it) is asked of the latents: `othello_games.py` has the
rules, `othello_boards.py` the measures. Floors are measured by the same code, linear probes are the ceiling.

Measured on 2 x86-64 cores that other jobs used as well: 47 min (LM 31, SAEs 10, measures 6), 1.4 GB.

The LM's likeliest token is legal at 0.956 [0.953, 0.959] of the plies (0.300 by the frequencies at each ply); its
cross-entropy is 1.831 nats where uniform over the legal moves, the optimum, has 1.528. Boards after block 3, 200 test
games, 95 % intervals over games at most ±0.012; `discs` is the reconstruction without the empty squares:

| | probe_loss ↓ | accuracy | coverage | reconstruction | discs |
|---|---|---|---|---|---|
| SAE, k = 8 (explained variance 0.829, CE recovered 0.944) | 0.541 | 0.733 | 0.341 | 0.442 | 0.130 |
| SAE, k = 32 (0.921, 0.988) | 0.507 | 0.749 | 0.499 | 0.422 | 0.104 |
| random SAE of that L0 | 0.554 | 0.705 | 0.270 | 0.455 | 0.050 |
| residual channels, x and −x | 0.515 | 0.736 | 0.560 | 0.406 | 0.040 |
| SAE, k = 32, of an untrained LM (0.984, 1.011) | 0.542 | 0.730 | 0.504 | 0.333 | 0.106 |
| SAE, k = 32, boards shuffled | 0.596 | 0.692 | 0.370 | 0.000 | 0.000 |
| the ply alone | 0.487 | 0.746 | 0.604 | 0.245 | 0.006 |
| nothing (constant) | 0.595 | 0.692 | 0.497 | 0.000 | 0.000 |
| linear probe on x | 0.199 | 0.898 | 0.807 | 0.846 | 0.720 |
| linear probe on x̂ of k = 32 | 0.228 | 0.881 | 0.770 | 0.816 | 0.663 |
| linear probe on x of an untrained LM | 0.261 | 0.845 | 0.693 | 0.747 | 0.510 |
| linear probe on the ply | 0.484 | 0.747 | 0.348 | 0.556 | 0.322 |

- x has the board linearly and x̂ keeps most of it, but hardly a single latent of these SAEs has it: one that knows only
  the ply has a better probe_loss and coverage, and a constant has the coverage of the SAE with k = 32.
- It depends on the hook: with `--block 2 --k 8 16 32 --held-out 600 150 250` the best SAE (k = 32) has a probe_loss of
  0.456, better than the ply's 0.487 and the residual channels' 0.504, most of it by empty squares (0.367 against 0.447
  of the ply); its coverage, 0.560, is again below theirs, 0.604 and 0.573.
- Floors matter: coverage is 0.497 for a detector that always says yes, and reconstruction is won by empty squares,
  which anybody can tell from the moves. Of the discs alone the SAE with k = 32 tells twice what the random one does,
  and no more than the SAE of an untrained LM.
- It cannot show what SAEs of a large, fully trained LM find: this LM knows less than the whole board (a linear probe
  is right about 0.852 of mine, 0.777 without training), these SAEs are small, and intervals cover games, not trainings.
"""

import dataclasses
import hashlib
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Int
from rich.console import Console
from rich.table import Table

import jsaeval
from experiments import othello_games as games
from experiments import train_tiny_lm
from experiments.othello_boards import (
    MEASURES,
    Line,
    estimate,
    measure_latents,
    measure_linear,
    weights_of,
)
from experiments.othello_games import KINDS, Split, Splits, rates, shuffled
from experiments.training.data import Source
from experiments.training.recipe import Recipe
from experiments.training.step import Training
from experiments.training.study import evaluated, number, save, short
from experiments.training.trainer import Job, train
from jsaeval.cache import atomic, keep_programs
from jsaeval.corpus.masks import make_masks
from jsaeval.errors import InputError
from jsaeval.forward.controls import random_sae
from jsaeval.forward.splice import at_hook, prefix
from jsaeval.hooks import Hook
from jsaeval.lm.decoder import Decoder
from jsaeval.metrics.compute import Estimate
from jsaeval.sae.module import SAE


LM_FIELDS = ("board", "games", "n_blocks", "d_model", "n_heads", "d_mlp", "batch", "seed")
SAE_METRICS = ("explained_variance", "l0", "ce_recovered_zero", "ce_increase", "alive")


@dataclass(frozen=True)
class Config:
    """Can an SAE recover the board of the game that a language model plays?"""

    out: Path
    """Folder for the LM, the SAEs and their logs; what is there already is not trained again."""
    board: int = 6
    """Squares of a side: 4, 6 or 8."""
    games: int = 250_000
    """Training games of the LM, each seen once."""
    n_blocks: int = 5
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 256
    batch: int = 64
    """Games at a time, of the LM and of the SAEs."""
    block: int = 3
    """The SAEs read the residual stream after this block."""
    width: int = 512
    """Latents of an SAE."""
    k: tuple[int, ...] = (8, 32)
    """Active latents, one TopK SAE for each; the floors have the last."""
    sae_steps: int = 1200
    """Batches of games that the SAEs are trained on."""
    held_out: tuple[int, int, int] = (400, 100, 200)
    """Games for probes and detectors to fit on, to choose on, and to be scored on."""
    seed: int = 0


def main(config: Config) -> None:
    keep_programs()
    lm, lm_seconds = language_model(config)
    other, rows = untrained(lm, config), held_out_games(config)
    saes, sae_seconds = dictionaries(lm, config.k, config, "sae")
    strangers, other_seconds = dictionaries(other, config.k[-1:], config, "sae-untrained")
    begun = time.time()
    test = rows[-config.held_out[2] :]
    found = {
        "lm": quality(lm, rows, config),
        "saes": {
            f"{'un' * (host is other)}trained LM, k = {sae.k}": {id: number(entry.metrics[id]) for id in SAE_METRICS}
            for host, own in ((lm, saes), (other, strangers))
            for sae, entry in zip(own, evaluated(host, own, test).saes, strict=True)
        },
    }
    lines = measure_all(lm, other, saes, strangers[0], rows, config)
    best = lines[_of_sae(config.k[-1])]
    found["lines"] = {name: as_json(line) for name, line in lines.items()}
    found["sae_minus"] = {
        name: {id: estimate_json(best.measures[id].minus(line.measures[id])) for id in MEASURES}
        for name, line in lines.items()
        if line is not best
    }
    seconds = {"lm": lm_seconds, "saes": sae_seconds, "sae_untrained": other_seconds, "rest": time.time() - begun}
    found["seconds_of"] = {stage: round(value) for stage, value in seconds.items()}
    show(found)
    save("othello", found, sum(seconds.values()))


def language_model(config: Config) -> tuple[Decoder, float]:
    """The LM in `out/lm`, trained if it is not there, and the seconds that its training took.

    Raises:
        InputError: the folder holds another LM.
    """
    folder, identity = config.out / "lm", {name: getattr(config, name) for name in LM_FIELDS}
    made = folder / "training.json"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        begun, shape = time.time(), lm_shape(config)
        train_tiny_lm.write_config(shape)
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        about["pad_token_id"] = games.end(config.board)
        (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        lm = train_tiny_lm.train(shape, training_games(config), {"held_out": held_out_games(config)[:500]})
        train_tiny_lm.save(lm, folder)
        with atomic(made) as temporary:
            text = json.dumps({"identity": identity, "seconds": round(time.time() - begun)}, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
    record = json.loads(made.read_text(encoding="utf-8"))
    if record["identity"] != identity:
        raise InputError(f"{folder}: holds another LM ({record['identity']}, now {identity}); choose another --out")
    return jsaeval.load_lm(folder), record["seconds"]


def lm_shape(config: Config) -> train_tiny_lm.Config:
    """As the trainer wants it."""
    return train_tiny_lm.Config(
        out=config.out / "lm",
        vocab=games.vocab(config.board),
        context=games.context(config.board),
        epochs=1,
        **{name: getattr(config, name) for name in LM_FIELDS if name not in ("board", "games")},
    )


def training_games(config: Config) -> Int[np.ndarray, "game position"]:
    """Of the LM; the SAEs are trained on the first of them."""
    return games.disjoint(config.board, config.games, sum(config.held_out), config.seed)[0]


def held_out_games(config: Config) -> Int[np.ndarray, "game position"]:
    """For all that is measured."""
    return games.disjoint(config.board, config.games, sum(config.held_out), config.seed)[1]


def untrained(lm: Decoder, config: Config) -> Decoder:
    """An LM of the same shape with its first weights."""
    shape = dataclasses.replace(lm_shape(config), seed=config.seed + 1)
    card = dataclasses.replace(lm.card, name="untrained", source="", sha256=f"untrained, seed {shape.seed}")
    return dataclasses.replace(train_tiny_lm.initial(shape), card=card)


def quality(lm: Decoder, rows: Int[np.ndarray, "game position"], config: Config) -> dict[str, Any]:
    """How well the LM knows the rules; `at_this_ply`: what the frequency of each token at each ply gives."""

    @jax.jit
    def predict(lm, rows):
        return jax.nn.log_softmax(lm.final(lm.run(lm.embed(rows), 0, lm.n_blocks)[0]) @ lm.unembedding.T)

    log_p = np.concatenate([np.asarray(predict(lm, jnp.asarray(part))) for part in _parts(rows)])[:, :-1]
    seen = [np.bincount(column, minlength=lm.vocab) + 0.5 for column in training_games(config).T[1:]]
    by_ply = np.log(seen / np.sum(seen, axis=1, keepdims=True))
    legal = games.replay(rows, config.board).legal[:, :-1]
    weights, out = weights_of(len(rows), config.seed), {}
    for name, guess in (("lm", log_p), ("at_this_ply", np.broadcast_to(by_ply, log_p.shape))):
        sums = games.against_rules(guess, legal)
        n = sums.pop("n")
        values = {id: estimate(weights @ value / (weights @ n), int(n.sum())) for id, value in sums.items()}
        values["ce_excess"] = values["ce"].minus(values["ce_optimum"])
        out[name] = {id: estimate_json(value) for id, value in values.items()}
    return out


def _parts(rows: np.ndarray, size: int = 50) -> list[np.ndarray]:
    return np.array_split(rows, -(-len(rows) // size))


def dictionaries(lm: Decoder, ks: tuple[int, ...], config: Config, name: str) -> tuple[list[SAE], float]:
    """TopK SAEs of the residual stream, trained if `out/name` does not hold them; and the seconds that it took."""
    rows = training_games(config)[: config.sae_steps * config.batch]
    sha256 = hashlib.sha256(rows.tobytes()).hexdigest()
    source = Source(sha256, len(rows), config.batch, tokens=rows, seed=config.seed)
    job = Job(
        out=config.out / name,
        recipes=(Recipe("topk", "local", tuple(map(float, ks)), config.width, seed=config.seed),),
        training=Training(steps=config.sae_steps),
        source=source,
        test=held_out_games(config)[: config.batch],
        evaluations=1,
        resume=True,
    )
    trained = train(lm, Hook(config.block, "hook_resid_post"), job)
    return trained.flat(), trained.seconds


def measure_all(
    lm: Decoder, other: Decoder, saes: list[SAE], stranger: SAE, rows: Int[np.ndarray, "game position"], config: Config
) -> dict[str, Line]:
    """The SAEs, floors that they must beat, and linear probes as a ceiling."""
    own, abroad = (splits_of(host, rows, config) for host in (lm, other))
    mean = own.train.x.mean(axis=0)
    l0 = jnp.asarray(float(config.k[-1]))
    random = random_sae(config.seed, config.width, l0, jnp.asarray(mean), jnp.asarray(own.train.x))
    last = saes[-1]

    def latents(sae):
        return lambda split: np.asarray(jsaeval.encode(sae, jnp.asarray(split.x)[None])[0])

    def rebuilt(split):
        return np.asarray(last.decode(jnp.asarray(latents(last)(split))))

    def plies(split):
        return np.eye(rows.shape[1], dtype=np.float32)[split.place]

    todo = {_of_sae(sae.k): (measure_latents, own, latents(sae)) for sae in saes}
    todo |= {
        "random SAE": (measure_latents, own, latents(random)),
        "residual channels, x and −x": (measure_latents, own, lambda s: np.concatenate([s.x - mean, mean - s.x], 1)),
        "SAE of an untrained LM": (measure_latents, abroad, latents(stranger)),
        "SAE, boards shuffled": (measure_latents, shuffled(own, config.seed), latents(last)),
        "the ply alone": (measure_latents, own, rates(own, rows.shape[1])),
        "nothing (constant)": (measure_latents, own, lambda s: np.ones((len(s.x), 1), np.float32)),
        "linear probe on x": (measure_linear, own, lambda s: s.x),
        f"linear probe on x̂ of k = {last.k}": (measure_linear, own, rebuilt),
        "linear probe on the ply": (measure_linear, own, plies),
        "linear probe on x of an untrained LM": (measure_linear, abroad, lambda s: s.x),
    }
    out = {}
    for name, (measure, splits, features) in todo.items():
        begun = time.time()
        out[name] = measure(splits, features, config.seed)
        print(f"{name}: {time.time() - begun:.0f} s", flush=True)
    return out


def _of_sae(k: int | None) -> str:
    return f"SAE, k = {k}"


def splits_of(lm: Decoder, rows: Int[np.ndarray, "game position"], config: Config) -> Splits:
    """Boards of held-out games with the LM's activations, without the first board and those after the end."""
    hook = Hook(config.block, "hook_resid_post")
    activation = jax.jit(lambda lm, rows: at_hook(lm, hook, prefix(lm, hook, rows)))
    x = np.concatenate([np.asarray(activation(lm, jnp.asarray(part))) for part in _parts(rows)])
    mask = make_masks(rows, lm.card.special_ids, lm.card.pad).metric
    properties = games.replay(rows, config.board).properties
    edges = np.cumsum((0, *config.held_out))

    def split(first: int, last: int) -> Split:
        game, place = np.nonzero(mask[first:last])
        return Split(x[first:last][game, place], properties[first:last][game, place], game, place)

    return Splits(*(split(*edge) for edge in itertools.pairwise(edges)))


def as_json(line: Line) -> dict[str, Any]:
    kinds = {id: dict(zip(KINDS, map(short, values), strict=True)) for id, values in line.by_kind.items()}
    measures = {id: estimate_json(value) for id, value in line.measures.items()}
    return measures | {"by_kind": kinds} | {id: short(value) for id, value in line.about.items()}


def estimate_json(value: Estimate) -> dict[str, Any]:
    """A value with its interval over games."""
    ends = value.ci95()
    return {"value": short(value.value)} | ({} if ends is None else {"ci95": [short(end) for end in ends]})


def show(found: dict[str, Any]) -> None:
    """Tables of the LM, the SAEs and the measures."""
    console = Console(width=max(120, Console().width))
    of_lm, of_saes, of_lines = (found[part] for part in ("lm", "saes", "lines"))
    for title, lines in (("language model", of_lm), ("SAE", of_saes), ("board", of_lines)):
        shown = MEASURES if lines is of_lines else list(next(iter(lines.values())))
        table = Table(title, *shown, box=None, pad_edge=False, header_style="dim")
        for name, line in lines.items():
            table.add_row(name, *(_text(line[id]) for id in shown))
        console.print(table, "")


def _text(value: dict[str, Any]) -> str:
    """The value and half the width of its interval."""
    ends = f" ±{(value['ci95'][1] - value['ci95'][0]) / 2:.3f}" if "ci95" in value else ""
    return f"{value['value']:.3f}{ends}"


if __name__ == "__main__":
    main(tyro.cli(Config))
