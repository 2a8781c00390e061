"""Numbers and speed of our probes side by side with scikit-learn and with sae-probes, on the same features.

    make compare-probes          (or: python experiments/compare_probes.py)

Makes an environment of the peers' own in `.venv-probes` on first use. Features are the latents of the shipped SAE at
the last token of a text, for three tasks, and a made-up set of 16,384 sparse latents. Four parts:

fits    logistic regression, L1 and L2, at ten strengths of the penalty, on the k best features and (L2) on all: the
        objective beside scikit-learn's with the settings of sae-probes, and beside the optimum in float64. How far a
        fit is above the optimum is bounded by a dual point, so no solver has to be believed.
peer    sae-probes itself: its order of features, its scores at the strength that it chose, those at ours.
single  the probes on one feature beside scikit-learn's.
time    the fits of one task on both sides, in alternation; probes on each of all latents, with their memory.

In short, without the LM: --tasks "" --latents 2048 --ks 1 16 --peer-ks 1 5 --slow-k 0 --rounds 1.
"""

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table

import jsaeval
from experiments.peer_environment import peer_environment
from jsaeval.cache import cache_dir
from jsaeval.cli.features import read_features
from jsaeval.corpus.tasks import open_tasks
from jsaeval.hooks import parse_hook
from jsaeval.lm.load import load_tokenizer
from jsaeval.probes.activations import key_of, open_store, text_activations
from jsaeval.probes.features import Encoder
from jsaeval.probes.fit import PENALTIES, STRENGTHS, Examples, fit_probes, wanted
from jsaeval.probes.logistic import Penalty, fit_logistic
from jsaeval.probes.ranking import by_mean_difference
from jsaeval.probes.scores import auc, scores
from jsaeval.probes.single import RIDGE, single_probes
from jsaeval.probes.task import draw


WORKER = Path(__file__).with_name("probes_worker.py")
PARTS = ("fits", "peer", "single", "time")
SYNTHETIC = "synthetic"
ALL_TASKS = 113  # of sae-probes
PROGRAMS = (16, 128, 256, 512)  # widths to which `jsaeval.probes.fit` fills up the chosen features
# Relative, of an objective above the optimum: what counts as converged, on both sides.
CLOSE = 1e-4


@dataclass(frozen=True)
class Config:
    """Compare our probes with scikit-learn and sae-probes."""

    tasks: str = "113_movie_sent,126_art_type_book,96_spam_is"
    """Tasks in the LM, separated by commas; "" for none."""
    examples: int = 1024
    """Of each task, at most; five eighths train."""
    synthetic: bool = True
    """Made-up latents, too."""
    rows: int = 1024
    """Training examples of the made-up latents; as many test."""
    latents: int = 16_384
    parts: str = ",".join(PARTS)
    """Which parts, separated by commas."""
    ks: tuple[int, ...] = (1, 2, 5, 16, 64, 512)
    """Features of the fits."""
    dense: bool = True
    """Fits on all latents, too."""
    long: int = 20_000
    """Iterations of scikit-learn's saga where 1,000 were too few; 0: none."""
    peer_ks: tuple[int, ...] = (1, 2, 5, 16, 64, 512)
    """Features of the fits by sae-probes."""
    singles: int = 1000
    """Latents of the part `single`."""
    timed: str = SYNTHETIC
    """The task that is timed."""
    timed_ks: tuple[int, ...] = (1, 2, 5)
    slow_k: int = 512
    """Features of the L1 probes that are timed apart; 0: none."""
    rounds: int = 3
    slow_rounds: int = 1
    seed: int = 0
    out: Path | None = None
    """A JSON file for everything that was found."""


