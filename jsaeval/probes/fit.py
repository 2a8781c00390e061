"""All probes of one task: on one feature, on k of them, on all of them; of several sets of features at once.

Probes of one shape are one compiled program; as many of them run at a time as there are devices.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Int

from jsaeval.errors import InputError
from jsaeval.mesh import DATA, make_mesh, shard_rows
from jsaeval.probes.logistic import Penalty, fit_logistic
from jsaeval.probes.ranking import by_mean_difference
from jsaeval.probes.single import single_probes


Kind = Literal["single", "k_sparse", "dense"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PENALTIES: tuple[Penalty, ...] = get_args(Penalty)
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
# C of scikit-learn, as `sae-probes` tries them.
STRENGTHS = tuple(float(c) for c in np.logspace(5, -5, 10))
# Numbers of features, and multiples of numbers of examples, for which programs are compiled; the rest is filled up.
_SIZES, _EXAMPLES = (16, 128, 256, 512), 128
_VALIDATION = 0.2
_EQUAL = 1e-6  # nats


@dataclass(frozen=True)
class Examples:
    """Features with labels. `validates`: which training examples only choose the strength of the penalty."""

    x_train: Float[np.ndarray, "train feature"]
    y_train: Bool[np.ndarray, " train"]
    x_test: Float[np.ndarray, "test feature"]
    y_test: Bool[np.ndarray, " test"]
    validates: Bool[np.ndarray, " train"]

    @classmethod
    def of(cls, x_train: Any, y_train: Any, x_test: Any, y_test: Any, seed: int = 0) -> "Examples":
        """With a fifth of the training examples for validation, drawn from each class.

        Raises:
            InputError: a probe cannot be fitted or scored on them.
        """
        x_train, x_test = (np.asarray(x, np.float32) for x in (x_train, x_test))
        y_train, y_test = (np.asarray(y).astype(bool) for y in (y_train, y_test))
        _check(x_train, y_train, x_test, y_test)
        rng, validates = np.random.default_rng(seed), np.zeros(len(y_train), bool)
        for label in (False, True):
            own = rng.permutation(np.flatnonzero(y_train == label))
            validates[own[: max(1, round(_VALIDATION * len(own)))]] = True
        return cls(x_train, y_train, x_test, y_test, validates)


@dataclass(frozen=True)
class Wanted:
    """A probe to be fitted: on which set of features, of which kind. `k`: how many features a k-sparse one may use."""

    features: str
    kind: Kind
    k: int | None = None
    penalty: Penalty | None = None


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        features: name of the set of features.
        kind: on the best single feature, on k of them, or on all.
        k: how many features it may use; None: all.
        penalty: L1 or L2; None of the single one, whose ridge is fixed.
        strength: C that validation chose.
        chosen: the features that it may use, by index; None: all.
        in_sample: BCE on the training examples, in nats.
        converged: whether the fit satisfies its optimality conditions, and the one that chose the strength does, too.
        logits: of the test examples; the probe says yes where they are positive.
    """

    features: str
    kind: Kind
    k: int | None
    penalty: Penalty | None
    strength: float | None
    chosen: tuple[int, ...] | None
    in_sample: float
    converged: bool
    logits: Float[np.ndarray, " test"]


def wanted(
    features: str,
    width: int,
    kinds: Sequence[Kind] = KINDS,
    ks: Sequence[int] = KS,
    penalties: Sequence[Penalty] = PENALTIES,
) -> list[Wanted]:
    """Probes on a set of so many features; k beyond them is left out. Dense probes are L2 only."""
    found = [Wanted(features, "single", 1)] if "single" in kinds else []
    if "k_sparse" in kinds:
        found += [Wanted(features, "k_sparse", k, penalty) for k in ks if k <= width for penalty in penalties]
    return found + ([Wanted(features, "dense", None, "l2")] if "dense" in kinds else [])


