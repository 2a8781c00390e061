"""Evidence made by hand, and simulations of it."""

import numpy as np

from jsaeval.autointerp.evidence import INTERVALS, Evidence, Example, Statistics, TokenTable
from jsaeval.autointerp.explanation import Simulation


def example(activations, kind="random", document=0, start=0, interval=None, tokens=None, focus=None):
    a = np.asarray(activations, np.float32)
    if interval is None:
        interval = INTERVALS if a.any() else 0
    return Example(
        kind=kind,
        interval=interval,
        document=document,
        row=document,
        start=start,
        before=np.zeros(0, np.int64),
        tokens=np.arange(len(a)) if tokens is None else np.asarray(tokens),
        activations=a,
        focus=int(a.argmax()) if focus is None else focus,
        begins=True,
    )


def evidence(calibrate, score=None, latent=0, density=0.01, strata=None, explain=(), problem=None):
    """With as many windows in each stratum as were drawn, unless `strata` says otherwise."""
    n = 10_000
    fires = round(density * n)
    edges = np.linspace(0, 1, 11)
    statistics = Statistics(n, fires, 1.0, 0.5, edges, np.full(10, fires // 10))
    table = TokenTable(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), 0.0, 0)
    examples = {
        "explain": tuple(explain),
        "calibrate": tuple(calibrate),
        "score": tuple(calibrate if score is None else score),
    }
    if strata is None:
        strata = {
            split: np.bincount([e.interval for e in own], minlength=INTERVALS + 1) for split, own in examples.items()
        }
    return Evidence(latent, statistics, table, examples, strata, problem)


def random_evidence(seed=0, latent=0, n=12, width=8, density=0.01, share=0.3):
    """Windows of every kind in both splits, in which the latent fires at a share of the tokens (not at all in some)."""
    rng = np.random.default_rng(seed)

    def some(first):
        out = []
        for i, kind in enumerate(("top", "interval", "active", "random")):
            for j in range(n):
                a = np.where(rng.random(width) < share, rng.random(width), 0).astype(np.float32)
                if kind == "random" and j % 2:
                    a[:] = 0
                elif not a.any():
                    a[rng.integers(width)] = 0.5
                interval = int(np.ceil(a.max() * INTERVALS))
                tokens = rng.integers(3, 50, width)
                out.append(example(a, kind, first + i * n + j, interval=interval, tokens=tokens))
        return out

    return evidence(some(0), some(1000), latent, density)


def simulate(evidence, predict, levels=None, highest=10):
    """A simulation whose values are `predict(example)`, with `levels(example)` up to `highest`."""
    splits = "calibrate", "score"
    values = {split: [np.asarray(predict(e), np.float32) for e in evidence.examples[split]] for split in splits}
    if levels is None:
        return Simulation(values)
    given = {split: [levels(e) for e in evidence.examples[split]] for split in splits}
    return Simulation(values, given, highest=highest)
