"""Kept simulations come back bit by bit, and only where nothing that a simulator may look at has changed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from jsaeval.autointerp.evidence import Evidence
from jsaeval.autointerp.explanation import Explanation, Simulation
from jsaeval.autointerp.host import HostSimulator
from jsaeval.autointerp.kept_simulations import KeptSimulator
from jsaeval.mesh import make_mesh
from tests.autointerp.made_windows import evidence, example
from tests.autointerp.test_host import WHAT, host, some
from tests.autointerp.test_host_prompt import tiny


class Counting:
    """A simulator that knows what it was asked, and stops where it is told to."""

    def __init__(self, simulator: HostSimulator, most: int = 99):
        self.simulator, self.most, self.asked = simulator, most, []

    def simulate(self, pairs: Sequence[tuple[Explanation, Evidence]]) -> list[Simulation]:
        if len(self.asked) + len(pairs) > self.most:
            raise KeyboardInterrupt
        self.asked += [explanation.text for explanation, _ in pairs]
        return self.simulator.simulate(pairs)


@pytest.fixture(scope="module")
def simulator():
    return HostSimulator(host(), tiny(), mesh=make_mesh(1))


def same(one: Simulation, other: Simulation) -> None:
    assert one.mass == other.mass and one.highest == other.highest and one.error == other.error
    for field in ("values", "levels"):
        for split in ("calibrate", "score"):
            pairs = zip(getattr(one, field)[split], getattr(other, field)[split], strict=True)
            assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() and a.shape == b.shape for a, b in pairs)


def texts(*words: str) -> list[tuple[Explanation, Evidence]]:
    return [(dataclasses.replace(WHAT, text=word), some()) for word in words]


def test_nothing_is_simulated_twice(simulator, tmp_path):
    plain = simulator.simulate(texts("one", "two", "three"))
    with pytest.raises(KeyboardInterrupt):
        KeptSimulator(Counting(simulator, most=2), tmp_path, ("lm",)).simulate(texts("one", "two", "three"))
    went_on = Counting(simulator)
    found = KeptSimulator(went_on, tmp_path, ("lm",)).simulate(texts("one", "two", "three"))
    assert went_on.asked == ["three"]
    for one, other in zip(plain, found, strict=True):
        same(one, other)
    KeptSimulator(went_on, tmp_path, ("another lm",)).simulate(texts("one"))
    assert went_on.asked == ["three", "one"]


def test_several_at_once_and_failures(simulator, tmp_path):
    counting = Counting(simulator)
    kept = KeptSimulator(counting, tmp_path, (), at_once=2)
    failed = (dataclasses.replace(WHAT, text="", error="refused"), some())
    for _ in range(2):
        found = kept.simulate([*texts("one"), failed, *texts("two")])
        assert [own.error for own in found] == [None, "refused", None]
    assert counting.asked == ["one", "", "two", ""]  # what failed is asked again


def test_no_examples_in_a_split(simulator, tmp_path):
    nothing = evidence([], some().of("score"))
    kept = KeptSimulator(simulator, tmp_path, ())
    made, read = (kept.simulate([(WHAT, nothing)])[0] for _ in range(2))
    same(made, read)
    assert read.values["calibrate"] == []


@pytest.mark.parametrize("change", ["tokens", "split"])
def test_other_tokens(change, simulator, tmp_path):
    kept = KeptSimulator(counting := Counting(simulator), tmp_path, ())
    kept.simulate([(WHAT, some())])
    examples = dict(some().examples)
    if change == "tokens":
        first, *rest = examples["score"]
        examples["score"] = (example(first.activations, tokens=first.tokens[::-1].copy()), *rest)
    else:
        examples |= {"calibrate": examples["score"], "score": examples["calibrate"]}
    kept.simulate([(WHAT, dataclasses.replace(some(), examples=examples))])
    assert len(counting.asked) == 2


@pytest.mark.parametrize("harm", ["empty", "cut", "other", "compression"])
def test_what_was_harmed_is_simulated_again(harm, simulator, tmp_path):
    kept = KeptSimulator(counting := Counting(simulator), tmp_path, ())
    (plain,) = kept.simulate([(WHAT, some())])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if harm == "other":
        np.savez(path, mass=0.0, highest=10, values_score=np.zeros(3))
    elif harm == "compression":
        at = whole.index(b"PK\x01\x02") + 10  # the method of the first member, in the directory at the end
        path.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    else:
        path.write_bytes(whole[: len(whole) // 2] if harm == "cut" else b"")
    for _ in range(2):
        same(plain, kept.simulate([(WHAT, some())])[0])
    assert len(counting.asked) == 2
