"""The run loop: batch size, devices and row order do not matter; what is kept does not either."""

import numpy as np
import pytest

from jsaeval.corpus.masks import make_masks
from jsaeval.errors import InputError
from jsaeval.forward.controls import control_names
from jsaeval.hooks import parse_hook
from jsaeval.mesh import make_mesh
from jsaeval.run import batches, calibration, engine
from jsaeval.run.engine import Setting, measure
from tests.tiny import HOOK, tiny_sae


ROWS = 11


@pytest.fixture(scope="module")
def data():
    rows = np.random.default_rng(5).integers(3, 50, (ROWS, 24)).astype(np.uint16)
    rows[:, 0] = 1
    return rows, make_masks(rows.astype(np.int32), (0, 1, 2), 0)


def run(lm, data, rows=slice(None), devices=1, **setting):
    tokens, masks = data
    masks = type(masks)(*(m[rows] for m in masks))
    saes = [tiny_sae("relu"), tiny_sae("topk", d_sae=24)]
    setting = Setting(**({"control_rows": 0} | setting))
    return measure(lm, saes, parse_hook(HOOK), tokens[rows], masks, make_mesh(devices), setting)


@pytest.fixture(scope="module")
def expected(lm, data):
    return run(lm, data, batch=ROWS)


def agree(a, b, rows=slice(None)):
    """METRICS.md, Numerics: counts exactly, floats to 1e-5 of the scale of the column."""
    for name, column in a.table.rows.items():
        close(column, b.table.rows[name][rows], name)
    for name, column in a.table.saes.items():
        close(column, b.table.saes[name][:, rows], name)


def close(a, b, name):
    assert a.dtype == b.dtype
    if a.dtype.kind == "i":
        np.testing.assert_array_equal(a, b, err_msg=name)
    else:
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(), err_msg=name)


def same_totals(a, b):
    for name, vector in a.table.vectors.items():
        close(vector, b.table.vectors[name], name)
    for x, y in zip(a.table.latents, b.table.latents, strict=True):
        np.testing.assert_array_equal(x["fires"], y["fires"])
        np.testing.assert_array_equal(x["rows"], y["rows"])
        close(x["total"], y["total"], "total")
        close(x["largest"], y["largest"], "largest")


@pytest.mark.parametrize(
    ("batch", "devices"),
    [*(pytest.param(*own, marks=pytest.mark.slow) for own in ((1, 1), (4, 1), (4, 8), (3, 2))), (16, 1), (16, 8)],
)
def test_batches_and_devices_agree(batch, devices, lm, data, expected):
    got = run(lm, data, batch=batch, devices=devices)
    agree(got, expected)
    same_totals(got, expected)
    assert got.calibration_tokens == expected.calibration_tokens == data[1].metric.sum()


@pytest.fixture(scope="module")
def controlled(lm, data):
    return run(lm, data, batch=ROWS, control_rows=5)


def test_controls_change_nothing_else(lm, controlled, expected):
    agree(controlled, expected)
    same_totals(controlled, expected)
    assert expected.controls is None and controlled.controls is not None
    for name, column in controlled.controls.saes.items():
        assert column.shape[:2] == (2 + 2 + 2 * 4, 5)
        close(column[:2], expected.table.saes[name][:, :5], name)
    for name, column in controlled.controls.rows.items():
        close(column, controlled.table.rows[name][:5], name)


@pytest.mark.parametrize(("batch", "devices"), [pytest.param(1, 1, marks=pytest.mark.slow), (16, 8)])
def test_controls_do_not_depend_on_batches_and_devices(batch, devices, lm, data, controlled):
    got = run(lm, data, batch=batch, devices=devices, control_rows=5)
    agree(got, controlled)
    same_totals(got, controlled)
    for name, column in controlled.controls.saes.items():
        close(got.controls.saes[name], column, name)


