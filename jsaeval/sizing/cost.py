"""What a traced program costs, counted from the program itself: FLOPs, memory traffic, collectives, working memory.

`count` walks the jaxpr of a function, so a change of the function is a change of the count. Inside `jax.shard_map`
shapes are those of one device, and so are the counts. What a compiler does is modelled coarsely: a run of elementwise
operations and views is one operation, whose result is written only if something else reads it; reductions of the same
arrays that need not wait for each other read them together; everything else reads its operands and writes its results
once; a result lives until it is read for the last time.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


@dataclass
class Cost:
    """Of one device.

    Attributes:
        flops: of matrix products, by (scope, dtype of the operands); other arithmetic is not counted.
        traffic: bytes read from and written to memory, by scope.
        wire: bytes that enter collectives, by (scope, kind, axis of the mesh).
        working: bytes of intermediate results that are alive at once, at most.
    """

    flops: Counter[tuple[str, str]] = field(default_factory=Counter)
    traffic: Counter[str] = field(default_factory=Counter)
    wire: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    working: float = 0.0

    def add(self, other: "Cost", times: int = 1) -> None:
        """Everything but the working memory of another cost, so many times."""
        for name in ("flops", "traffic", "wire"):
            own, new = getattr(self, name), getattr(other, name)
            own.update({key: value * times for key, value in new.items()})


def line(start: Cost, end: Cost, at: float) -> Cost:
    """The cost at a point of the straight line through two of them (0: start, 1: end), in every number."""

    def between(a: Counter, b: Counter) -> Counter:
        return Counter({key: round(a[key] + (b[key] - a[key]) * at) for key in {*a, *b}})

    return Cost(
        flops=between(start.flops, end.flops),
        traffic=between(start.traffic, end.traffic),
        wire=between(start.wire, end.wire),
        working=start.working + (end.working - start.working) * at,
    )


def count(function: Callable, *args: Any, trips: Mapping[str, int], scopes: Iterable[str]) -> Cost:
    """Cost of `function(*args)`, which is traced and not run.

    Args:
        function: a pure function of arrays.
        args: its arguments; `jax.ShapeDtypeStruct`s will do.
        trips: how often the `while` loops of a scope run, which a program does not say; the innermost scope counts, and
            without one a loop runs once.
        scopes: names (of `jax.named_scope`) to which costs are ascribed, the outermost first; "" is what is in none.
    """
    closed = jax.make_jaxpr(function)(*args)
    values = {var: Value.of(var) for var in (*closed.jaxpr.invars, *closed.jaxpr.constvars)}
    return _Counting(trips, tuple(scopes)).of(closed.jaxpr, values, "")


class Value:
    """An array of a program. Compared by identity."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype

    @classmethod
    def of(cls, var: Any) -> "Value":
        return cls(tuple(getattr(var.aval, "shape", ())), getattr(var.aval, "dtype", np.dtype("int8")))

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * getattr(self.dtype, "itemsize", 4)

    @property
    def whole(self) -> "frozenset[Read]":
        """It, once it is in memory."""
        return frozenset([Read(self, self.bytes)])


class Operation(NamedTuple):
    """One equation of a jaxpr, of those that are left when calls are written out."""

    name: str
    params: dict[str, Any]
    operands: list[Value]
    results: list[Value]
    scope: str


class Read(NamedTuple):
    """So many bytes of a value that is in memory."""

    source: Value
    bytes: int


CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
# Primitive → kind of collective.
COLLECTIVES: dict[str, str] = dict.fromkeys(["psum", "psum2", "psum_invariant", "pmax", "pmin"], "all-reduce")
COLLECTIVES |= {"all_gather": "all-gather", "all_gather_invariant": "all-gather", "reduce_scatter": "reduce-scatter"}
COLLECTIVES |= {"all_to_all": "all-to-all", "ppermute": "permute"}
VIEWS = {"reshape", "squeeze", "expand_dims", "transpose", "broadcast_in_dim", "pvary", "optimization_barrier", "copy"}
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"}
INSIDE = {"while", "scan", "cond", "shard_map"}
UNKNOWN = {"conv_general_dilated", "pallas_call", "custom_call", "ragged_dot", "ragged_dot_general"}
# What reads and writes memory by itself; all others are elementwise.
WHOLE = {"dot_general", "sort", "top_k", "gather", "scatter", "scatter-add", "cumsum"}
WHOLE |= {"concatenate", "dynamic_update_slice", "dynamic_slice", *INSIDE, *COLLECTIVES, *UNKNOWN}


