"""What a step needs on a machine: memory per chip, FLOPs, what crosses between chips, and the time at best.

Times are a roofline: the longest of computing, reading memory and moving between chips, each at the maker's peak. They
are bounds from below, not forecasts.
"""

import dataclasses
import math
from dataclasses import dataclass

from jsaeval.mesh import DATA, MODEL
from jsaeval.sizing.cost import Cost
from jsaeval.sizing.machines import Machine
from jsaeval.sizing.step import Job, abstract_mesh, share_bytes, step_cost, step_of


# Of a chip's memory. The rest is for the runtime, and for what a compiler needs beyond the estimate.
USABLE = 0.85


@dataclass(frozen=True)
class Estimate:
    """Needs of a job on a machine with one mesh and batch.

    Attributes:
        job, machine: what, where.
        data, model: the mesh.
        rows: at a time, on all chips.
        memory: bytes per chip by kind.
        cost: of one chip and step.
    """

    job: Job
    machine: Machine
    data: int
    model: int
    rows: int
    memory: dict[str, int]
    cost: Cost

    @property
    def tokens_per_step(self) -> int:
        return self.rows * self.job.context

    @property
    def tokens_per_shard(self) -> int:
        return self.tokens_per_step // self.data

    @property
    def bytes_per_chip(self) -> int:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.bytes_per_chip <= self.machine.chip.memory * USABLE

    @property
    def flops_per_chip(self) -> float:
        return float(sum(self.cost.flops.values()))

    def flops_per_token(self) -> dict[str, float]:
        """By part of the step, over all chips that share a token."""
        parts: dict[str, float] = {}
        for (scope, _), flops in self.cost.flops.items():
            parts[scope] = parts.get(scope, 0.0) + flops * self.model / self.tokens_per_shard
        return parts

    def sent(self) -> dict[tuple[str, str, str], float]:
        """Bytes that a chip sends in a step, by (part, kind of collective, axis of the mesh).

        Of S bytes in an all-reduce, each of m chips in a ring sends 2 S (m − 1) / m; in another collective, half.
        """
        out = {}
        for (scope, kind, axis), size in self.cost.wire.items():
            chips = {DATA: self.data, MODEL: self.model}[axis]
            name, rounds = ("all-reduce", 2) if kind in ("psum", "psum_invariant", "pmax", "pmin") else (kind, 1)
            if chips > 1:
                key = scope, name, axis
                out[key] = out.get(key, 0.0) + rounds * size * (chips - 1) / chips
        return out

    @property
    def seconds(self) -> dict[str, float]:
        """Of a step, by what limits it."""
        chip, slow = self.machine.chip, self.machine.chip.slower[self.job.precision]
        work = sum(flops * (slow if dtype == "float32" else 1) for (_, dtype), flops in self.cost.flops.items())
        return {
            "computing": work / chip.rate,
            "memory": self.cost.traffic.total() / chip.bandwidth,
            "links": sum(self.sent().values()) / chip.link,
        }

    @property
    def limit(self) -> str:
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / max(self.seconds.values())

    @property
    def intensity(self) -> float:
        """FLOPs per byte of memory traffic."""
        return self.flops_per_chip / self.cost.traffic.total()

    def hours(self, tokens: int) -> float:
        """For so many tokens, in whole steps."""
        return math.ceil(tokens / self.tokens_per_step) * max(self.seconds.values()) / 3600


def estimate(job: Job, machine: Machine, model: int, rows: int) -> Estimate:
    """Needs when groups of `model` chips share the weights, with so many rows at a time on all chips together."""
    data = machine.chips // model
    rows = -(-rows // data) * data
    cost = step_cost(job, model, rows // data)
    batch = rows // data * job.context * 7  # an id of 4 bytes and three masks of 1 a token
    memory = weights(job, model) | {"batch": batch, "working memory": round(cost.working)}
    return Estimate(job, machine, data, model, rows, memory, cost)


def weights(job: Job, model: int) -> dict[str, int]:
    """Bytes of weights per chip."""
    mesh = abstract_mesh(1, model)
    one = step_of(dataclasses.replace(job, saes=1, controls=False), mesh, 1)
    return {"LM": share_bytes(one.lm, mesh), "SAEs": job.saes * share_bytes(one.saes, mesh)}
