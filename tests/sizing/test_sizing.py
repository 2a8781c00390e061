"""What a step needs, against hand counts and against compiled programs; and the mesh and batch that are suggested."""

import dataclasses
import re
from collections import Counter

import jax
import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.hooks import Hook, parse_hook
from jsaeval.lm.shapes import SHAPES, shape_of
from jsaeval.mesh import make_mesh
from jsaeval.sizing import step as step_module
from jsaeval.sizing import suggest as suggest_module
from jsaeval.sizing.compiled import Compiled, collectives_in
from jsaeval.sizing.cost import Cost, line
from jsaeval.sizing.estimate import USABLE, Estimate, estimate
from jsaeval.sizing.machines import machine
from jsaeval.sizing.step import Job, step_of
from jsaeval.sizing.suggest import checked, options, suggest
from tests.tiny import CONFIG


GEMMA = Job(shape_of("gemma-2-2b"), parse_hook("blocks.12.hook_resid_post"), context=1024, dtype="bfloat16")


def test_flops_of_a_step_by_hand():
    """Twice the parameters that a token meets, and attention over all positions of its row."""
    saes, lm = 3, GEMMA.lm
    found = estimate(dataclasses.replace(GEMMA, saes=saes), machine("v5e:4x4"), model=1, rows=16).flops_per_token()
    heads = lm.d_head * 2 * (lm.n_heads + lm.n_kv_heads)
    block = 2 * lm.d_model * (heads + 3 * lm.d_mlp) + 4 * GEMMA.context * lm.n_heads * lm.d_head
    assert found["prefix"] == 13 * block  # blocks 0 to 12
    assert found["suffix"] == 13 * block * (1 + saes)
    # The zero ablation is the same in every row, so its logits are computed once for the rows of a chunk.
    head = 2 * lm.d_model * lm.vocab
    assert (1 + saes) * head < found["head"] <= (2 + saes) * head
    assert found["saes"] == saes * 4 * lm.d_model * GEMMA.width
    assert found[""] < 1e-3 * found["saes"]  # sums of counters


@pytest.mark.parametrize("block", [0, 25])
@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_resid_mid", "hook_mlp_out", "attn.hook_z"])
def test_blocks_before_and_after_any_hook(site, block):
    """At a hook inside a block that block runs twice: to read x, and again for the streams."""
    job = dataclasses.replace(GEMMA, hook=Hook(block, site))
    found = estimate(job, machine("v5e:4x4"), model=1, rows=16).flops_per_token()
    lm, inside = job.lm, site != "hook_resid_pre"
    one = 2 * lm.d_model * (lm.d_head * 2 * (lm.n_heads + lm.n_kv_heads) + 3 * lm.d_mlp)
    one += 4 * job.context * lm.n_heads * lm.d_head
    # Inside a block and with attention after it, the zero ablation is not the same in every row: one more stream.
    streams = 2 if site in ("hook_resid_pre", "hook_resid_mid") else 3
    assert found.get("prefix", 0) == pytest.approx((block + inside) * one)
    assert found["suffix"] == pytest.approx(streams * (26 - block) * one)


