"""The host simulator against the whole distribution of the LM, one prompt at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.host import HostSimulator, log_probabilities
from jsaeval.errors import InputError
from jsaeval.mesh import make_mesh
from tests.autointerp.made_windows import evidence, example
from tests.autointerp.test_host_prompt import tiny
from tests.forward.test_batch import shapes
from tests.tiny import CARD, CONFIG, make_lm, random_tensors


VOCAB = 4096
WHAT = Explanation(0, "words of the sea", "x")


def host(config=CONFIG, context=512):
    config = dataclasses.replace(config, vocab=VOCAB, context=context)
    lm = make_lm(config, random_tensors(config))
    return dataclasses.replace(lm, card=dataclasses.replace(CARD, context=context))


def some(widths=(5, 3, 4)):
    rng = np.random.default_rng(0)

    def windows(first):
        return [
            example(rng.random(n), "top", first + i, tokens=rng.integers(300, VOCAB, n)) for i, n in enumerate(widths)
        ]

    return evidence(windows(0), windows(10))


def by_hand(lm, prompt):
    """Levels and mass of a window from all logits of its prompt."""

    @jax.jit
    def logits(ids):
        return lm.final(lm.run(lm.embed(ids[None]), 0, lm.n_blocks)[0])[0] @ lm.unembedding.T

    def of(explanation, tokens):
        ids, at = prompt(explanation, tokens)
        z = np.asarray(logits(jnp.asarray(np.pad(ids, (0, 500 - len(ids))))), np.float64)[at]
        z = z if lm.logit_cap is None else lm.logit_cap * np.tanh(z / lm.logit_cap)
        p = np.exp(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))[:, list(prompt.levels)]
        return p / p.sum(axis=1, keepdims=True), p.sum(axis=1)

    return of


def test_levels_by_hand():
    lm, made = host(dataclasses.replace(CONFIG, logit_cap=3.0)), some()
    simulator = HostSimulator(lm, tiny(), mesh=make_mesh(1))
    assert lm.logit_cap == 3
    expected = by_hand(lm, simulator.prompt)
    said, empty = simulator.simulate([(WHAT, made), (Explanation(0, "", "empty"), made)])
    for simulation, text in ((said, WHAT.text), (empty, "")):
        masses = []
        for split in ("calibrate", "score"):
            for k, own in enumerate(made.examples[split]):
                p, mass = expected(text, own.tokens)
                masses += mass.tolist()
                levels = simulation.levels[split][k]
                assert levels.shape == (len(own.tokens), 11) and (levels[:, 10] == 0).all()
                np.testing.assert_allclose(levels[:, :10], p, rtol=1e-4)
                np.testing.assert_allclose(simulation.values[split][k], p @ np.arange(10), rtol=1e-4)
        assert simulation.mass == pytest.approx(np.mean(masses), rel=1e-4) and simulation.highest == 9
    assert not np.allclose(said.values["score"][0], empty.values["score"][0], rtol=1e-3)


def test_devices_agree():
    """6 prompts over 2 devices, and the vocabulary over 4."""
    lm, made = host(), some()
    one, many = (
        HostSimulator(lm, tiny(), mesh=mesh).simulate([(WHAT, made)])[0] for mesh in (make_mesh(1), make_mesh(2, 4))
    )
    for split in ("calibrate", "score"):
        for a, b in zip(one.levels[split], many.levels[split], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)
    assert one.mass == pytest.approx(many.mass, rel=1e-4)


def test_no_array_of_all_logits():
    lm = host()
    simulator = HostSimulator(lm, tiny(), mesh=make_mesh(1))
    tokens, at = jnp.zeros((4, 448), jnp.int32), jnp.zeros((4, 32), jnp.int32)
    jaxpr = jax.make_jaxpr(simulator._step)(simulator._model.arrays, tokens, at)
    of_vocab = [np.prod(shape, dtype=int) for shape in shapes(jaxpr) if VOCAB in shape]
    assert of_vocab and max(of_vocab) <= 32 * VOCAB < 4 * 32 * VOCAB


@pytest.mark.parametrize("cap", [None, 3.0])
def test_log_probabilities(cap):
    rng = np.random.default_rng(0)
    unembedding, hidden = rng.standard_normal((40, 6)), rng.standard_normal((3, 7, 6))
    arrays = [jnp.asarray(x, jnp.float32) for x in (unembedding, hidden)]
    found = log_probabilities(*arrays, jnp.asarray([4, 0, 39]), None, cap, chunk=4)
    logits = hidden @ unembedding.T
    logits = logits if cap is None else cap * np.tanh(logits / cap)
    expected = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))[..., [4, 0, 39]]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Rows beyond the vocabulary fill up the devices.
    padded = jnp.pad(arrays[0], [(0, 3), (0, 0)])
    np.testing.assert_allclose(
        log_probabilities(padded, arrays[1], jnp.asarray([4, 0, 39]), 40, cap, 4), found, atol=1e-5
    )


def test_what_cannot_be_simulated_is_said_and_the_others_finish():
    made = some()
    failed, dead = Explanation(0, "", "x", error="refused"), dataclasses.replace(made, problem="dead")
    long = Explanation(0, "very " * 300, "x")
    steps = []
    simulator = HostSimulator(host(), tiny(), mesh=make_mesh(1), progress=lambda *step: steps.append(step))
    pairs = [(failed, made), (WHAT, dead), (long, made), (WHAT, made)]
    found = simulator.simulate(pairs)
    assert [own.error for own in found[:2]] == ["refused", "dead"] and all(own.values == {} for own in found[:3])
    assert "positions, and tiny has 512" in found[2].error
    assert found[3].error is None and [len(own) for own in found[3].values["score"]] == [5, 3, 4]
    assert sum(done for _, done, _ in steps) == 6 and {total for _, _, total in steps} == {0}
    assert simulator.simulate([]) == []


def test_an_lm_without_room_for_the_prompt():
    with pytest.raises(InputError, match=r"context is 64 positions, .* use an LM with a longer context"):
        HostSimulator(host(context=64), tiny())


def test_an_lm_that_is_broken():
    lm = host()
    lm = dataclasses.replace(lm, final_norm=jax.tree.map(lambda x: x * jnp.nan, lm.final_norm))
    with pytest.raises(InputError, match="NaN or Inf"):
        HostSimulator(lm, tiny(), mesh=make_mesh(1)).simulate([(WHAT, some((2,)))])
