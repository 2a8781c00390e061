"""What a step needs, against hand counts and against compiled programs; and the mesh and batch that are suggested."""

import dataclasses

import jax
import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.hooks import parse_hook
from jsaeval.lm.shapes import SHAPES, shape_of
from jsaeval.mesh import make_mesh
from jsaeval.sizing import step as step_module
from jsaeval.sizing.cost import line
from jsaeval.sizing.estimate import USABLE, estimate
from jsaeval.sizing.machines import CHIPS, machine
from jsaeval.sizing.step import Job, step_of
from jsaeval.sizing.suggest import suggest
from tests.tiny import CONFIG


GEMMA = Job(shape_of("gemma-2-2b"), parse_hook("blocks.12.hook_resid_post"), context=1024, dtype="bfloat16")


def test_flops_of_a_step_by_hand():
    """Twice the parameters that a token meets, and attention over all positions of its row."""
    saes, lm = 3, GEMMA.lm
    found = estimate(dataclasses.replace(GEMMA, saes=saes), machine("v5e:4x4"), model=1, rows=16).flops_per_token()
    heads = lm.d_head * 2 * (lm.n_heads + lm.n_kv_heads)
    block = 2 * lm.d_model * (heads + 3 * lm.d_mlp) + 4 * GEMMA.context * lm.n_heads * lm.d_head
    assert found["prefix"] == 13 * block
    assert found["suffix"] == 13 * block * (1 + saes)
    # The zero ablation is the same in every row, so its logits are computed once for the rows of a chunk.
    head = 2 * lm.d_model * lm.vocab
    assert (1 + saes) * head < found["head"] <= (2 + saes) * head
    assert found["saes"] == saes * 4 * lm.d_model * GEMMA.width
    assert found[""] < 1e-3 * found["saes"]  # sums of counters