def fit_probes(examples: Mapping[str, Examples], probes: Sequence[Wanted], mesh: Mesh | None = None) -> list[Probe]:
    """Fit probes on the training examples, and apply them to the test examples.

    The strength of a penalty is the one with the least BCE on the validation examples, whose labels no part of that fit
    has seen; the probe with it is ranked and fitted on them, too.

    Args:
        examples: of each set of features.
        probes: which, in the order in which they come back.
        mesh: devices; each fits other probes. Default: all.
    """
    mesh = make_mesh() if mesh is None else make_mesh(devices=list(mesh.devices.flat))
    sets = {name: _Set.of(examples[name]) for name in dict.fromkeys(probe.features for probe in probes)}
    single = [name for name in sets if any(p.features == name and p.kind == "single" for p in probes)]
    ranked = [name for name in sets if any(p.features == name and p.kind == "k_sparse" for p in probes)]
    best = dict(zip(single, _mapped(_singles, mesh, [sets[name].arrays() for name in single]), strict=True))
    rank = _ranking(max((p.k for p in probes if p.kind == "k_sparse" and p.k), default=0))
    order = dict(zip(ranked, _mapped(rank, mesh, [sets[name].arrays() for name in ranked]), strict=True))
    found: dict[Wanted, Probe] = {
        p: _single(p, sets[p.features], best[p.features]) for p in probes if p.kind == "single"
    }
    for penalty in PENALTIES:
        dense = [p for p in probes if p.kind == "dense" and p.penalty == penalty]
        sparse = [p for p in probes if p.kind == "k_sparse" and p.penalty == penalty]
        inputs = [sets[p.features].arrays() for p in dense]
        # What chooses the strength must not see the labels of the validation examples, so it ranks without them, too.
        inputs += [sets[p.features].arrays(order[p.features][fold][: p.k], fold) for p in sparse for fold in (0, 1)]
        fits = _mapped(_paths[penalty], mesh, inputs)
        for p, fit in zip(dense, fits, strict=False):
            found[p] = _logistic(p, sets[p.features].examples, None, fit)
        rest = fits[len(dense) :]
        for p, chooses, final in zip(sparse, rest[::2], rest[1::2], strict=True):
            both = tuple(map(np.concatenate, zip(chooses, final, strict=True)))
            found[p] = _logistic(p, sets[p.features].examples, order[p.features][1][: p.k], both)
    return [found[p] for p in probes]


@dataclass(frozen=True)
class _Set:
    """A set of features, its training examples filled up to a number for which there are programs."""

    examples: Examples
    x: Float[np.ndarray, "example feature"]
    y: Bool[np.ndarray, " example"]
    folds: Bool[np.ndarray, "fold example"]

    @classmethod
    def of(cls, own: Examples) -> "_Set":
        missing = -len(own.y_train) % _EXAMPLES
        folds = np.stack([~own.validates, np.ones_like(own.validates)])
        x = np.pad(own.x_train, [(0, missing), (0, 0)]) if missing else own.x_train
        y = np.pad(own.y_train, (0, missing))
        return cls(own, x, y, np.pad(folds, [(0, 0), (0, missing)]))

    def arrays(self, columns: Int[np.ndarray, " chosen"] | None = None, fold: int | None = None) -> tuple:
        """Features, labels, and which examples train, in one fold or in both; columns of zeros, which get no weight,
        fill up the chosen."""
        folds = self.folds if fold is None else self.folds[fold : fold + 1]
        if columns is None:
            return self.x, self.y, folds
        size = next((size for size in _SIZES if size >= len(columns)), len(columns))
        return np.pad(self.x[:, columns], [(0, 0), (0, size - len(columns))]), self.y, folds


def _singles(x, y, folds):
    fits = single_probes(x, y, folds[-1])
    best = jnp.argmin(fits.objective)
    values = fits.weight, fits.bias, fits.mean, fits.scale, fits.bce
    return best, *(value[best] for value in values), fits.converged[best]


def _path(penalty: Penalty, x, y, folds):
    fits = fit_logistic(x, y, folds, jnp.asarray(STRENGTHS, x.dtype), penalty)
    return fits.weights, fits.bias, fits.logits(x), fits.converged


