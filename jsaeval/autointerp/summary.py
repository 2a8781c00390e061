"""Scores of many latents → means over latents with intervals, beside their floors.

What is resampled is latents: an interval says what other latents of the same dictionary would give. Floors on the same
latents are compared in pairs; those of other dictionaries (a random SAE, the neurons) by the difference of the means of
two independent samples. A latent whose explanation or simulation failed counts as one that nothing was said of
(`NOTHING`); means without them stand beside. That of a floor on the same latents is undefined instead: a floor that
failed would be easy to beat. A score that is not defined for a latent has no part in a mean, and is counted.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jsaeval.autointerp.choice import DENSITY_STRATA, density_stratum
from jsaeval.autointerp.scores import NOTHING, WHERE, Scored
from jsaeval.stats.bootstrap import interval, row_counts


# With fewer, resamples say next to nothing of other latents; no verdict is given on them.
LEAST_LATENTS = 5


def summarise(
    scored: Sequence[Scored],
    floors: Mapping[str, Sequence[Scored]] | None = None,
    others: Mapping[str, Sequence[Scored]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What a report says of explanations; it can be written as JSON.

    Args:
        scored: of all latents that were asked for.
        floors: by name, other explanations of the same latents, scored on the same examples.
        others: by name, explanations of latents of other dictionaries.
        seed: of the resamples.

    Returns:
        {"latents": as `counts`, "floors": {name: as `counts`}, "mass_on_levels", "uncovered": means of
         `Scored.mass` and `Scored.uncovered` over the latents that have one, None where none has,
         "scores": {id: {population: {"value", "ci95", "n", "median", "quartiles": [25 %, 75 %],
            "without_failures": {"value", "ci95", "n"}, "undefined": {why: latents},
            "by_density": {"1e-3–1e-2": {"value", "ci95", "n"}},
            "floors": {name: {"value", "ci95", "n", "paired", "undefined": {why: latents},
            "difference": {"value", "ci95", "n"}}}}}}}
        "value" is the mean over "n" latents, None where there are none. "ci95" is absent where there are fewer than
        `LEAST_LATENTS`. A difference is value − floor; "n" of a paired one is the latents that have both, else the
        smaller of the two numbers.

    Raises:
        ValueError: a floor is not one of the same latents.
    """
    floors, others = floors or {}, others or {}
    for name, own in floors.items():
        if [one.latent for one in own] != [one.latent for one in scored]:
            raise ValueError(f"floor {name!r} is not one of the same latents in the same order")
    ours = _Sample.of(scored, seed)
    # On the same latents the same resamples; on others independent ones.
    paired = {name: _Sample(tuple(own), ours.counts, floor=True) for name, own in floors.items()}
    unpaired = {name: _Sample.of(own, _seed(seed, name)) for name, own in others.items()}
    return {
        "latents": counts(scored),
        "floors": {name: counts(own.scored) for name, own in (paired | unpaired).items()},
        "mass_on_levels": _mean_of_those(own.mass for own in scored),
        "uncovered": _mean_of_those(own.uncovered for own in scored),
        "scores": {
            id: {where: _entry(ours, paired, unpaired, id, where) for where in places} for id, places in WHERE.items()
        },
    }


def counts(scored: Iterable[Scored]) -> dict[str, Any]:
    """How many latents came to what: {"asked", "scored", "dead", "too_few_examples", "failed", "reasons": {why:
    latents}, "constant_simulations", "failed_examples"}. Of reasons that differ by numbers alone the first is there."""
    scored = list(scored)
    problems = [own.problem for own in scored if own.problem is not None]
    errors = [own.error for own in scored if own.error is not None]
    dead = problems.count("dead")
    return {
        "asked": len(scored),
        "scored": len(scored) - len(problems) - len(errors),
        "dead": dead,
        "too_few_examples": len(problems) - dead,
        "failed": len(errors),
        "reasons": _counted(problems + errors),
        "constant_simulations": sum(own.constant for own in scored),
        "failed_examples": sum(own.failed_examples for own in scored),
    }