@pytest.mark.parametrize("model", [1, 4])
def test_weights_are_what_a_compiled_program_is_given(model):
    """Exactly, on fake devices, with padding (3 heads on 4 devices) and without."""
    lm = dataclasses.replace(CONFIG, n_heads=6, n_kv_heads=3)
    job = Job(lm, parse_hook("blocks.1.hook_resid_post"), saes=2, width=37, context=16)
    mesh = make_mesh(8 // model, model)
    compiled = (lambda step: jax.jit(step.function).lower(*step.arguments).compile())(step_of(job, mesh, 16))
    own = estimate(job, machine("h100:8"), model, 16).memory
    mean, zero, block = 4 * lm.d_model, 4 * 16 * lm.d_model, 4
    known = sum(own.values()) - own["working memory"] + mean + zero + block
    assert compiled.memory_analysis().argument_size_in_bytes == known


def test_more_chips_need_no_more_of_each():
    """Weak scaling on paper: tokens per chip fixed."""
    for saes in (1, 8):
        job = dataclasses.replace(GEMMA, saes=saes)
        small, *larger = (
            estimate(job, machine(name), model=4, rows=8 * machine(name).chips // 4)
            for name in ("v5e:2x4", "v5e:4x4", "v5e:8x8", "v5e:16x16")
        )
        assert small.tokens_per_shard == larger[-1].tokens_per_shard
        for other in larger:
            assert abs(other.bytes_per_chip - small.bytes_per_chip) < 0.05 * small.bytes_per_chip
            assert other.flops_per_chip == pytest.approx(small.flops_per_chip, rel=1e-3)


def sent_per_token(job):
    """Bytes along the model axis, per token and chip."""
    found = estimate(job, machine("v5e:2x4"), model=4, rows=8)
    return sum(size for (_, _, axis), size in found.sent().items() if axis == "model") / found.tokens_per_shard


@pytest.mark.parametrize("k", [None, 64])
def test_the_wire_carries_residual_streams_and_nothing_else(k):
    job = dataclasses.replace(GEMMA, k=k)
    base = sent_per_token(job)
    lm = job.lm
    # Two sums a block and stream, the embedding and x̂, in bfloat16; 3/2 is a ring of four chips.
    expected = 3 / 2 * 2 * lm.d_model * (2 * 13 + 2 * 2 * 13 + 1 + 1)
    assert expected < base < 1.02 * expected
    vocabulary = dataclasses.replace(lm, vocab=2 * lm.vocab)
    assert sent_per_token(dataclasses.replace(job, lm=vocabulary)) == pytest.approx(base, rel=1e-3)
    assert sent_per_token(dataclasses.replace(job, width=2 * job.width)) == pytest.approx(base, rel=1e-3)
    wider = dataclasses.replace(lm, d_model=2 * lm.d_model)
    assert sent_per_token(dataclasses.replace(job, lm=wider)) == pytest.approx(2 * base, rel=0.02)


@pytest.mark.parametrize("lm", sorted(SHAPES))
@pytest.mark.parametrize("name", ["v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v6e:16x16", "h100:8"])
def test_suggestions_fit(lm, name):
    shape = shape_of(lm)
    job = Job(shape, parse_hook(f"blocks.{shape.n_blocks // 2}.hook_resid_post"), context=1024, dtype="bfloat16")
    try:
        found = suggest(job, machine(name))
    except InputError as error:
        assert (lm, name) == ("llama-3.1-70b", "v5e:4x4"), error  # 141 GB of weights; 16 chips of 16 GB, 8 kv heads
        return
    assert found.bytes_per_chip <= USABLE * machine(name).chip.memory
    assert found.data * found.model == machine(name).chips and found.tokens_per_shard == 4096
    assert found.tokens_per_s * max(found.seconds.values()) == pytest.approx(found.tokens_per_step)


def test_what_would_fit_is_said_and_true():
    large = dataclasses.replace(GEMMA, saes=300, dtype="float32")
    with pytest.raises(InputError, match="What would fit") as caught:
        suggest(large, machine("v5e:2x4"))
    said = str(caught.value)
    fewer = int(said.split("What would fit: ")[1].split()[0])
    assert suggest(dataclasses.replace(large, saes=fewer), machine("v5e:2x4"))
    with pytest.raises(InputError):
        suggest(dataclasses.replace(large, saes=fewer + 1), machine("v5e:2x4"))
    assert suggest(large, machine(said.split("--topology ")[-1]))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("v5e", "v5e:4x4"),
        ("v5e:4", "v5e:4x4"),
        ("v5p:4x4", "v5p:4x4x4"),
        ("v5e:0x4", "v5e:4x4"),
        ("v5e:32x32", "at most 256"),
        ("h100:16", "at most 8"),
        ("v5f:4x4", "did you mean"),
        ("", "no such chip"),
    ],
)
def test_machines_that_there_are_not(name, line):
    with pytest.raises(InputError, match="--topology") as caught:
        machine(name)
    assert line in str(caught.value)


def test_chips_are_balanced_as_their_makers_say():
    """FLOP per byte of memory; a wrong power of ten would show."""
    for chip in CHIPS.values():
        assert 100 < chip.rate / chip.bandwidth < 1000
        assert chip.link < chip.bandwidth < 1e13


def test_shapes_have_as_many_parameters_as_their_names_say():
    billions = {"smollm2-135m": 0.135, "gemma-2-2b": 2.6, "gemma-2-9b": 9.2, "gemma-2-27b": 27.2}
    billions |= {"llama-3.1-8b": 8.03, "llama-3.1-70b": 70.6}
    assert set(billions) == set(SHAPES)
    for name, size in billions.items():
        step = step_of(Job(shape_of(name), parse_hook("blocks.0.hook_resid_post")), make_mesh(1, 1), 1)
        counted = sum(np.prod(x.shape) for x in jax.tree.leaves(step.lm))
        assert counted / 1e9 == pytest.approx(size, rel=0.02), name


def test_many_saes_cost_what_a_straight_line_says():
    """Products, memory traffic and the wire exactly, working memory nearly; traced, and continued from 4 and 8."""
    job = Job(CONFIG, parse_hook("blocks.1.hook_resid_post"), saes=13, width=64, context=32)
    pieces = 2
    traced = step_module._traced(job, 2, 8, pieces)
    few, more = (step_module._traced(dataclasses.replace(job, saes=n), 2, 8, pieces) for n in (4, 8))
    continued = line(few, more, (13 - 4) / 4)
    assert continued.flops == traced.flops and continued.wire == traced.wire
    assert continued.traffic.total() == pytest.approx(traced.traffic.total(), rel=1e-3)
    assert continued.working == pytest.approx(traced.working, rel=0.05)
