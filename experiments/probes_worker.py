"""The scikit-learn and sae-probes side of `compare_probes.py`, run by the Python of the peers' own environment.

    python probes_worker.py

One JSON request a line in, one JSON answer a line out. A request names what to "do", a "file" with x_train, y_train,
x_test, y_test, and what else that takes; weights go back in the file "into".
"""
# pyright: reportMissingImports=false

import dataclasses
import json
import sys
import time
import warnings
from importlib import metadata
from typing import Any

import numpy as np
import torch
from sae_probes.run_sae_evals import get_sorted_indices, mean_act_normalization
from sae_probes.utils_training import find_best_reg
from scipy.linalg import solve
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits


SEED = 42  # that of sae-probes
# What sae-probes sets of scikit-learn, beside C.
SHIPPED: dict[str, dict[str, Any]] = {
    "l1": {"l1_ratio": 1.0, "solver": "saga", "max_iter": 1000, "random_state": SEED},
    "l2": {"l1_ratio": 0.0, "solver": "lbfgs", "max_iter": 1000, "random_state": SEED},
}
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_read: dict[str, dict[str, np.ndarray]] = {}


def arrays(file: str) -> dict[str, np.ndarray]:
    if file not in _read:
        _read.clear()  # one task at a time
        with np.load(file) as stored:
            _read[file] = {name: stored[name] for name in stored.files}
    return _read[file]


def order(file: str, most: int) -> dict[str, Any]:
    """Features as sae-probes orders them, the first ones."""
    own = arrays(file)
    x, y = torch.from_numpy(own["x_train"]), torch.from_numpy(own["y_train"])
    found = get_sorted_indices(x, y, mean_act_normalization)
    return {"order": found[:most].tolist()}


def task(file: str, ks: list[int], penalty: str) -> dict[str, Any]:
    """The fits of sae-probes for one task, and the seconds that they take."""
    own = arrays(file)
    x_train, y_train, x_test, y_test = (torch.from_numpy(own[name]) for name in ARRAYS)
    start, found = time.perf_counter(), []
    ranked = get_sorted_indices(x_train, y_train, mean_act_normalization)
    for k in ks:
        train, test = x_train[:, ranked[:k]], x_test[:, ranked[:k]]
        found.append(find_best_reg(train, y_train, test, y_test, n_jobs=-1, parallel=False, penalty=penalty, seed=SEED))
    seconds = time.perf_counter() - start
    fits = []
    for k, result in zip(ks, found, strict=True):
        model = result.classifier
        fitted = {"weights": model.coef_[0].tolist(), "bias": float(model.intercept_[0]), "strength": float(model.C)}
        fitted |= {"k": k, "iterations": int(model.n_iter_[0]), "limit": model.max_iter}
        fits.append(fitted | {"columns": ranked[:k].tolist()} | dataclasses.asdict(result.metrics))
    return {"seconds": seconds, "fits": fits}


def fits(
    file: str, columns: list[int] | None, penalty: str, strengths: list[float], how: str, into: str, limit: int = 1000
) -> dict[str, Any]:
    """One fit for each strength.

    `how`: "shipped", with the settings of sae-probes; "long", the same in float64, to 1e-7 or so many iterations;
    "exact", the optimum in float64: by scikit-learn's Newton method (L2), by scipy's L-BFGS-B and Newton's method (L1).
    """
    own = arrays(file)
    x, y = own["x_train"] if columns is None else own["x_train"][:, columns], own["y_train"]
    start = time.perf_counter()
    if how == "shipped":
        weights, bias, steps = _sklearn(x, y, strengths, SHIPPED[penalty])
    elif how == "long":
        settings = SHIPPED[penalty] | {"max_iter": limit, "tol": 1e-7}
        weights, bias, steps = _sklearn(x.astype(np.float64), y, strengths, settings)
    else:
        exact = {"l1": _exact_l1, "l2": _exact_l2}[penalty]
        with threadpool_limits(1):  # many small products, in which threads wait for each other
            weights, bias, steps = exact(x.astype(np.float64), y, strengths)
    seconds = time.perf_counter() - start
    np.savez(into, weights=weights, bias=bias, iterations=steps)
    return {"seconds": seconds}


def single(file: str, latents: list[int], ridge: float, into: str) -> dict[str, Any]:
    """A probe on each of some features: BCE + ridge · weight², the feature standardised."""
    own = arrays(file)
    x, y = own["x_train"][:, latents].astype(np.float64), own["y_train"]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    settings = {"C": 1 / (2 * ridge * len(y)), "tol": 1e-10, "max_iter": 10_000}
    start, weights, bias = time.perf_counter(), [], []
    for column in x.T:
        model = LogisticRegression(**settings).fit(column[:, None], y)
        weights.append(model.coef_[0, 0])
        bias.append(model.intercept_[0])
    seconds = time.perf_counter() - start
    np.savez(into, weights=weights, bias=bias)
    return {"seconds": seconds}


