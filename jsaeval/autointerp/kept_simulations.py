"""Simulations by a host LM on disk, as they are made: a run that was stopped makes none of them again."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jsaeval.autointerp.evidence import SIMULATED, Evidence
from jsaeval.autointerp.explanation import LEVELS, Explanation, Simulation, Simulator
from jsaeval.autointerp.kept import digest_of
from jsaeval.cache import HARMED, atomic


@dataclass(frozen=True)
class KeptSimulator:
    """A simulator that gives levels, and whose simulations are kept in a folder, by all that they depend on.

    Attributes:
        simulator: makes those that are not there.
        folder: where they are.
        about: what else tells them from others: the LM that simulates, and how.
        at_once: pairs that the simulator gets at once; what it was given last is lost when it is stopped.
    """

    simulator: Simulator
    folder: Path
    about: tuple[str, ...]
    at_once: int = 1

    def simulate(self, pairs: Sequence[tuple[Explanation, Evidence]]) -> list[Simulation]:
        paths = [self.folder / f"{self._key(*pair)}.npz" for pair in pairs]
        found = [_read(path, own) for path, (_, own) in zip(paths, pairs, strict=True)]
        missing = [i for i, own in enumerate(found) if own is None]
        for first in range(0, len(missing), self.at_once):
            part = missing[first : first + self.at_once]
            for i, own in zip(part, self.simulator.simulate([pairs[i] for i in part]), strict=True):
                found[i] = own
                if own.error is None:
                    _write(paths[i], own)
        return [own for own in found if own is not None]

    def _key(self, explanation: Explanation, evidence: Evidence) -> str:
        """Of everything that a simulator may look at."""
        failed = explanation.error, evidence.problem
        tokens = (own.tokens for split in SIMULATED for own in evidence.examples[split])
        sizes = [len(evidence.examples[split]) for split in SIMULATED]
        return digest_of(itertools.chain(self.about, failed, [explanation.text], sizes, tokens))


def _write(path: Path, simulation: Simulation) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert simulation.levels is not None
    arrays = {"mass": np.array(np.nan if simulation.mass is None else simulation.mass), "highest": simulation.highest}
    for split in SIMULATED:
        arrays[f"values_{split}"] = np.concatenate([*simulation.values[split], np.zeros(0)])
        arrays[f"levels_{split}"] = np.concatenate([*simulation.levels[split], np.zeros((0, LEVELS))])
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _read(path: Path, evidence: Evidence) -> Simulation | None:
    """None where there is none, or what is there was harmed."""
    values, levels = {}, {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            mass, highest = float(arrays["mass"]), int(arrays["highest"])
            for split in SIMULATED:
                ends = np.cumsum([len(own.tokens) for own in evidence.examples[split]])
                for kind, into, shape in (("values", values, ()), ("levels", levels, (LEVELS,))):
                    array = arrays[f"{kind}_{split}"]
                    if array.shape != (int(ends[-1]) if len(ends) else 0, *shape):
                        raise ValueError("the array of other examples")
                    into[split] = np.split(array, ends)[:-1]
    except FileNotFoundError:
        return None
    except HARMED:
        path.unlink(missing_ok=True)
        return None
    return Simulation(values, levels, None if np.isnan(mass) else mass, highest=highest)
