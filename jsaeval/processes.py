"""One program on many hosts: start-up, agreement, and who writes.

Every process runs the same code on its own devices and feeds its own rows; the first one prints and writes. JAX's
runtime is the engine: it finds the other processes, moves what has to move, and notices who is gone.
"""

import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the key-value store of the runtime has no public door
from jax.experimental import multihost_utils

from jsaeval.errors import InputError, one_line


# Seconds without a sign of life after which a process counts as gone and the others end.
HEARTBEAT = 40
# Seconds that the others wait for an answer of the first one, which may be compiling.
ANSWER = 3600


def start(asked: str = "auto") -> None:
    """Find the other processes of this run, before anything touches a device. Does nothing where there are none.

    Args:
        asked: "off"; "COORDINATOR:PORT,COUNT,INDEX"; or "auto": as the launcher says, if there is one.

    Raises:
        InputError: `asked` is none of these, or the others do not answer.
    """
    if asked == "off":
        return
    given: dict[str, Any] = {}
    if asked != "auto":
        given = _explicit(asked)
    elif launcher() is None:
        return
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT, **given)
    except (RuntimeError, ValueError) as error:
        where = f"--processes {asked}" if given else f"started by {launcher()}"
        raise InputError(f"{where}: the processes do not find each other ({one_line(error)})") from None


def _explicit(asked: str) -> dict[str, Any]:
    address, *numbers = asked.split(",")
    if len(numbers) != 2 or ":" not in address or not all(number.isdigit() for number in numbers):
        raise InputError(f"--processes {asked!r}: auto, off, or COORDINATOR:PORT,COUNT,INDEX was expected")
    count, index = map(int, numbers)
    if index >= count:
        raise InputError(f"--processes {asked!r}: the index is one of 0..{count - 1}")
    return {"coordinator_address": address, "num_processes": count, "process_id": index}


def launcher() -> str | None:
    """What started this process as one of several, as far as the environment says; JAX asks it for the rest."""
    env = os.environ
    if int(env.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NODELIST" in env:  # of srun; sbatch alone starts one
        return "Slurm"
    if int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "Open MPI"
    if "," in env.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_COORDINATOR_ADDRESS" in env:
        return "GKE"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(env) and importlib.util.find_spec("kubernetes"):
        return "Kubernetes"
    chips = any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    if chips and importlib.util.find_spec("libtpu") is not None and env.get("JAX_PLATFORMS", "tpu").startswith("tpu"):
        return "Cloud TPU"
    return None


def count() -> int:
    return jax.process_count()


def is_first() -> bool:
    """Whether this process prints and writes."""
    return jax.process_index() == 0


def from_first(make: Callable[[], Any]) -> Any:
    """What the first process makes of something that only it may see (a folder, a clock), on all; JSON.

    Raises:
        InputError: the first process raised it, or an OSError.
    """
    if count() == 1:
        return make()
    content = b""
    if is_first():
        try:
            content = json.dumps({"value": make()}).encode()
        except (InputError, OSError) as error:
            content = json.dumps({"error": str(error)}).encode()
    found = json.loads(broadcast(content))
    if "error" in found:
        raise InputError(found["error"])
    return found["value"]


def broadcast(content: bytes) -> bytes:
    """The bytes of the first process, on all."""
    if count() == 1:
        return content
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    own = np.zeros(size, np.uint8)
    if is_first():
        own[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(own), np.uint8).tobytes()


def first_decides(question: str, answer: bool) -> bool:
    """The answer of the first process, on all; every question is asked once, by all. Does not wait for devices."""
    if count() == 1:
        return answer
    client = distributed.global_state.client
    assert client is not None
    if is_first():
        client.key_value_set(f"jsaeval/{question}", str(int(answer)))
        return answer
    return client.blocking_key_value_get(f"jsaeval/{question}", 1000 * ANSWER) == "1"


def agree(parts: Mapping[str, Any] | None) -> None:
    """Go on only if every process is about to do the same.

    Args:
        parts: what this process is about to do, by name, as JSON; None: it cannot (and has said why).

    Raises:
        InputError: another one is about to do something else, or cannot.
    """
    if count() == 1:
        return
    names = ("plan", "version", "LM", "text", "SAE", "how")
    digests = np.zeros((len(names), 32), np.uint8)
    if parts is not None:
        for digest, name in zip(digests, names, strict=True):
            content = json.dumps(parts.get(name), sort_keys=True).encode()
            digest[:] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
    found = np.asarray(multihost_utils.process_allgather(digests)).reshape(count(), len(names), 32)
    silent = [i for i, own in enumerate(found) if not own.any()]
    if parts is None:
        return
    if silent:
        raise InputError(f"process {silent[0]} of {count()} cannot start; it says why itself")
    for i, name in enumerate(names):
        for process in range(count()):
            if (found[process, i] != found[0, i]).any():
                raise InputError(f"process {process} of {count()} has another {name} than process 0; give all the same")


def missing(seconds: float = 10.0) -> list[int]:
    """Which processes are gone, asked by one that cannot reach another: all who are left find that out and sign in."""
    client = distributed.global_state.client
    assert client is not None
    gone, until = [], time.monotonic() + seconds
    try:
        client.key_value_set(f"jsaeval/left/{jax.process_index()}", "here")
        for process in range(count()):
            left = max(1, int(1000 * (until - time.monotonic())))
            try:
                client.blocking_key_value_get(f"jsaeval/left/{process}", left)
            except jax.errors.JaxRuntimeError:
                gone.append(process)
    except jax.errors.JaxRuntimeError:  # the first one keeps the register
        return [0]
    return gone