def test_controls_are_what_they_say(controlled):
    """Identity changes nothing, random SAEs are as sparse as the SAE, random errors as large, PCA keeps more of x."""
    streams = dict(zip(control_names(2), range(2, 12), strict=True))
    table, sums = (
        controlled.controls,
        {k: c.sum(axis=(1, -1)[: c.ndim - 1]) for k, c in controlled.controls.saes.items()},
    )
    assert np.abs(table.saes["kl"][streams["identity", -1]]).max() < 1e-4
    for i in range(2):
        close(sums["sse"][streams["random_error", i]], sums["sse"][i], "sse")
        np.testing.assert_allclose(sums["l0"][streams["random_sae", i]], sums["l0"][i], rtol=0.1)
        assert sums["sse"][streams["pca", i]] < sums["sse"][streams["mean", -1]]
        assert sums["l0"][streams["pca", i]] == sums["l0"][streams["permuted_decoder", i]] == 0


def test_the_default_batch_suits_the_machine():
    assert [batches.default_batch(positions, make_mesh(1)) for positions in (128, 100, 1024, 5000)] == [8, 10, 1, 1]
    assert batches.default_batch(128, make_mesh(8)) == 8


def test_shuffled_rows_agree(lm, data, expected):
    order = np.random.default_rng(0).permutation(ROWS)
    got = run(lm, data, rows=order, batch=4)
    agree(got, expected, order)
    same_totals(got, expected)


def test_calibration_on_a_sample(lm, data, expected, monkeypatch):
    """When activations do not fit, the prefix runs again, and the variance is still about the mean of the run."""
    monkeypatch.setattr(calibration, "ACTIVATION_BYTES", 0)
    monkeypatch.setattr(calibration, "CALIBRATION_TOKENS", 100)
    got = run(lm, data, batch=4, control_rows=3)
    assert got.calibration_tokens == data[1].metric[:5].sum()  # 5 rows of 24 positions are the first 100 tokens
    for name in set(expected.table.saes) - {"legacy"}:
        close(got.table.saes[name], expected.table.saes[name], name)
    assert np.abs(got.table.rows["x_dev_sq"] - expected.table.rows["x_dev_sq"]).max() > 1e-3

    def variance(table):
        shift = table.vectors["x_dev"].sum(0)
        return table.rows["x_dev_sq"].sum() - (shift**2).sum() / table.n_tokens

    np.testing.assert_allclose(variance(got.table), variance(expected.table), rtol=1e-6)


def test_counters_are_flushed(lm, data, expected, monkeypatch):
    monkeypatch.setattr(engine, "FLUSH_EVERY", 2)
    same_totals(run(lm, data, batch=2), expected)


def test_progress_counts_every_token(lm, data):
    calls = []
    tokens, masks = data
    measure(
        lm,
        [tiny_sae()],
        parse_hook(HOOK),
        tokens,
        masks,
        make_mesh(1),
        Setting(batch=4, control_rows=0),
        lambda *call: calls.append(call),
    )
    for stage in ("calibrating", "measuring"):
        assert sum(done for name, done, _ in calls if name == stage) == tokens.size
    assert {total for _, _, total in calls} == {tokens.size}


def test_groups_that_are_not_asked_for(lm, data):
    got = run(lm, data, batch=4, groups=("norms",))
    assert set(got.table.rows) == {"n"} and set(got.table.saes) == {"l0", "l1", "l1_scaled"}
    assert got.calibration_tokens == 0 and got.table.latents == ()


def test_an_empty_mask_is_refused(lm, data):
    tokens, masks = data
    empty = type(masks)(masks.valid, np.zeros_like(masks.metric), masks.splice)
    with pytest.raises(InputError, match="no token counts"):
        measure(lm, [tiny_sae()], parse_hook(HOOK), tokens, empty, make_mesh(1))


@pytest.mark.parametrize(("control_rows", "programs"), [(0, 3), (5, 9), pytest.param(ROWS, 5, marks=pytest.mark.slow)])
def test_one_program_per_kind_of_batch(control_rows, programs, lm, data, monkeypatch):
    """All batches with controls, and all without, have one shape: another shape would need another program.

    Without controls: calibration, zero ablation, the pass. Controls are fitted by two more programs, and all but
    zero ablation are needed once per kind.
    """
    compiled = []
    original = batches.Clock.compile
    monkeypatch.setattr(batches.Clock, "compile", lambda self, *a: compiled.append(a) or original(self, *a))
    run(lm, data, batch=4, control_rows=control_rows)
    assert len(compiled) == programs