def _mean_of_those(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _counted(reasons: Sequence[str]) -> dict[str, int]:
    """How often each was given; of those that differ by numbers alone the first stands for all."""
    first: dict[str, str] = {}
    return dict(Counter(first.setdefault(re.sub(r"\d[\d,.]*", "N", reason), reason) for reason in reasons))


@dataclass(frozen=True)
class _Sample:
    """Latents, and how often each is in each resample; of a `floor` those that failed have no scores."""

    scored: tuple[Scored, ...]
    counts: Float[np.ndarray, "resample latent"]
    floor: bool = False

    @classmethod
    def of(cls, scored: Sequence[Scored], seed: int) -> "_Sample":
        return cls(tuple(scored), row_counts(len(scored), seed) if scored else np.zeros((1, 0)))

    def values(self, id: str, where: str, failures: bool = True) -> Float[np.ndarray, " latent"]:
        """A score of each latent, NaN where there is none."""

        def of(own: Scored) -> float:
            if own.error is not None:
                return NOTHING[id] if failures and not self.floor else math.nan
            found = own.values[id][where].value if own.values else None
            return math.nan if found is None else found

        values = np.array([of(own) for own in self.scored], np.float64)
        # Where no latent can have the score (levels of a simulator without them), those that failed have none either.
        there = [own for own, value in zip(self.scored, values, strict=True) if not own.error and np.isfinite(value)]
        possible = there or all(own.error is not None for own in self.scored if own.problem is None)
        return values if possible else np.full(len(values), math.nan)

    def undefined(self, id: str, where: str) -> dict[str, int]:
        """Why a score is not defined, and for how many latents."""
        found = [own.values[id][where] for own in self.scored if own.values]
        why = [str(own.reason) for own in found if own.value is None]
        why += [own.error for own in self.scored if self.floor and own.error is not None]
        return _counted(why)

    def means(self, values: Float[np.ndarray, " latent"]) -> Float[np.ndarray, " resample"]:
        """The mean of the values that there are, in each resample; NaN where there are none."""
        there = np.isfinite(values)
        total = self.counts @ there
        sums = self.counts @ np.where(there, values, 0.0)
        return np.divide(sums, total, out=np.full(len(total), math.nan), where=total > 0)

    def mean(self, values: Float[np.ndarray, " latent"]) -> dict[str, Any]:
        there = values[np.isfinite(values)]
        return _with_interval(_mean(there), self.means(values), len(there))


def _entry(
    ours: _Sample, paired: Mapping[str, _Sample], unpaired: Mapping[str, _Sample], id: str, where: str
) -> dict[str, Any]:
    values = ours.values(id, where)
    there = values[np.isfinite(values)]
    below, median, above = np.quantile(there, [0.25, 0.5, 0.75]).tolist() if len(there) else [None] * 3
    strata = np.array([density_stratum(own.density) for own in ours.scored], str)
    found = {}
    for name, floor in paired.items():
        own = floor.values(id, where)
        about = {"paired": True, "undefined": floor.undefined(id, where)}
        found[name] = floor.mean(own) | about | {"difference": ours.mean(values - own)}
    for name, floor in unpaired.items():
        own = floor.values(id, where)
        n = int(np.isfinite(own).sum())
        samples = ours.means(values) - floor.means(own)
        gap = _mean(there) - _mean(own[np.isfinite(own)]) if len(there) and n else math.nan
        difference = _with_interval(gap, samples, min(len(there), n))
        about = {"paired": False, "undefined": floor.undefined(id, where)}
        found[name] = floor.mean(own) | about | {"difference": difference}
    return ours.mean(values) | {
        "median": median,
        "quartiles": [below, above],
        "without_failures": ours.mean(ours.values(id, where, failures=False)),
        "undefined": ours.undefined(id, where),
        "by_density": {
            name: ours.mean(np.where(strata == name, values, math.nan))
            for name in DENSITY_STRATA
            if (strata[np.isfinite(values)] == name).any()
        },
        "floors": found,
    }


def _mean(values: Float[np.ndarray, " latent"]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _with_interval(value: float, samples: Float[np.ndarray, " resample"], n: int) -> dict[str, Any]:
    """With the interval over the resamples in which there is a value, if those are nearly all."""
    defined = samples[np.isfinite(samples)]
    ends = interval(defined) if n >= LEAST_LATENTS and len(defined) >= 0.9 * len(samples) else None
    return {"value": None if math.isnan(value) else value} | ({} if ends is None else {"ci95": list(ends)}) | {"n": n}


def _seed(seed: int, name: str) -> int:
    """Other latents would else be resampled as ours are."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "big")