class _Counting:
    def __init__(self, trips: Mapping[str, int], scopes: tuple[str, ...]) -> None:
        self.trips, self.scopes = trips, scopes
        # How many operations have to come before a value is there, and which values are read by reductions, and when.
        self.depth: dict[Value, int] = {}
        self.seen: set[tuple[Value, int]] = set()

    def of(self, jaxpr: Jaxpr, values: dict[Any, Value], stack: str) -> Cost:
        """Cost of a program whose inputs are `values`; they and nothing else are in memory before."""
        operations = list(_written_out(jaxpr, values, stack))
        outputs = [values[var] for var in jaxpr.outvars if not isinstance(var, Literal)]
        return self._memory(operations, set(values[v] for v in (*jaxpr.invars, *jaxpr.constvars)), outputs)

    def _memory(self, operations: list[Operation], inputs: set[Value], outputs: list[Value]) -> Cost:
        cost, kept = Cost(), set(outputs)
        for operation in operations:
            if operation.name in WHOLE:
                kept.update(operation.operands)
        sources: dict[Value, frozenset[Read]] = {value: value.whole for value in inputs}
        steps: list[tuple[set[Value], list[Value], float]] = []
        for operation in operations:
            reads = frozenset().union(*(sources.get(value, ()) for value in operation.operands))
            made, inner = self._operation(operation, reads, sources, kept, cost)
            used = {read.source for read in reads} if made or inner or operation.name in WHOLE else set()
            steps.append((used, made, inner))
        last = {value: index for index, (used, _, _) in enumerate(steps) for value in used}
        last |= dict.fromkeys((read.source for value in outputs for read in sources.get(value, ())), len(steps))
        alive = 0.0
        for index, (used, made, inner) in enumerate(steps):
            ends = {value for value in {*used, *made} if value not in inputs and last.get(value, index) == index}
            before = {read.source for value in _state(operations[index]) for read in sources.get(value, ())} & ends
            alive -= sum(value.bytes for value in before)  # a loop's state takes the place of what it starts from
            alive += sum(value.bytes for value in made)
            cost.working = max(cost.working, alive + inner)
            alive -= sum(value.bytes for value in ends - before)
        return cost

    def _operation(
        self,
        operation: Operation,
        reads: frozenset[Read],
        sources: dict[Value, frozenset[Read]],
        kept: set[Value],
        cost: Cost,
    ) -> tuple[list[Value], float]:
        """Add what an operation costs to `cost`; the values that it puts into memory, and what it needs meanwhile."""
        name, _, operands, results, stack = operation
        scope = self._scope(stack)
        if name in INSIDE:
            inner = self._inner(operation, cost)
            sources.update((value, value.whole) for value in results)
            return (results, inner) if name != "shard_map" else ([], inner)
        if name == "dynamic_slice":  # a part of what is there
            (result,) = results
            sources[result] = frozenset(
                Read(r.source, min(r.bytes, result.bytes)) for r in sources.get(operands[0], ())
            )
            return [], 0.0
        if name == "dynamic_update_slice":  # in place
            cost.traffic[scope] += 2 * operands[1].bytes
            there = sources.get(operands[0])
            sources[results[0]] = there or results[0].whole
            return [] if there else results, 0.0
        own = name in WHOLE or name in REDUCTIONS
        written = [value for value in results if own or (value in kept and name not in VIEWS)]
        if not written:
            sources.update((value, reads) for value in results)
            return [], 0.0
        if name in UNKNOWN:
            raise NotImplementedError(f"{name}: its cost is not known here")
        if name == "dot_general":
            cost.flops[scope, str(operands[0].dtype)] += _product(operation)
        if name in COLLECTIVES:
            axes: Any = operation.params.get("axes") or operation.params.get("axis_name")
            for axis in axes if isinstance(axes, tuple) else (axes,):
                cost.wire[scope, name, axis] += sum(value.bytes for value in operands)
        if name == "gather":
            cost.traffic[scope] += 2 * results[0].bytes
        else:
            depth = 1 + max((self.depth.get(read.source, 0) for read in reads), default=0)
            self.depth |= dict.fromkeys(written, depth)
            fresh = reads if name not in REDUCTIONS else {r for r in reads if (r.source, depth) not in self.seen}
            self.seen |= {(read.source, depth) for read in fresh} if name in REDUCTIONS else set()
            cost.traffic[scope] += sum(read.bytes for read in fresh) + sum(value.bytes for value in written)
        sources.update((value, value.whole if value in written else reads) for value in results)
        return written, 0.0

    def _inner(self, operation: Operation, cost: Cost) -> float:
        """Costs of what is inside a loop, a branch or a mapped function."""
        name, params, stack = operation.name, operation.params, operation.scope
        if name == "cond":
            options = [self._program(branch.jaxpr, stack) for branch in params["branches"]]
            worst = max(options, key=lambda option: option.traffic.total())
            cost.add(worst)
            return max(option.working for option in options)
        if name == "while":
            within = [part for part in reversed(stack.split("/")) if part in self.trips]
            body, times = params["body_jaxpr"].jaxpr, self.trips[within[0]] if within else 1
        elif name == "scan":
            body, times = params["jaxpr"].jaxpr, params["length"]
        else:
            body, times = params["jaxpr"], 1
        inner = self._program(body, stack)
        cost.add(inner, times)
        return inner.working

    def _program(self, jaxpr: Any, stack: str) -> Cost:
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        return self.of(jaxpr, {var: Value.of(var) for var in (*jaxpr.invars, *jaxpr.constvars)}, stack)

    def _scope(self, stack: str) -> str:
        parts = stack.split("/")
        return next((part for part in parts if part in self.scopes), "")