def test_the_roofline_by_hand():
    """Each limit, of numbers that were looked up and divided here."""
    cost = Cost(
        Counter({("", "bfloat16"): 10**12}), Counter({"": 10**10}), Counter({("", "psum", "model"): 10**8}), 0.0
    )

    def seconds(name, dtype="bfloat16", precision="highest", model=4):
        job = dataclasses.replace(GEMMA, dtype=dtype, precision=precision)
        own = dataclasses.replace(cost, flops=Counter({("", dtype): 10**12}))
        where = machine(name)
        return Estimate(job, where, where.chips // model, model, 16, {}, None, own).seconds

    v5e = seconds("v5e:2x4")
    assert v5e == pytest.approx({"computing": 1 / 197, "memory": 10 / 819, "links": 0.1 * 2 * 3 / 4 / 100})
    assert seconds("v5e:2x4", "float32")["computing"] == pytest.approx(6 / 197)
    assert seconds("v5e:2x4", "float32", "default")["computing"] == pytest.approx(1 / 197)
    assert seconds("v5p:2x2x2")["links"] == pytest.approx(0.1 * 2 * 3 / 4 / 200)
    assert seconds("v6e:2x4") == pytest.approx({"computing": 1 / 918, "memory": 10 / 1638, "links": 0.15 / 200})
    assert seconds("h100:8", "float32")["computing"] == pytest.approx(1 / 67)
    assert seconds("h100:8")["memory"] == pytest.approx(10 / 3350)
    slow = Estimate(GEMMA, machine("v5e:2x4"), 2, 4, 16, {}, None, cost)
    assert slow.limit == "memory" and slow.intensity == 100 and slow.balance == pytest.approx(197e12 / 819e9)
    assert slow.tokens_per_s == pytest.approx(16 * 1024 / (10 / 819))
    assert slow.hours(16 * 1024 + 1) == pytest.approx(2 * 10 / 819 / 3600)


def test_what_a_ring_sends():
    wire = Counter({("a", kind, "model"): 1000 for kind in ("psum", "all_gather", "reduce_scatter", "ppermute")})
    wire["a", "psum", "data"] = 10
    found = Estimate(GEMMA, machine("v5e:2x4"), 1, 8, 16, {}, None, Cost(wire=wire)).sent()
    assert found == {
        ("a", "all-reduce", "model"): 2 * 1000 * 7 / 8,
        ("a", "all-gather", "model"): 7000,
        ("a", "reduce-scatter", "model"): 1000 * 7 / 8,
        ("a", "permute", "model"): 1000,
    }


def test_the_controls_need_room():
    """As many bytes as a run puts there: random SAEs in float32, and each SAE with its decoder shuffled."""
    job = dataclasses.replace(GEMMA, saes=4, controls=True)
    found = estimate(job, machine("v5e:4x4"), model=1, rows=64)
    assert found.control_memory is not None and "controls" not in found.memory
    assert found.control_memory["SAEs"] == found.memory["SAEs"]
    random, shuffled = 2 * found.memory["SAEs"], found.memory["SAEs"]
    assert found.control_memory["controls"] == pytest.approx(random + shuffled, rel=0.01)
    assert found.bytes_per_chip == sum(found.control_memory.values()) > sum(found.memory.values())


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


@pytest.mark.parametrize(
    ("lm", "name"),
    [
        ("smollm2-135m", "h100:8"),
        ("gemma-2-2b", "v5e:4x4"),
        ("gemma-2-27b", "v6e:16x16"),
        ("llama-3.1-8b", "v5e:16x16"),
        ("llama-3.1-70b", "v5p:4x4x4"),
        ("llama-3.1-70b", "v5e:4x4"),
    ],
)
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
    large = dataclasses.replace(GEMMA, saes=400, dtype="float32", context=128)
    with pytest.raises(InputError, match="What would fit") as caught:
        suggest(large, machine("v5e:2x4"))
    said = str(caught.value)
    fewer = int(re.search(r"(\d+) SAEs at a time", said)[1])
    assert suggest(dataclasses.replace(large, saes=fewer), machine("v5e:2x4"))
    with pytest.raises(InputError):
        suggest(dataclasses.replace(large, saes=fewer + 1), machine("v5e:2x4"))
    assert suggest(large, machine(said.split("--topology ")[-1]))


def test_the_suggestion_is_the_fastest_of_all_that_fit():
    for job, name in ((GEMMA, "v5e:4x4"), (dataclasses.replace(GEMMA, saes=40), "v5e:2x4")):
        fitting = list(options(job, machine(name)))
        assert len(fitting) > 2
        assert suggest(job, machine(name)).tokens_per_s == max(option.tokens_per_s for option in fitting)


def test_few_rows_get_few_shares():
    """No chip has nothing to do, and only the rows that were asked for count."""
    found = suggest(GEMMA, machine("v5e:4x4"), rows=4)
    assert found.data <= 4 and found.rows == 4 and found.tokens_per_step == 4096
    padded = suggest(GEMMA, machine("v5e:4x4"), mesh=(16, 1), rows=4)
    assert padded.tokens_per_step == 4096 and padded.tokens_per_shard == 1024


def test_what_the_compiler_refuses_is_not_suggested(monkeypatch):
    asked = []

    def compile_step(job, topology, data, model, rows):
        asked.append(model)
        return Compiled(1, 2, {}, ()) if len(asked) > 4 else None

    monkeypatch.setattr(suggest_module, "compile_step", compile_step)
    found, said = checked(GEMMA, machine("v5e:4x4"))
    assert len(asked) == len(set(asked)) == 5 and found.model == asked[-1] and said.working == 2
    monkeypatch.setattr(suggest_module, "compile_step", lambda *_: None)
    with pytest.raises(InputError, match="the TPU compiler needs more memory"):
        checked(GEMMA, machine("v5e:4x4"))


def test_collectives_are_found_in_a_program():
    """In that of a mapped step, and in the asynchronous form that TPUs have."""
    job = Job(CONFIG, parse_hook("blocks.1.hook_resid_post"), width=64, context=16)
    step = step_of(job, make_mesh(4, 2), 8)
    counts, gathered = collectives_in(jax.jit(step.function).lower(*step.arguments).compile().as_text())
    assert counts["all-reduce"] > 5 and not gathered
    text = """
  %ag = (bf16[8,16]{1,0:T(8,128)(2,1)}, bf16[32,16]{1,0}) all-gather-start(%x), channel_id=1
  %done = bf16[32,16]{1,0} all-gather-done(%ag)
  ROOT %r = (f32[2,8]{1,0}, f32[1,3]{1,0}) all-reduce(%a, %b), to_apply=%add
  %p = f32[4]{0} collective-permute(%c), source_target_pairs={{0,1}}
  %s = f32[4]{0} reduce-scatter(%c)
"""
    counts, gathered = collectives_in(text)
    assert counts == {"all-gather": 1, "all-reduce": 1, "collective-permute": 1, "reduce-scatter": 1}
    assert len(gathered) == 2  # the permute and the scatter have one shape


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("v5e", "comes as v5e:1x1, v5e:2x2, v5e:2x4"),
        ("v5e:3x5", "v5e:4x4"),
        ("v5p:4x4", "v5p:4x4x4"),
        ("v5e:32x32", "v5e:16x16"),
        ("h100:16", "h100:8"),
        ("v5f:4x4", "did you mean"),
        ("", "no such chip"),
    ],
)
def test_machines_that_there_are_not(name, line):
    with pytest.raises(InputError, match="--topology") as caught:
        machine(name)
    assert line in str(caught.value)


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


def test_a_transcoder_has_the_widths_of_both_hooks():
    job = Job(CONFIG, parse_hook("blocks.1.attn.hook_z:hook_mlp_out"), width=64, context=16)
    step = step_of(job, make_mesh(1, 1), 2)
    (sae,) = step.arguments[1]
    assert (sae.d_in, sae.d_out) == (24, 16)
    assert jax.eval_shape(step.function, *step.arguments).saes["sse"].shape[1] == 2