_paths = {penalty: functools.partial(_path, penalty) for penalty in PENALTIES}


@functools.cache
def _ranking(most: int) -> Callable:
    return functools.partial(by_mean_difference, most=most)


def _mapped(function: Callable, mesh: Mesh, inputs: Sequence[tuple[np.ndarray, ...]]) -> list[Any]:
    """`function` of each input, those of one shape as many at a time as there are devices."""
    out: list[Any] = [None] * len(inputs)
    shapes: dict[tuple, list[int]] = {}
    for i, arrays in enumerate(inputs):
        shapes.setdefault(tuple(own.shape for own in arrays), []).append(i)
    program, n = _program(function, mesh), mesh.devices.size
    for members in shapes.values():
        for first in range(0, len(members), n):
            some = members[first : first + n]
            # Devices for which there is nothing left get examples that do not count, and are done at once.
            rest = [tuple(map(np.zeros_like, inputs[some[0]])) for _ in range(n - len(some))]
            parts = zip(*(inputs[i] for i in some), *rest, strict=True)
            found = program(*shard_rows(tuple(own[0][None] if n == 1 else np.stack(own) for own in parts), mesh))
            host = jax.tree.map(np.asarray, found)
            for row, i in enumerate(some):
                out[i] = jax.tree.map(lambda own, row=row: own[row], host)
    return out


@functools.cache
def _program(function: Callable, mesh: Mesh) -> Callable:
    def run(*arrays):
        with jax.default_matmul_precision("highest"):
            return lax.map(lambda own: function(*own), arrays)

    # Nothing moves between devices, so there is no need to follow what differs between them.
    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P(DATA), out_specs=P(DATA), check_vma=False))


def _single(probe: Wanted, own: _Set, found: tuple[Any, ...]) -> Probe:
    best, weight, bias, mean, scale, bce, converged = found
    logits = (own.examples.x_test[:, int(best)].astype(np.float64) - float(mean)) / float(scale) * float(weight)
    chosen = (int(best),)
    return Probe(probe.features, "single", 1, None, None, chosen, float(bce), bool(converged), logits + float(bias))


def _logistic(
    probe: Wanted, own: Examples, columns: Int[np.ndarray, " chosen"] | None, found: tuple[np.ndarray, ...]
) -> Probe:
    weights, bias, trained, converged = found
    trained = trained[..., : len(own.y_train)].astype(np.float64)  # (fold, strength, example)
    loss = np.logaddexp(0, trained) - own.y_train * trained
    validation = loss[0][:, own.validates].mean(axis=1)
    # Of strengths that are equally good, the strongest penalty; NaN is never good.
    best = int(np.flatnonzero(validation <= np.nanmin(validation) + _EQUAL)[-1])
    x_test = own.x_test if columns is None else own.x_test[:, columns]
    weight = weights[1, best, : x_test.shape[1]].astype(np.float64)
    return Probe(
        features=probe.features,
        kind=probe.kind,
        k=probe.k,
        penalty=probe.penalty,
        strength=STRENGTHS[best],
        chosen=None if columns is None else tuple(int(i) for i in columns),
        in_sample=float(loss[1, best].mean()),
        converged=bool(converged[:, best].all()),
        logits=x_test.astype(np.float64) @ weight + float(bias[1, best]),
    )


def _check(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> None:
    if x_train.ndim != 2 or x_test.ndim != 2 or x_train.shape[1] != x_test.shape[1] or not x_train.size:
        raise InputError(f"features: (example, feature) twice was expected; found {x_train.shape} and {x_test.shape}")
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if y.shape != (len(x),):
            raise InputError(f"features: {len(x)} {name} examples with labels of shape {y.shape}")
        if len(y) < 2 or y.all() or not y.any():
            raise InputError(f"features: the {len(y)} {name} examples have one label only")
        if not np.isfinite(x).all():
            raise InputError(f"features: NaN or Inf in the {name} examples")
