"""The step through the TPU compiler, where libtpu is installed: no TPU is needed."""

import importlib.util
import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from jsaeval.errors import InputError, one_line
from jsaeval.mesh import make_mesh
from jsaeval.sizing.step import Job, step_of


# libtpu looks for no TPU then, asks no metadata server, and disturbs none that another process uses.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


# A shape may be a tuple, with blanks in it.
_COLLECTIVE = re.compile(
    r"= (.+?) (all-reduce|all-gather|all-to-all|ragged-all-to-all|reduce-scatter|collective-permute"
    r"|collective-broadcast)(?:-start)?\("
)


@dataclass(frozen=True)
class Compiled:
    """What the compiler says, per chip, in bytes.

    Attributes:
        arguments: weights and a batch.
        working: everything that exists for a while, results included.
        collectives: how many of each kind are in the program, loops counted once.
        gathered: shapes of what all-gathers, all-to-alls and permutes move.
    """

    arguments: int
    working: int
    collectives: dict[str, int]
    gathered: tuple[str, ...]


def compiler_is_installed() -> bool:
    """Whether libtpu is."""
    return importlib.util.find_spec("libtpu") is not None


def compile_step(job: Job, topology: str, data: int, model: int, rows: int) -> Compiled | None:
    """Compile a step for a slice; None where the program does not fit into the memory of a chip.

    Args:
        job: what is measured.
        topology: as libtpu names it.
        data, model: the mesh.
        rows: at a time, on all chips.

    Raises:
        InputError: libtpu does not know the topology.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ |= _ENVIRONMENT
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise InputError(f"--topology {topology}: libtpu refuses it ({one_line(error)})") from None
    step = step_of(job, make_mesh(data, model, list(devices)), rows)
    try:
        compiled = jax.jit(step.function).lower(*step.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    memory: Any = compiled.memory_analysis()
    counts, gathered = collectives_in(compiled.as_text() or "")
    working = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return Compiled(memory.argument_size_in_bytes, working, counts, gathered)


def collectives_in(hlo: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """How many collectives of each kind are in a program, and the shapes in those that are no all-reduce."""
    counts, gathered = Counter(), set()
    for shape, kind in _COLLECTIVE.findall(hlo):
        counts[kind] += 1
        if kind != "all-reduce":
            gathered.add(shape)
    return dict(counts), tuple(sorted(gathered))