class Peer:
    """The worker in the peers' environment."""

    def __init__(self, python: Path):
        self._process = subprocess.Popen([python, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions: dict[str, str] = self._answer()["versions"]

    def __call__(self, do: str, **request: Any) -> dict[str, Any]:
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps({"do": do} | request) + "\n")
        stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        stdout: IO[str] | None = self._process.stdout
        assert stdout is not None
        for line in stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError("the peer stopped; its message is above")

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True, eq=False)
class Data:
    """Features and labels that both sides read from one file."""

    name: str
    file: Path
    examples: Examples

    @classmethod
    def write(cls, name: str, folder: Path, seed: int, **arrays: Any) -> "Data":
        file = folder / f"{name}.npz"
        np.savez(file, **arrays)
        return cls(name, file, read_features(str(file), seed))

    @functools.cached_property
    def order(self) -> Int[np.ndarray, " feature"]:
        own = self.examples
        found = jax.jit(by_mean_difference)(own.x_train, own.y_train, np.ones((1, len(own.y_train)), bool))
        return np.asarray(found)[0]

    def columns(self, k: int | None) -> list[int] | None:
        return None if k is None else self.order[:k].tolist()

    def some(self, k: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The k best features, or all: of training and test examples."""
        own = self.examples
        if k is None:
            return own.x_train, own.x_test
        return own.x_train[:, self.order[:k]], own.x_test[:, self.order[:k]]


@dataclass(frozen=True)
class Fit:
    """Weights and bias of each strength."""

    weights: Float[np.ndarray, "strength feature"]
    bias: Float[np.ndarray, " strength"]
    iterations: Int[np.ndarray, " strength"]
    converged: Bool[np.ndarray, " strength"] | None = None


@functools.partial(jax.jit, static_argnames="penalty")
def _fit(x, y, counts, penalty: Penalty):
    with jax.default_matmul_precision("highest"):
        return fit_logistic(x, y, counts, jnp.asarray(STRENGTHS, x.dtype), penalty)


def our_fit(data: Data, k: int | None, penalty: Penalty) -> Fit:
    """All strengths on all training examples, filled up as `fit_probes` does."""
    x, y = data.some(k)[0], data.examples.y_train
    size = x.shape[1] if k is None else next((size for size in PROGRAMS if size >= k), k)
    filled = np.pad(x, [(0, 0), (0, size - x.shape[1])])
    found = _fit(filled, y, np.ones((1, len(y)), bool), penalty=penalty)
    weights = np.asarray(found.weights[0, :, : x.shape[1]], np.float64)
    return Fit(
        weights, np.asarray(found.bias[0], np.float64), np.asarray(found.steps[0]), np.asarray(found.converged[0])
    )


def objective(x, y, w, b: float, strength: float, penalty: Penalty) -> float:
    """That of scikit-learn, in float64."""
    size = np.abs(w).sum() if penalty == "l1" else np.square(w).sum() / 2
    return float(size + strength * np.logaddexp(0, -(2.0 * y - 1) * (x @ w + b)).sum())


def lower_bound(x, y, w, strength: float, penalty: Penalty) -> float:
    """What no weights can go below: the dual objective at a point made from some weights.

    With p_i the probability of the wrong label, at the best bias: C Σ H(p_i) and, L2, less ½ ‖C Σ_i p_i s_i x_i‖²; L1
    needs ‖C Σ_i p_i s_i x_i‖_∞ ≤ 1, for which p is made smaller. (Koh, Kim and Boyd 2007, §3.)
    """
    sign, z = 2.0 * y - 1, x @ w
    low, high = -z.max() - 60, 60 - z.min()
    for _ in range(200):
        b = (low + high) / 2
        low, high = (low, b) if (_sigmoid(z + b) - y).sum() > 0 else (b, high)
    p = _sigmoid(-sign * (z + (low + high) / 2))
    slope = strength * ((p * sign) @ (x - x.mean(axis=0)))
    if penalty == "l1":
        p = p * min(1.0, 1 / max(float(np.abs(slope).max()), 1e-300))
    entropy = -sum(np.where(q > 0, q * np.log(np.where(q > 0, q, 1.0)), 0.0).sum() for q in (p, 1 - p))
    return float(strength * entropy - (np.square(slope).sum() / 2 if penalty == "l2" else 0.0))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -z))


def violation(x, y, w, b: float, strength: float, penalty: Penalty) -> float:
    """Of the optimality conditions, relative to the largest gradient at w = 0, as `jsaeval.probes.logistic` has it."""
    centred = x - x.mean(axis=0)
    residual = strength * (_sigmoid(x @ w + b) - y)
    gradient = residual @ centred
    if penalty == "l2":
        off = np.abs(gradient + w)
    else:
        off = np.where(w == 0, np.maximum(np.abs(gradient) - 1, 0), np.abs(gradient + np.sign(w)))
    largest = strength * np.abs((y.mean() - y) @ centred).max()
    return float(max(off.max(), abs(residual.sum())) / max(largest, 1e-12))


@dataclass(frozen=True)
class Judged:
    """Fits of one side, by strength. `excess`: at most so far above the optimum, relative and in nats an example."""

    objective: list[float]
    excess: list[float]
    nats: list[float]
    violation: list[float]
    bce: list[float]
    auc: list[float]
    iterations: list[int]


def their_fit(
    data: Data,
    k: int | None,
    penalty: Penalty,
    peer: Peer,
    folder: Path,
    how: str,
    strengths: Sequence[float] = STRENGTHS,
    limit: int = 0,
) -> Fit:
    """Fits by the worker; `how`: see there."""
    into, common = folder / "fit.npz", {"columns": data.columns(k), "penalty": penalty, "strengths": list(strengths)}
    peer("fits", file=str(data.file), **common, how=how, into=str(into), limit=limit)
    with np.load(into) as stored:
        return Fit(stored["weights"], stored["bias"], stored["iterations"])


def compare_fits(data: Data, k: int | None, penalty: Penalty, peer: Peer, config: Config, folder: Path) -> dict:
    """Both sides at all strengths, and the optimum."""

    def theirs(how: str, chosen: Sequence[int]) -> Fit:
        return their_fit(data, k, penalty, peer, folder, how, [STRENGTHS[i] for i in chosen], config.long)

    everything = range(len(STRENGTHS))
    sides = {"ours": our_fit(data, k, penalty), "shipped": theirs("shipped", everything)}
    sides["exact"] = theirs("exact", everything)
    x_train, x_test = (np.asarray(x, np.float64) for x in data.some(k))
    y = data.examples.y_train
    bounds = [
        max(lower_bound(x_train, y, side.weights[i], strength, penalty) for side in sides.values())
        for i, strength in enumerate(STRENGTHS)
    ]

    def judged(fit: Fit, chosen: Sequence[int]) -> Judged:
        out = Judged([], [], [], [], [], [], fit.iterations.tolist())
        for row, i in enumerate(chosen):
            own = fit.weights[row], float(fit.bias[row]), STRENGTHS[i], penalty
            value = objective(x_train, y, *own)
            out.objective.append(value)
            out.excess.append((value - bounds[i]) / value)
            out.nats.append((value - bounds[i]) / (STRENGTHS[i] * len(y)))
            out.violation.append(violation(x_train, y, *own))
            logits, labels = x_test @ own[0] + own[1], data.examples.y_test
            out.bce.append(float((np.logaddexp(0, logits) - labels * logits).mean()))
            out.auc.append(float(auc(logits, labels, np.ones((1, len(labels))))[0]))
        return out

    found: dict[str, Any] = {name: dataclasses.asdict(judged(fit, everything)) for name, fit in sides.items()}
    claimed = sides["ours"].converged
    assert claimed is not None
    found["ours"]["converged"] = claimed.tolist()
    open_ = [i for i in everything if found["shipped"]["excess"][i] > CLOSE]
    if penalty == "l1" and config.long and open_:
        found["long"] = dataclasses.asdict(judged(theirs("long", open_), open_)) | {"chosen": open_}
    return {"data": data.name, "k": k, "penalty": penalty} | found


def fits_row(found: dict) -> dict[str, Any]:
    """The worst of all strengths."""
    ours, shipped, exact = (found[name] for name in ("ours", "shipped", "exact"))
    everything = range(len(STRENGTHS))
    closed = [i for i in everything if shipped["excess"][i] <= CLOSE]

    def apart(score: str, other: dict, chosen: Sequence[int]) -> list[float]:
        return [abs(ours[score][i] - other[score][i]) for i in chosen]

    return {
        "data": found["data"],
        "k": found["k"],
        "penalty": found["penalty"],
        # Positive: ours is higher.
        "objective": max(a / b - 1 for a, b in zip(ours["objective"], shipped["objective"], strict=True)),
        "lowest": min(a / b - 1 for a, b in zip(ours["objective"], shipped["objective"], strict=True)),
        "our_excess": max(ours["excess"]),
        "their_excess": max(shipped["excess"]),
        "exact_excess": max(exact["excess"]),
        "our_nats": max(ours["nats"]),
        "their_nats": max(shipped["nats"]),
        # Ours says that it converged, and is further above the optimum than it may.
        "claimed": [STRENGTHS[i] for i in everything if ours["converged"][i] and ours["excess"][i] > CLOSE],
        "we_not_converged": [STRENGTHS[i] for i in everything if ours["excess"][i] > CLOSE],
        "our_violation": max(ours["violation"]),
        "their_violation": max(shipped["violation"]),
        "not_converged": [STRENGTHS[i] for i in everything if i not in closed],
        "at_the_limit": [STRENGTHS[i] for i in everything if shipped["iterations"][i] >= 1000],
        "bce": max(apart("bce", shipped, closed), default=0.0),
        "auc": max(apart("auc", shipped, closed), default=0.0),
        "bce_of_all": max(apart("bce", shipped, everything)),
        "bce_to_exact": max(apart("bce", exact, everything)),
        "auc_to_exact": max(apart("auc", exact, everything)),
        "bce_misses": [STRENGTHS[i] for i in everything if apart("bce", exact, everything)[i] > 1e-3],
        "auc_misses": [STRENGTHS[i] for i in everything if apart("auc", exact, everything)[i] > 1e-3],
    }


def compare_order(data: Data, peer: Peer, most: int) -> dict[str, Any]:
    """The first features on both sides; where they differ, by how much the scores of the two features do."""
    most = min(most, data.examples.x_train.shape[1])
    theirs = np.array(peer("order", file=str(data.file), most=most)["order"])
    ours = data.order[:most]
    differ = np.flatnonzero(ours != theirs)
    apart = 0.0
    if len(differ):
        score = mean_difference(data.examples)
        apart = float(np.max(np.abs(score[ours[differ]] / score[theirs[differ]] - 1)))
    return {
        "data": data.name,
        "most": most,
        "same_to": int(differ[0]) if len(differ) else most,
        "differ": len(differ),
        "apart": apart,
        "in_one_only": len(set(ours.tolist()) ^ set(theirs.tolist())) // 2,
    }


def mean_difference(own: Examples) -> Float[np.ndarray, " feature"]:
    """What both sides order by, in float64."""
    x = own.x_train.astype(np.float64)
    size = np.abs(x).sum(axis=0) / ((x != 0).sum(axis=0) + 1e-6) + 1e-6
    return np.abs(x[own.y_train].mean(axis=0) - x[~own.y_train].mean(axis=0)) / size


def compare_peer(data: Data, penalty: Penalty, peer: Peer, ks: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Scores of sae-probes, ours at its strength on the same features and rows, and ours at our own strength."""
    answer = peer("task", file=str(data.file), ks=list(ks), penalty=penalty)
    own = data.examples
    chosen = fit_probes({"x": data.examples}, wanted("x", own.x_train.shape[1], ("k_sparse",), ks, (penalty,)))
    out = []
    for probe, theirs in zip(chosen, answer["fits"], strict=True):
        k, strength = theirs["k"], theirs["strength"]
        fit, at = our_fit(data, k, penalty), int(np.argmin(np.abs(np.log(np.array(STRENGTHS) / strength))))
        x_train, x_test = (np.asarray(x, np.float64) for x in data.some(k))
        their_x = own.x_train[:, theirs["columns"]].astype(np.float64)
        their_weights = np.array(theirs["weights"])
        exact = their_fit(data, k, penalty, peer, folder, "exact", STRENGTHS[at:])
        bound = lower_bound(x_train, own.y_train, exact.weights[0], strength, penalty)
        values = {
            "ours": objective(x_train, own.y_train, fit.weights[at], float(fit.bias[at]), strength, penalty),
            "theirs": objective(their_x, own.y_train, their_weights, theirs["bias"], strength, penalty),
        }
        reported = {name: theirs[f"test_{short}"] for name, short in SCORES.items()}
        their_logits = own.x_test[:, theirs["columns"]].astype(np.float64) @ their_weights + theirs["bias"]
        by_us, same_c = point(their_logits, own.y_test), point(x_test @ fit.weights[at] + fit.bias[at], own.y_test)
        out.append(
            {
                "data": data.name,
                "k": k,
                "penalty": penalty,
                "same_features": data.columns(k) == theirs["columns"],
                "their_strength": strength,
                "our_strength": probe.strength,
                "iterations": theirs["iterations"],
                "stopped": theirs["iterations"] >= theirs["limit"],
                "excess": {name: (value - bound) / value for name, value in values.items()},
                "objective": values["ours"] / values["theirs"] - 1,
                "theirs": reported,
                "their_logits_by_us": by_us,
                "same_strength": same_c,
                "own_strength": point(probe.logits, own.y_test),
                "definition": max(abs(by_us[name] - reported[name]) for name in SCORES),
                "apart": max(abs(same_c[name] - reported[name]) for name in SCORES),
            }
        )
    return out


# Ours → the peer's.
SCORES = {"accuracy": "acc", "auc": "auc", "f1": "f1"}


def point(logits: np.ndarray, labels: Bool[np.ndarray, " example"]) -> dict[str, float]:
    found = scores(logits, labels)
    return {name: found[name].value for name in (*SCORES, "bce")}


def compare_single(data: Data, peer: Peer, config: Config, folder: Path) -> dict[str, Any]:
    """Probes on single latents that are not constant, chosen at random."""
    x, y = data.examples.x_train, data.examples.y_train
    varied = np.flatnonzero(np.ptp(x, axis=0) > 0)
    latents = np.random.default_rng(config.seed).permutation(varied)[: config.singles]
    into = folder / "single.npz"
    peer("single", file=str(data.file), latents=latents.tolist(), ridge=RIDGE, into=str(into))
    ours = jax.jit(single_probes)(x[:, latents], y, np.ones_like(y))
    with np.load(into) as stored:
        theirs = stored["weights"], stored["bias"]
    standard = x[:, latents].astype(np.float64)
    standard = (standard - standard.mean(axis=0)) / standard.std(axis=0)

    def loss(w: np.ndarray, b: np.ndarray) -> np.ndarray:
        z = standard * w + b
        return (np.logaddexp(0, z) - y[:, None] * z).mean(axis=0)

    mine = np.asarray(ours.weight, np.float64), np.asarray(ours.bias, np.float64)
    apart = loss(*mine) - loss(*theirs)
    value = apart + RIDGE * (np.square(mine[0]) - np.square(theirs[0]))
    return {
        "data": data.name,
        "latents": len(latents),
        "bce": float(np.abs(apart).max()),
        "reported_bce": float(np.abs(np.asarray(ours.bce, np.float64) - loss(*theirs)).max()),
        "objective": float(value.max()),
        "converged": bool(np.all(np.asarray(ours.converged))),
    }


def compare_time(data: Data, peer: Peer, config: Config) -> list[dict[str, Any]]:
    """Seconds of the fits of one task, on both sides in turn; of ours, the first with compilation."""
    own, width = data.examples, data.examples.x_train.shape[1]
    ks = tuple(k for k in config.timed_ks if k <= width)
    cases: list[tuple[tuple[int, ...], Penalty, int]] = [(ks, penalty, config.rounds) for penalty in PENALTIES]
    if config.slow_k:
        cases.append(((min(config.slow_k, width),), "l1", config.slow_rounds))
    out = []
    for ks, penalty, rounds in cases:
        asked = wanted("x", width, ("k_sparse",), ks, (penalty,))

        def ours(asked=asked) -> float:
            start = time.perf_counter()
            fit_probes({"x": own}, asked)
            return time.perf_counter() - start

        jax.clear_caches()
        first, pairs = ours(), []
        for _ in range(rounds):
            theirs = peer("task", file=str(data.file), ks=list(ks), penalty=penalty)["seconds"]
            pairs.append((theirs, ours()))
        theirs, later = (statistics.median(side) for side in zip(*pairs, strict=True))
        whole = first + (ALL_TASKS - 1) * later
        out.append(
            {
                "ks": ks,
                "penalty": penalty,
                "train": len(own.y_train),
                "peer_s": theirs,
                "first_s": first,
                "later_s": later,
                "by_round": [{"peer_s": a, "ours_s": b, "ratio": a / b} for a, b in pairs],
                "ratio": statistics.median(a / b for a, b in pairs),
                "peer_all_s": ALL_TASKS * theirs,
                "ours_all_s": whole,
                "ratio_with_compilation": ALL_TASKS * theirs / whole,
            }
        )
    return out


def time_scores(data: Data) -> float:
    """Seconds of one probe's scores with their intervals; not part of the fits, and the peer has none."""
    labels = data.examples.y_test
    logits = np.random.default_rng(0).standard_normal(len(labels))
    scores(logits, labels)
    start = time.perf_counter()
    scores(logits, labels)
    return time.perf_counter() - start


def time_single(file: str, rounds: int) -> dict[str, Any]:
    """Probes on each of all latents, in a process of their own: seconds, and the most memory that it had."""
    examples = read_features(file, 0)
    ready = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asked, seconds = wanted("x", examples.x_train.shape[1], ("single",)), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        fit_probes({"x": examples}, asked)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first, later = seconds[0], statistics.median(seconds[1:])
    return {
        "latents": examples.x_train.shape[1],
        "train": len(examples.y_train),
        "first_s": first,
        "later_s": later,
        "all_s": first + (ALL_TASKS - 1) * later,
        "peak_gib": peak / 2**20,
        "peak_before_gib": ready / 2**20,
    }


def in_a_process(function: Callable, *args: Any) -> Any:
    """A call in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def real_data(config: Config, folder: Path) -> list[Data]:
    """Latents of the shipped SAE at the last token, in random order, as sae-probes has it."""
    names = [name.strip() for name in config.tasks.split(",") if name.strip()]
    if not names:
        return []
    lm, sae = jsaeval.load_lm("smollm2-135m"), jsaeval.load_sae("smollm2-135m")
    hook, mesh, tokenizer = parse_hook(sae.card.hook or "", lm.n_blocks), jsaeval.make_mesh(1), load_tokenizer(lm)
    tasks = [draw(task, tokenizer, 128, config.examples or None, config.seed) for task in open_tasks(names)]
    store = open_store(cache_dir("activations"), lm, hook, "highest", "last")
    text_activations(lm, hook, [ids for own in tasks for ids in own.ids], mesh, store=store)
    sample = np.concatenate([store[key_of(own.ids[i])] for own in tasks for i in own.parts.train])
    encoder = Encoder(sae.with_scale(float(np.linalg.norm(sample, axis=1).mean())), "last", mesh)
    out = []
    for own in tasks:
        latents = encoder([store[key_of(ids)] for ids in own.ids]).latents
        rng = np.random.default_rng(config.seed)
        train, test = rng.permutation(own.train), rng.permutation(own.parts.test)
        x, y = latents, own.labels.astype(np.int64)
        arrays = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
        out.append(Data.write(own.task.name, folder, config.seed, **arrays))
    return out


def synthetic_data(folder: Path, rows: int, latents: int, seed: int) -> Data:
    """Sparse positive latents, a hundredth of which fire more often for one of the labels."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(2 * rows) % 2)
    odds = np.log(10 ** rng.uniform(-2.7, -0.7, latents))
    informs = np.where(rng.random(latents) < 0.01, rng.normal(0, 1.5, latents), 0)
    size = np.exp(rng.normal(0, 1, latents)).astype(np.float32)
    x = np.zeros((2 * rows, latents), np.float32)
    for row, label in enumerate(y):
        fires = np.flatnonzero(rng.random(latents) < _sigmoid(odds + (2 * label - 1) * informs))
        x[row, fires] = size[fires] * rng.gamma(2, 0.5, len(fires))
    arrays = {"x_train": x[:rows], "y_train": y[:rows], "x_test": x[rows:], "y_test": y[rows:]}
    return Data.write(SYNTHETIC, folder, seed, **arrays)


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was to be reached, and what was; numbers first, then times."""
    out: list[dict[str, Any]] = []

    def add(name: str, values: Sequence[float], limit: float, most: bool = True) -> None:
        if values:
            value = max(values) if most else min(values)
            sign = "≤" if most else "≥"
            met = value <= limit if most else value >= limit
            out.append({"target": f"{name} {sign} {limit:g}", "value": value, "met": bool(met)})

    rows, peers, singles, times = (found[part] for part in PARTS)
    add("objective above scikit-learn's, relative", [row["objective"] for row in rows], 1e-4)
    add("objective above the optimum, relative", [row["our_excess"] for row in rows], 1e-4)
    add("the same in nats a training example", [row["our_nats"] for row in rows], 1e-4)
    for score in ("bce", "auc"):
        add(f"|Δ test {score}| where scikit-learn converged", [row[score] for row in rows], 1e-3)
        add(f"|Δ test {score}| to the optimum", [row[f"{score}_to_exact"] for row in rows], 1e-3)
    add("features in one top k only, of sae-probes", [row["in_one_only"] for row in found["order"]], 0)
    add("|Δ score| of the same logits, to sae-probes", [row["definition"] for row in peers], 1e-6)
    sound = [row for row in peers if row["excess"]["theirs"] <= CLOSE]
    add("|Δ score| at one C, sae-probes converged", [row["apart"] for row in sound], 2e-3)
    add("|Δ score| at one C, all", [row["apart"] for row in peers], 2e-3)
    add("|Δ BCE| of single probes", [row["bce"] for row in singles], 1e-4)
    add("times sae-probes, without compilation", [row["ratio"] for row in times], 10, most=False)
    key = "ratio_with_compilation"
    add(f"times sae-probes, {ALL_TASKS} tasks with compilation", [row[key] for row in times], 3, most=False)
    if found["single_time"]:
        add(f"seconds of single probes, {ALL_TASKS} tasks", [found["single_time"]["all_s"]], 60)
        add("GiB of single probes", [found["single_time"]["peak_gib"]], 4)
    return out


def show(found: dict[str, Any], console: Console) -> None:
    def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            made = Table(title=title, title_justify="left", box=None, padding=(0, 1))
            for i, column in enumerate(columns):
                made.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
            for row in rows:
                made.add_row(*map(_shown, row))
            console.print(made)
            console.print()

    columns = (
        "",
        "k",
        "",
        "vs sklearn",
        "ours > opt",
        "sklearn > opt",
        "in nats",
        "in nats",
        "not ours",
        "not sklearn",
        "Δ bce",
        "Δ auc",
        "Δ bce opt",
    )
    keys = ("data", "k", "penalty", "objective", "our_excess", "their_excess", "our_nats", "their_nats")
    keys = (*keys, "we_not_converged", "not_converged", "bce", "auc", "bce_to_exact")
    rows = [[_few(row, key) for key in keys] for row in found["fits"]]
    title = "Worst of ten strengths: objective (relative), how far above the optimum, strengths at which each side"
    table(f"{title}\ndid not converge; |Δ| of test scores where it did, and to the optimum", columns, rows)

    columns = ("", "compared", "same to", "differ", "in one only", "relative Δ")
    keys = ("data", "most", "same_to", "differ", "in_one_only", "apart")
    table("Order of features beside sae-probes", columns, [[row[key] for key in keys] for row in found["order"]])

    columns = ("", "k", "", "its C", "our C", "> opt", "acc", "same C", "own C", "auc", "same C", "own C", "worst Δ")
    rows = []
    sides = ("theirs", "same_strength", "own_strength")
    for row in found["peer"]:
        values = [row[side][score] for score in ("accuracy", "auc") for side in sides]
        first = [row["data"], row["k"], row["penalty"], row["their_strength"], row["our_strength"]]
        rows.append([*first, row["excess"]["theirs"], *(f"{value:.4f}" for value in values), row["apart"]])
    table("sae-probes, ours at its C, ours at our C; how far it is above the optimum", columns, rows)

    columns = ("", "latents", "|Δ bce|", "objective − its", "converged")
    keys = ("data", "latents", "bce", "objective", "converged")
    table("Single probes beside scikit-learn", columns, [[row[key] for key in keys] for row in found["single"]])

    columns = ("k", "", "rows", "sae-probes s", "first s", "later s", "×", "by round", f"× {ALL_TASKS} tasks")
    rows = []
    for row in found["time"]:
        by_round = ", ".join(f"{pair['ratio']:.1f}" for pair in row["by_round"])
        first = [", ".join(map(str, row["ks"])), row["penalty"], row["train"], row["peer_s"], row["first_s"]]
        rows.append([*first, row["later_s"], row["ratio"], by_round, row["ratio_with_compilation"]])
    title = f"Seconds of a task's fits, in turn; {ALL_TASKS} tasks: first + {ALL_TASKS - 1} × later, extrapolated"
    table(title, columns, rows)
    if own := found["single_time"]:
        console.print(
            f"Single probes, {own['latents']:,} latents × {own['train']:,} rows: first {own['first_s']:.2f} s, later "
            f"{own['later_s']:.2f} s; {ALL_TASKS} tasks {own['all_s']:.0f} s, extrapolated; peak "
            f"{own['peak_gib']:.2f} GiB, {own['peak_before_gib']:.2f} before the fits"
        )
        console.print(f"Scores of a probe with intervals, beside the fits: {found['scores_s']:.3f} s\n")
    rows = [(row["target"], row["value"], "met" if row["met"] else "missed") for row in found["targets"]]
    table("Targets", ("", "found", ""), rows)


def _few(row: dict[str, Any], key: str) -> Any:
    return f"{len(row[key])} of {len(STRENGTHS)}" if key.endswith("not_converged") else row[key]


def _shown(value: Any) -> str:
    if value is None:
        return "all"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def compare(config: Config, sets: Sequence[Data], peer: Peer, folder: Path, console: Console) -> dict[str, Any]:
    """Everything that was asked for."""
    parts = {name.strip() for name in config.parts.split(",")}
    found: dict[str, Any] = {part: [] for part in PARTS}
    found |= {"versions": peer.versions, "every_fit": [], "order": [], "single_time": None, "scores_s": None}
    if "time" in parts and (timed := next((data for data in sets if data.name == config.timed), None)):
        found["time"] = compare_time(timed, peer, config)
        found["scores_s"] = time_scores(timed)
        found["single_time"] = in_a_process(time_single, str(timed.file), config.rounds)
        console.log("time")
    for data in sets:
        width = data.examples.x_train.shape[1]
        if "fits" in parts:
            asked: list[tuple[int | None, Penalty]] = [(k, p) for k in config.ks if k <= width for p in PENALTIES]
            if config.dense:
                asked.append((None, "l2"))
            for k, penalty in asked:
                found["every_fit"].append(compare_fits(data, k, penalty, peer, config, folder))
                found["fits"].append(fits_row(found["every_fit"][-1]))
                console.log(f"fits: {data.name}, {k or 'all'} features, {penalty}")
        if "peer" in parts:
            ks = [k for k in config.peer_ks if k <= width]
            found["order"].append(compare_order(data, peer, max(ks)))
            for penalty in PENALTIES:
                found["peer"] += compare_peer(data, penalty, peer, ks, folder)
                console.log(f"peer: {data.name}, {penalty}")
        if "single" in parts:
            found["single"].append(compare_single(data, peer, config, folder))
    return found | {"targets": targets(found)}


def main(config: Config) -> None:
    if unknown := {name.strip() for name in config.parts.split(",")} - set(PARTS):
        sys.exit(f"--parts {', '.join(sorted(unknown))}: no such part; known: {', '.join(PARTS)}")
    python, console = peer_environment("probes"), Console(width=None if sys.stdout.isatty() else 140, log_path=False)
    jax.config.update("jax_enable_compilation_cache", False)  # the first call is to compile
    with tempfile.TemporaryDirectory() as temporary, Peer(python) as peer:
        folder = Path(temporary)
        sets = real_data(config, folder)
        if config.synthetic:
            sets.append(synthetic_data(folder, config.rows, config.latents, config.seed))
        found = compare(config, sets, peer, folder, console)
    show(found, console)
    if config.out is not None:
        settings = dataclasses.asdict(config) | {"out": None}
        config.out.write_text(json.dumps({"settings": settings} | found, indent=1))
        print(config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))
