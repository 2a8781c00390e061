"""Machines that a run may be sized for: what a chip holds and moves, and how many there are.

Figures are the makers': the Cloud TPU documentation (v5e, v5p, v6e) and NVIDIA's data sheet of the H100 SXM (dense).
Peak rates are of bfloat16 products; nobody reaches them.
"""

import math
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
        link: bytes/s that it sends along one axis of the torus, in both directions; half where the axis has no
            wrap-around or only two chips. On a host of GPUs, to all the others.
        slices: what can be had, from small to large, as numbers of chips along each axis of the torus.
    """

    memory: float
    rate: float
    slower: dict[str, float]
    bandwidth: float
    link: float
    slices: tuple[tuple[int, ...], ...]


_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16))
_CUBES += ((8, 16, 16), (16, 16, 16), (16, 16, 24))
_HOST = ((1,), (2,), (4,), (8,))
# A product of float32 numbers at the highest precision is six of bfloat16 numbers on a TPU's matrix unit, and leaves
# the tensor cores of a GPU; at the default precision it is one, or one of TF32.
_TPU = {"highest": 6.0, "default": 1.0}
CHIPS = {
    "v5e": Chip(16e9, 197e12, _TPU, 819e9, 1600e9 / 8 / 2, _FLAT),
    "v5p": Chip(95e9, 459e12, _TPU, 2765e9, 4800e9 / 8 / 3, _CUBES),
    "v6e": Chip(32e9, 918e12, _TPU, 1638e9, 800e9 / 2 / 2, _FLAT),
    "h100": Chip(80e9, 989e12, {"highest": 989 / 67, "default": 2.0}, 3350e9, 450e9, _HOST),
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
    kind = name.partition(":")[0]
    if kind not in CHIPS:
        raise InputError(f"--topology {name!r}: no such chip{nearest(kind, CHIPS)}")
    slices = [Machine(kind, shape) for shape in CHIPS[kind].slices]
    found = next((machine for machine in slices if machine.name == name), None)
    if found is None:
        raise InputError(f"--topology {name!r}: {kind} comes as {', '.join(machine.name for machine in slices)}")
    return found
