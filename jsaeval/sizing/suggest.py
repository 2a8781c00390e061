"""The fastest mesh and batch that fit a machine, and what would fit where none does."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

from jsaeval.errors import InputError
from jsaeval.run.batches import default_batch
from jsaeval.sizing.compiled import Compiled, compile_step
from jsaeval.sizing.estimate import USABLE, Estimate, estimate, weights
from jsaeval.sizing.machines import Machine
from jsaeval.sizing.step import Job, abstract_mesh


# So many sizes of the model axis are compared, from the smallest on that fits: larger ones only add traffic.
COMPARED = 3

MeshShape = tuple[int | None, int]


def suggest(job: Job, machine: Machine, mesh: MeshShape | None = None, rows: int | None = None) -> Estimate:
    """The fastest of what fits.

    Args:
        job: what is measured.
        machine: where.
        mesh: (data, model), where it is given.
        rows: at a time, where they are given.

    Raises:
        InputError: nothing fits, and what would; or a mesh that the machine cannot form.
    """
    return next(_fastest_first(job, machine, mesh, rows))


def checked(
    job: Job, machine: Machine, mesh: MeshShape | None = None, rows: int | None = None
) -> tuple[Estimate, Compiled]:
    """The fastest of what fits by the estimate and by the TPU compiler, and what the compiler says.

    Args and errors are those of `suggest`.
    """
    for option in _fastest_first(job, machine, mesh, rows):
        plain = dataclasses.replace(job, controls=False)
        compiled = compile_step(plain, machine.name, option.data, option.model, option.rows)
        if compiled is not None:
            return option, compiled
    raise InputError(
        f"--topology {machine.name}: the TPU compiler needs more memory than there is; fewer SAEs at a time, "
        "--dtype bfloat16 or more chips need less of each"
    )


def _fastest_first(job: Job, machine: Machine, mesh: MeshShape | None, rows: int | None) -> Iterator[Estimate]:
    fitting = options(job, machine, mesh, rows)
    first = list(itertools.islice(fitting, COMPARED))
    if not first:
        raise InputError(f"--topology {machine.name}: {_too_small(job, machine, mesh, rows)}")
    yield from sorted(first, key=lambda option: -option.tokens_per_s)
    yield from fitting


def options(job: Job, machine: Machine, mesh: MeshShape | None = None, rows: int | None = None) -> Iterator[Estimate]:
    """What fits, by the size of the model axis, from small to large.

    The batch is not searched: a device takes it in pieces of bounded size, so a smaller one saves next to nothing.
    """
    for model in models(machine, mesh):
        data = machine.chips // model
        if mesh is None and rows is not None and data > rows:
            continue  # chips that would have nothing to do
        if sum(weights(job, model).values()) > USABLE * machine.chip.memory:
            continue
        option = estimate(job, machine, model, rows or default_batch(job.context, abstract_mesh(data, model)))
        if option.fits:
            yield option


def models(machine: Machine, mesh: MeshShape | None) -> list[int]:
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
        raise InputError(f"--mesh {data},{model}: {machine.name} has {machine.chips} chips; {possible} would do")
    return [model]


def _too_small(job: Job, machine: Machine, mesh: MeshShape | None, rows: int | None) -> str:
    """Why a job does not fit, and the smallest changes that would let it."""
    model = min(models(machine, mesh), key=lambda size: sum(weights(job, size).values()))
    least = estimate(job, machine, model, rows or machine.chips // model)
    need, room = least.bytes_per_chip / 1e9, machine.chip.memory * USABLE / 1e9

    def fits(
        job: Job = job, machine: Machine = machine, mesh: MeshShape | None = mesh, rows: int | None = rows
    ) -> bool:
        return next(options(job, machine, mesh, rows), None) is not None

    ways = []
    if mesh is not None and fits(mesh=None):
        ways.append("another --mesh")
    if rows is not None and fits(rows=None):
        ways.append("a smaller --batch")
    if job.controls and fits(dataclasses.replace(job, controls=False)):
        ways.append("--no-controls")
    if job.dtype == "float32" and fits(dataclasses.replace(job, dtype="bfloat16")):
        ways.append("--dtype bfloat16")
    if job.saes > 1 and (fewer := _largest(lambda n: fits(dataclasses.replace(job, saes=n)), job.saes - 1)):
        ways.append(f"{fewer} SAE{'s' * (fewer > 1)} at a time")
    larger = (Machine(machine.kind, shape) for shape in machine.chip.slices)
    larger = (other for other in larger if other.chips > machine.chips)
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