def _sklearn(x, y, strengths: list[float], settings: dict[str, Any]):
    models = [LogisticRegression(C=strength, **settings).fit(x, y) for strength in strengths]
    weights, bias = (np.stack([getattr(model, name) for model in models]) for name in ("coef_", "intercept_"))
    return weights[:, 0], bias[:, 0], np.array([model.n_iter_[0] for model in models])


def _exact_l2(x, y, strengths: list[float]):
    """In the coordinates of the right singular vectors, where the objective is the same."""
    mean = x.mean(axis=0)
    left, sizes, vectors = np.linalg.svd(x - mean, full_matrices=False)
    settings = {"solver": "newton-cholesky", "tol": 1e-9, "max_iter": 1000}
    u, bias, steps = _sklearn(left * sizes, y, strengths, settings)
    weights = u @ vectors
    return weights, bias - weights @ mean, steps


def _exact_l1(x, y, strengths: list[float]):
    """From the strongest penalty to the weakest: L-BFGS-B, then Newton's method on the features that it leaves."""
    n, width = x.shape
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    x, sign = (x - mean) / scale, 2.0 * y - 1
    weights, bias, steps = np.zeros((len(strengths), width)), np.zeros(len(strengths)), np.zeros(len(strengths), int)
    w, b = np.zeros(width), 0.0
    for i in np.argsort(strengths):
        level = 1 / (strengths[i] * n * scale)
        w, b, steps[i] = _nearly(x, sign, level, w, b)
        w, b = _polished(x, sign, level, w, b)
        weights[i], bias[i] = w / scale, b - w / scale @ mean
    return weights, bias, steps


def _nearly(x, sign, level, w, b):
    """The penalty is linear in p ≥ 0 and q ≥ 0 of w = p − q."""
    width = len(w)

    def value(v):
        p, q = v[:width], v[width:-1]
        loss, residual, _ = _loss(x, sign, p - q, v[-1])
        slope = residual @ x
        return loss + level @ (p + q), np.concatenate([slope + level, level - slope, [residual.sum()]])

    start = np.concatenate([np.maximum(w, 0), np.maximum(-w, 0), [b]])
    bounds = [(0, None)] * (2 * width) + [(None, None)]
    options = {"maxiter": 50_000, "maxfun": 100_000, "maxcor": 50, "ftol": 0.0, "gtol": 1e-12}
    found = minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return found.x[:width] - found.x[width:-1], found.x[-1], found.nit


def _polished(x, sign, level, w, b):
    """Newton's method on the weights that are not 0: one that would change its sign leaves, one that should be, enters.

    (Osborne, Presnell and Turlach 2000, for the squared loss.)
    """
    w, level, signs = np.append(w, b), np.append(level, 0.0), np.append(np.sign(w), 0.0)
    x = np.column_stack([x, np.ones(len(x))])
    for _ in range(200):
        kept = np.flatnonzero((signs != 0) | (level == 0))
        design, at, slope = x[:, kept], w[kept], signs[kept] * level[kept]
        loss, residual, curvature = _loss(design, sign, at, 0.0)
        hessian = design.T @ (design * curvature[:, None])
        hessian[np.diag_indices_from(hessian)] += 1e-13 * np.trace(hessian) / len(kept)
        step = -solve(hessian, residual @ design + slope, assume_a="pos")
        before = loss + slope @ at
        for length in 0.5 ** np.arange(30):
            crosses = (signs[kept] != 0) & (signs[kept] * (at + length * step) < 0)
            lengths = np.where(crosses, -at / np.where(crosses, step, 1.0), length)
            first = int(lengths.argmin())
            new = at + lengths[first] * step
            if _loss(design, sign, new, 0.0)[0] + slope @ new <= before + 1e-14 * abs(before):
                break
        if np.abs(design @ (new - at)).max() > 1e-11:
            w[kept] = new
            if crosses[first]:
                w[kept[first]] = signs[kept[first]] = 0.0
            continue
        # Nothing more to gain here: the weight at 0 that violates its condition most comes in.
        gradient = residual @ x
        excess = np.where(signs == 0, np.abs(gradient) / np.maximum(level, 1e-300), 0.0)
        excess[-1] = 0.0
        enters = int(excess.argmax())
        if excess[enters] <= 1 + 1e-9:
            break
        signs[enters] = -np.sign(gradient[enters])
    return w[:-1], w[-1]


def _loss(x, sign, w, b):
    """Mean BCE, and its first and second derivatives by the logits."""
    margin = sign * (x @ w + b)
    wrong = np.exp(-np.logaddexp(0, margin))
    return np.logaddexp(0, -margin).mean(), -sign * wrong / len(sign), wrong * (1 - wrong) / len(sign)


COMMANDS = {"order": order, "task": task, "fits": fits, "single": single}


def main() -> None:
    warnings.simplefilter("ignore")  # what did not converge is reported
    names = ("sae-probes", "scikit-learn", "numpy", "torch")
    print(json.dumps({"versions": {name: metadata.version(name) for name in names}}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(COMMANDS[request.pop("do")](**request)), flush=True)


if __name__ == "__main__":
    main()
