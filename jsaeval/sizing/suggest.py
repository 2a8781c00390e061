"""The fastest mesh and batch that fit a machine, and what would fit where none does."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

from jsaeval.errors import InputError
from jsaeval.run.batches import ACCELERATOR_TOKENS
from jsaeval.sizing.compiled import Compiled, compile_step
from jsaeval.sizing.estimate import USABLE, Estimate, estimate, weights
from jsaeval.sizing.machines import CHIPS, Machine
from jsaeval.sizing.step import Job


# So many sizes of the model axis are tried from the smallest on that fits.
TRIED = 3


def suggest(
    job: Job, machine: Machine, mesh: tuple[int | None, int] | None = None, rows: int | None = None
) -> Estimate:
    """The fastest of what fits.

    Args:
        job: what is measured.
        machine: where.
        mesh: (data, model), where it is given.
        rows: at a time, where they are given.

    Raises:
        InputError: nothing fits, and what would; or a mesh that the machine cannot form.
    """
    return _fastest_first(job, machine, mesh, rows)[0]


def checked(
    job: Job, machine: Machine, mesh: tuple[int | None, int] | None = None, rows: int | None = None
) -> tuple[Estimate, Compiled]:
    """The fastest of what fits by the estimate and by the TPU compiler, and what the compiler says.

    Args and errors are those of `suggest`.
    """
    for option in _fastest_first(job, machine, mesh, rows):
        compiled = compile_step(job, machine.name, option.data, option.model, option.rows)
        if compiled is not None:
            return option, compiled
    raise InputError(
        f"--topology {machine.name}: the TPU compiler needs more memory than there is; fewer SAEs at a time, "
        "--dtype bfloat16, a smaller --batch or a --mesh with more chips on the model axis need less"
    )


def _fastest_first(job: Job, machine: Machine, mesh: tuple[int | None, int] | None, rows: int | None) -> list[Estimate]:
    fitting = list(itertools.islice(options(job, machine, mesh, rows), TRIED))
    if not fitting:
        raise InputError(f"--topology {machine.name}: {_too_small(job, machine, mesh, rows)}")
    return sorted(fitting, key=lambda option: -option.tokens_per_s)


def options(
    job: Job, machine: Machine, mesh: tuple[int | None, int] | None = None, rows: int | None = None
) -> Iterator[Estimate]:
    """What fits, by the size of the model axis, from small to large.

    The batch is not searched: a device takes it in pieces of bounded size, so a smaller one saves next to nothing.
    """
    for model in models(machine, mesh):
        data = machine.chips // model
        if sum(weights(job, model).values()) > USABLE * machine.chip.memory:
            continue
        per_shard = max(1, ACCELERATOR_TOKENS // job.context) if rows is None else -(-rows // data)
        option = estimate(job, machine, model, per_shard * data)
        if option.fits:
            yield option


def models(machine: Machine, mesh: tuple[int | None, int] | None) -> list[int]:
    """Sizes of the model axis that may be tried.

    Raises:
        InputError: the mesh that was asked for does not have the chips of the machine.
    """
    divisors = [size for size in range(1, machine.chips + 1) if machine.chips % size == 0]
    if mesh is None:
        return divisors
    data, model = mesh
    if model not in divisors or data not in (None, machine.chips // model):
        possible = ", ".join(f"{machine.chips // size},{size}" for size in divisors)
        raise InputError(
            f"--mesh {data or 'all'},{model}: {machine.name} has {machine.chips} chips; {possible} would do"
        )
    return [model]


def _too_small(job: Job, machine: Machine, mesh: tuple[int | None, int] | None, rows: int | None) -> str:
    """Why a job does not fit, and the smallest changes that would let it."""
    least = min(
        (
            estimate(job, machine, model, machine.chips // model if rows is None else rows)
            for model in models(machine, mesh)
        ),
        key=lambda option: option.bytes_per_chip,
    )
    need, room = least.bytes_per_chip / 1e9, machine.chip.memory * USABLE / 1e9

    def fits(job: Job = job, machine: Machine = machine, mesh: tuple[int | None, int] | None = mesh) -> bool:
        return next(options(job, machine, mesh, rows), None) is not None

    ways = []
    if mesh is not None and fits(mesh=None):
        ways.append("another --mesh")
    if job.saes > 1 and (fewer := _largest(lambda n: fits(dataclasses.replace(job, saes=n)), job.saes - 1)):
        ways.append(f"{fewer} SAEs at a time")
    if job.dtype == "float32" and fits(dataclasses.replace(job, dtype="bfloat16")):
        ways.append("--dtype bfloat16")
    larger = (Machine(kind, shape) for kind, shape in _larger(machine))
    if mesh is None and (enough := next((other for other in larger if fits(machine=other)), None)):
        ways.append(f"--topology {enough.name}")
    return f"does not fit; {need:.1f} GB per chip are needed at the least, of {room:.1f} GB that can be used. " + (
        f"What would fit: {', or '.join(ways)}" if ways else "A shorter --context, or narrower SAEs, would help"
    )


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` for which something holds that holds for all smaller ones, or 0."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _larger(machine: Machine) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Larger arrangements of the same chip: its smallest side doubled, again and again."""
    shape = list(machine.shape)
    while True:
        shape[shape.index(min(shape))] *= 2
        larger = Machine(machine.kind, tuple(sorted(shape)))
        if larger.chips > CHIPS[machine.kind].most:
            return
        yield larger.kind, larger.shape
