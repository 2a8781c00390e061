"""Counts of programs that can be counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from jsaeval.sizing.cost import count
from jsaeval.sizing.step import abstract_mesh


N = 64
SQUARE = jax.ShapeDtypeStruct((N, N), jnp.float32)
BYTES = 4 * N * N


def counted(function, *args, trips=None, scopes=()):
    return count(function, *args, trips=trips or {}, scopes=scopes)


def test_a_product():
    cost = counted(lambda a, b: a @ b, SQUARE, SQUARE)
    assert cost.flops == {("", "float32"): 2 * N**3}
    assert cost.traffic.total() == 3 * BYTES and cost.working == BYTES


def test_elementwise_operations_are_one():
    """Inside calls, too: `jnp.where` is a function of its own in a jaxpr."""
    busy = counted(lambda a, b: a @ jnp.where(b > 0, jnp.tanh(b.T.reshape(N, N)) * 2 + b, b), SQUARE, SQUARE)
    assert busy.flops == {("", "float32"): 2 * N**3}
    # b is read once and the factor written once, for the product to read.
    assert busy.traffic.total() == 2 * BYTES + 3 * BYTES and busy.working == 2 * BYTES


def test_reductions_read_together():
    """Sum and maximum in one go; what needs the sum, in another."""
    small = 4 * N

    def reduced(a):
        total = a.sum(axis=0)
        return total, a.max(axis=0), (a / total[None]).sum(axis=0)

    assert counted(reduced, SQUARE).traffic.total() == 2 * BYTES + 4 * small


def test_results_live_until_they_are_read():
    def chain(a):
        for _ in range(5):
            a = a @ a
        return a

    def together(a):
        return sum(a @ (a + i) for i in range(5))

    assert counted(chain, SQUARE).working == 2 * BYTES
    assert counted(together, SQUARE).working >= 5 * BYTES


def test_loops_count_as_often_as_they_run():
    def step(a):
        with jax.named_scope("scanned"):
            a, _ = lax.scan(lambda c, _: (c @ c, None), a, length=7)
        with jax.named_scope("outer"), jax.named_scope("unknown"):
            return lax.while_loop(lambda c: c.sum() < 0, lambda c: c @ c, a)

    cost = counted(step, SQUARE, trips={"unknown": 11}, scopes=("scanned", "unknown"))
    assert cost.flops == {("scanned", "float32"): 7 * 2 * N**3, ("unknown", "float32"): 11 * 2 * N**3}
    assert counted(step, SQUARE).flops.total() == 8 * 2 * N**3


def test_a_loop_carries_its_state_in_place():
    once = counted(lambda a: lax.fori_loop(0, 100, lambda i, c: c @ a, a @ a), SQUARE)
    assert once.working == 2 * BYTES + 8  # and two counters


def test_the_dearer_branch_counts():
    cost = counted(lambda a: lax.cond(a.sum() > 0, lambda a: a @ a @ a, lambda a: a, a), SQUARE)
    assert cost.flops.total() == 2 * 2 * N**3


@pytest.mark.parametrize("axis", ["data", "model"])
def test_collectives_by_axis(axis):
    mesh = abstract_mesh(2, 4)

    def local(a):
        return lax.psum(a @ a.T, axis), lax.pmax(a.sum(), axis)

    both = P(*(None if name == axis else name for name in ("data", "model")))
    run = jax.shard_map(local, mesh=mesh, in_specs=P("data", "model"), out_specs=(both, P()), check_vma=False)
    cost = counted(run, jax.ShapeDtypeStruct((2 * 8, 4 * 16), jnp.float32))
    assert cost.flops.total() == 2 * 8 * 8 * 16  # of one device
    assert {(kind, own): size for (_, kind, own), size in cost.wire.items()} == {
        ("psum", axis): 4 * 8 * 8,
        ("pmax", axis): 4,
    }


def test_dtypes_are_told_apart():
    half = jax.ShapeDtypeStruct((N, N), jnp.bfloat16)
    cost = counted(lambda a, b: (a @ a).astype(jnp.float32) @ b, half, SQUARE)
    assert cost.flops == {("", "bfloat16"): 2 * N**3, ("", "float32"): 2 * N**3}
