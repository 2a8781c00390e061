"""Machines that a run may be sized for: what a chip holds and moves, and how many there are.

Figures are the makers': the Cloud TPU documentation (v5e, v5p, v6e) and NVIDIA's data sheet of the H100 SXM (dense).
Peak rates are of bfloat16 products; nobody reaches them.
"""

import math
import re
from dataclasses import dataclass

from jsaeval.errors import InputError, nearest


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        memory: bytes.
        rate: FLOP/s of products of bfloat16 numbers.
        slower: how many times longer products of float32 numbers take, by precision.
        bandwidth: bytes/s from and to its memory.
        link: bytes/s that it sends along one axis of the torus; on a host of GPUs, to all the others.
        dimensions: of the torus; 1 where all chips of a host see each other.
        most: chips in the largest slice; in one host, for GPUs.
    """

    memory: float
    rate: float
    slower: dict[str, float]
    bandwidth: float
    link: float
    dimensions: int
    most: int


# A product of float32 numbers at the highest precision is six of bfloat16 numbers on a TPU's matrix unit, and leaves
# the tensor cores of a GPU; at the default precision it is one, or one of TF32.
_TPU = {"highest": 6.0, "default": 1.0}
CHIPS = {
    "v5e": Chip(16e9, 197e12, _TPU, 819e9, 1600e9 / 8 / 2, 2, 256),
    "v5p": Chip(95e9, 459e12, _TPU, 2765e9, 4800e9 / 8 / 3, 3, 6144),
    "v6e": Chip(32e9, 918e12, _TPU, 1640e9, 3584e9 / 8 / 2, 2, 256),
    "h100": Chip(80e9, 989e12, {"highest": 989 / 67, "default": 2.0}, 3350e9, 450e9, 1, 8),
}


@dataclass(frozen=True)
class Machine:
    """So many chips of a kind, as libtpu names them: `v5e:4x4`."""

    kind: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def is_tpu(self) -> bool:
        return self.chip.slower is _TPU


def machine(name: str) -> Machine:
    """A machine by its name.

    Raises:
        InputError: no such chip, or no such arrangement of it.
    """
    kind, _, arrangement = name.partition(":")
    if kind not in CHIPS:
        raise InputError(f"--topology {name!r}: no such chip{nearest(kind, CHIPS)}")
    chip = CHIPS[kind]
    examples = {1: f"{kind}:8", 2: f"{kind}:4x4 or {kind}:16x16", 3: f"{kind}:4x4x4"}
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (chip.dimensions - 1), arrangement):
        raise InputError(f"--topology {name!r}: {kind} was expected as {examples[chip.dimensions]}")
    found = Machine(kind, tuple(map(int, arrangement.split("x"))))
    if found.chips > chip.most:
        raise InputError(f"--topology {name!r}: {found.chips} chips; {kind} comes with at most {chip.most} of them")
    return found
