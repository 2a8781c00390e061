"""All probes of one task on one set of features: one latent, k latents, all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jsaeval.errors import InputError
from jsaeval.probes.logistic import Fits, Penalty, fit_logistic
from jsaeval.probes.ranking import by_mean_difference
from jsaeval.probes.scores import Score, scores
from jsaeval.probes.single import SingleProbes, single_probes


Kind = Literal["single", "k_sparse", "dense"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
# C of scikit-learn, as `sae-probes` tries them.
STRENGTHS = tuple(float(c) for c in np.logspace(5, -5, 10))
# Numbers of features for which programs are compiled; others are filled up with zeros.
_SIZES = (16, 128, 512)
_VALIDATION = 0.2


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

    @property
    def all_train(self) -> Bool[Array, " train"]:
        """Every training example counts."""
        return jnp.ones(len(self.y_train), bool)


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        kind: on the best single feature, on k of them, or on all.
        k: how many features it may use; None: all.
        penalty: L1 or L2; None of the single one, whose ridge is fixed.
        strength: C that validation chose.
        features: those it may use, by index; None: all.
        test: scores on held-out examples.
        in_sample: BCE on the training examples.
        converged: whether the fit satisfies its optimality conditions.
    """

    kind: Kind
    k: int | None
    penalty: Penalty | None
    strength: float | None
    features: tuple[int, ...] | None
    test: dict[str, Score]
    in_sample: float
    converged: bool


def fit_probes(
    examples: Examples,
    kinds: Sequence[Kind] = KINDS,
    ks: Sequence[int] = KS,
    penalties: Sequence[Penalty] = ("l1", "l2"),
    seed: int = 0,
) -> list[Probe]:
    """Fit probes on the training examples and score them on the others.

    The strength of a penalty is the one with the least BCE on the validation examples; the probe with it is fitted on
    them, too. Dense probes are L2 only.

    Args:
        examples: features and labels.
        kinds: which probes.
        ks: of the k-sparse ones; those beyond the number of features are left out.
        penalties: of the k-sparse ones.
        seed: of the resamples.
    """
    found: list[Probe] = []
    if "single" in kinds:
        found.append(_single(examples, seed))
    if "k_sparse" in kinds:
        ranked = _ranked(jnp.asarray(examples.x_train), jnp.asarray(examples.y_train), examples.all_train)
        order = np.asarray(ranked)
        for k in (k for k in ks if k <= len(order)):
            found += [_logistic(examples, order[:k], penalty, "k_sparse", seed) for penalty in penalties]
    if "dense" in kinds:
        found.append(_logistic(examples, None, "l2", "dense", seed))
    return found


_ranked = jax.jit(by_mean_difference)
_singles = jax.jit(single_probes)
_fitted = jax.jit(fit_logistic, static_argnames="penalty")


def _single(examples: Examples, seed: int) -> Probe:
    fits: SingleProbes = _singles(jnp.asarray(examples.x_train), jnp.asarray(examples.y_train), examples.all_train)
    best = int(jnp.argmin(fits.objective))
    one = jax.tree.map(lambda x: x if x.ndim == 0 else x[best : best + 1], fits)
    logits = np.asarray(one.logits(jnp.asarray(examples.x_test[:, best : best + 1])))[:, 0]
    tested = scores(logits, examples.y_test, seed)
    return Probe("single", 1, None, None, (best,), tested, float(fits.bce[best]), bool(fits.converged.all()))


def _logistic(
    examples: Examples, chosen: Int[np.ndarray, " chosen"] | None, penalty: Penalty, kind: Kind, seed: int
) -> Probe:
    x_train, x_test = (x if chosen is None else _filled(x[:, chosen]) for x in (examples.x_train, examples.x_test))
    folds = jnp.asarray(np.stack([~examples.validates, np.ones_like(examples.validates)]))
    strengths = jnp.asarray(STRENGTHS, jnp.float32)
    fits: Fits = _fitted(jnp.asarray(x_train), jnp.asarray(examples.y_train), folds, strengths, penalty=penalty)
    trained = np.asarray(fits.logits(jnp.asarray(x_train)), np.float64)  # (fold, strength, example)
    loss = np.logaddexp(0, trained) - examples.y_train * trained
    best = int(np.argmin(loss[0][:, examples.validates].mean(axis=1)))
    logits = x_test.astype(np.float64) @ np.asarray(fits.weights[1, best], np.float64) + float(fits.bias[1, best])
    return Probe(
        kind=kind,
        k=None if chosen is None else len(chosen),
        penalty=penalty,
        strength=STRENGTHS[best],
        features=None if chosen is None else tuple(int(i) for i in chosen),
        test=scores(logits, examples.y_test, seed),
        in_sample=float(loss[1, best].mean()),
        converged=bool(fits.converged[1, best]),
    )


def _filled(x: Float[np.ndarray, "example feature"]) -> Float[np.ndarray, "example size"]:
    """With columns of zeros, which get no weight, up to a size for which there is a program."""
    size = next((size for size in _SIZES if size >= x.shape[1]), x.shape[1])
    return np.pad(x, [(0, 0), (0, size - x.shape[1])])


def _check(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> None:
    if x_train.ndim != 2 or x_test.ndim != 2 or x_train.shape[1] != x_test.shape[1]:
        raise InputError(f"features: (example, feature) twice was expected; found {x_train.shape} and {x_test.shape}")
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if y.shape != (len(x),):
            raise InputError(f"features: {len(x)} {name} examples with labels of shape {y.shape}")
        if len(y) < 2 or y.all() or not y.any():
            raise InputError(f"features: the {len(y)} {name} examples have one label only")
        if not np.isfinite(x).all():
            raise InputError(f"features: NaN or Inf in the {name} examples")