def _written_out(jaxpr: Jaxpr, values: dict[Any, Value], stack: str) -> Iterator[Operation]:
    """The operations of a program, with those of what it calls in their place."""
    for equation in jaxpr.eqns:
        name, own = equation.primitive.name, str(equation.source_info.name_stack)
        scope = f"{stack}/{own}" if own else stack
        operands = [Value.of(var) if isinstance(var, Literal) else values[var] for var in equation.invars]
        if name in CALLS:
            called = next(v for v in equation.params.values() if isinstance(v, (ClosedJaxpr, Jaxpr)))
            called = called.jaxpr if isinstance(called, ClosedJaxpr) else called
            inner = {var: Value.of(var) for var in called.constvars} | dict(zip(called.invars, operands, strict=True))
            yield from _written_out(called, inner, scope)
            for outer, var in zip(equation.outvars, called.outvars, strict=True):
                values[outer] = Value.of(outer) if isinstance(var, Literal) else inner[var]
            continue
        results = [Value.of(var) for var in equation.outvars]
        values.update(zip(equation.outvars, results, strict=True))
        yield Operation(name, equation.params, operands, results, scope)


def _state(operation: Operation) -> list[Value]:
    """What a loop starts from and carries on."""
    params, operands = operation.params, operation.operands
    if operation.name == "while":
        carried = operands[params["cond_nconsts"] + params["body_nconsts"] :]
    elif operation.name == "scan":
        carried = operands[params["num_consts"] : params["num_consts"] + params["num_carry"]]
    else:
        carried = []
    return carried


def _product(operation: Operation) -> int:
    (contracted, _), _ = operation.params["dimension_numbers"]
    left = operation.operands[0].shape
    return 2 * math.prod(operation.results[0].shape) * math.prod(left[axis] for axis in contracted)
