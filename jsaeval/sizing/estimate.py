"""What a step needs on a machine: memory per chip, FLOPs, what crosses between chips, and the time at best.

Times are a roofline: the longest of computing, reading memory and moving between chips, each at the maker's peak. They
are bounds from below, not forecasts.
"""

import dataclasses
import math
from dataclasses import dataclass

from jsaeval.mesh import DATA, MODEL
from jsaeval.run.batches import control_batch
from jsaeval.sizing.cost import COLLECTIVES, Cost
from jsaeval.sizing.machines import Machine
from jsaeval.sizing.step import Job, abstract_mesh, share_bytes, step_cost, step_of


# Of a chip's memory. The rest is for the runtime, and for what a compiler needs beyond the estimate.
USABLE = 0.85
# What a chip sends in a ring of m chips per byte that enters a collective.
_SENT = {
    "all-reduce": lambda m: 2 * (m - 1) / m,
    "all-gather": lambda m: m - 1,
    "reduce-scatter": lambda m: (m - 1) / m,
    "all-to-all": lambda m: (m - 1) / m,
    "permute": lambda m: 1,
}


@dataclass(frozen=True)
class Estimate:
    """Needs of a job on a machine with one mesh and batch.

    Attributes:
        job, machine: what, where.
        data, model: the mesh.
        rows: at a time, on all chips.
        memory: bytes per chip by kind.
        control_memory: the same on the leading rows, where the controls run; None without controls.
        cost: of one chip and step, without controls.
    """

    job: Job
    machine: Machine
    data: int
    model: int
    rows: int
    memory: dict[str, int]
    control_memory: dict[str, int] | None
    cost: Cost

    @property
    def tokens_per_step(self) -> int:
        return self.rows * self.job.context

    @property
    def tokens_per_shard(self) -> int:
        """Of the fullest one; the others are padded to it."""
        return -(-self.rows // self.data) * self.job.context

    @property
    def bytes_per_chip(self) -> int:
        return max(sum(memory.values()) for memory in (self.memory, self.control_memory or {}))

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
        """Bytes that a chip sends in a step, by (part, kind of collective, axis of the mesh)."""
        out = {}
        for (scope, primitive, axis), size in self.cost.wire.items():
            kind, chips = COLLECTIVES[primitive], {DATA: self.data, MODEL: self.model}[axis]
            if chips > 1:
                key = scope, kind, axis
                out[key] = out.get(key, 0.0) + size * _SENT[kind](chips)
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

    @property
    def balance(self) -> float:
        """The intensity at which this chip, with this dtype and precision, computes as long as it reads."""
        return self.flops_per_chip / self.seconds["computing"] / self.machine.chip.bandwidth

    def hours(self, tokens: int) -> float:
        """For so many tokens, in whole steps."""
        return math.ceil(tokens / self.tokens_per_step) * max(self.seconds.values()) / 3600


def estimate(job: Job, machine: Machine, model: int, rows: int) -> Estimate:
    """Needs when groups of `model` chips share the weights, with so many rows at a time on all chips together."""
    data, plain = machine.chips // model, dataclasses.replace(job, controls=False)
    per_shard = -(-rows // data)
    cost = step_cost(plain, model, per_shard)
    memory = weights(job, model) | _batch(job, per_shard, cost)
    control_memory = None
    if job.controls:
        own = -(-control_batch(rows, job.saes) // data)
        control_memory = memory | _batch(job, own, step_cost(job, model, own))
        memory = {kind: size for kind, size in memory.items() if kind != "controls"}
    return Estimate(job, machine, data, model, rows, memory, control_memory, cost)


def _batch(job: Job, per_shard: int, cost: Cost) -> dict[str, int]:
    # An id of 4 bytes and three masks of 1 a token.
    return {"batch": 7 * per_shard * job.context, "working memory": round(cost.working)}


def weights(job: Job, model: int) -> dict[str, int]:
    """Bytes of weights per chip."""
    mesh = abstract_mesh(1, model)
    one = step_of(dataclasses.replace(job, saes=1), mesh, 1)
    found = {"LM": share_bytes(one.lm, mesh), "SAEs": job.saes * share_bytes(one.saes, mesh)}
    return found | ({"controls": job.saes * share_bytes(one.controls, mesh)} if job.controls else {})
