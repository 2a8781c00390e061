"""`--lm-cache`: the same numbers from the cache as without it, and nothing taken from it that does not belong."""

import dataclasses
import os

import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.corpus.masks import make_masks
from jsaeval.errors import InputError
from jsaeval.forward import batch, calibrate, splice
from jsaeval.hooks import parse_hook
from jsaeval.mesh import make_mesh
from jsaeval.run import calibration
from jsaeval.run.engine import Setting, measure
from jsaeval.run.lm_cache import LMCache
from jsaeval.stats.table import Collector
from tests.run.test_engine import agree, same_totals
from tests.tiny import CARD, HOOK, tiny_lm, tiny_sae


ALL = Setting(batch=4, control_rows=3)
NO_CURVE = Setting(batch=4, control_rows=0, groups=("norms", "reconstruction", "loss", "latents"))


@pytest.fixture(scope="module")
def model():
    return dataclasses.replace(tiny_lm(), card=dataclasses.replace(CARD, sha256="a" * 64))


@pytest.fixture(scope="module")
def rows():
    tokens = np.random.default_rng(6).integers(3, 50, (7, 16)).astype(np.int32)
    tokens[:, 0] = 1
    return tokens


def run(model, rows, setting, cache=None, hook=HOOK):
    masks = make_masks(rows, (0, 1, 2), 0)
    return measure(model, [tiny_sae("topk")], parse_hook(hook), rows, masks, make_mesh(2), setting, cache=cache)


@pytest.fixture
def cache(tmp_path, model):
    return LMCache.of(tmp_path / "cache", model, "highest", "text")


@pytest.mark.parametrize("setting", [pytest.param(ALL, marks=pytest.mark.slow), NO_CURVE], ids=["all", "no-curve"])
def test_the_same_numbers_from_the_cache(setting, model, rows, cache, monkeypatch):
    expected = run(model, rows, setting)
    first = run(model, rows, setting, cache)
    assert len(list(cache.folder.glob("*.npy"))) == 2
    original = splice.prefix

    def only_for_zero_ablation(lm, hook, tokens):
        assert tokens.shape[0] == 1, "the prefix was run again"
        return original(lm, hook, tokens)

    for module in (calibrate, batch):
        monkeypatch.setattr(module, "prefix", only_for_zero_ablation)
    second = run(model, rows, setting, cache)
    for got in (first, second):
        agree(got, expected)
        same_totals(got, expected)


def test_without_curve_the_clean_stream_is_not_run_again(model, rows, cache, monkeypatch):
    expected = run(model, rows, NO_CURVE, cache)
    widths = []
    original = splice.suffix

    def watch(lm, hook, residual, streams, *rest):
        widths.append(streams.shape[0])
        return original(lm, hook, residual, streams, *rest)

    monkeypatch.setattr("jsaeval.forward.downstream.suffix", watch)
    agree(run(model, rows, NO_CURVE, cache), expected)
    assert widths == [1]  # the SAE's stream alone: clean comes from the cache, zero ablation is the same in every row


def test_another_hook_text_or_precision_is_another_entry(model, rows, cache, tmp_path):
    run(model, rows, NO_CURVE, cache)
    for other in (
        LMCache.of(cache.folder, model, "highest", "another text"),
        LMCache.of(cache.folder, model, "default", "text"),
        LMCache.of(
            cache.folder, dataclasses.replace(model, card=dataclasses.replace(CARD, sha256="b")), "highest", "text"
        ),
    ):
        assert other.read("final") is None
    run(model, rows, NO_CURVE, cache, hook="blocks.0.hook_resid_post")
    assert len(list(cache.folder.glob("*.npy"))) == 3  # one prefix more; the clean end is the same


def test_a_damaged_entry_is_made_again(model, rows, cache):
    expected = run(model, rows, NO_CURVE, cache)
    for path in cache.folder.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:50])
    agree(run(model, rows, NO_CURVE, cache), expected)
    assert all(np.load(path).shape[0] == len(rows) for path in cache.folder.glob("*.npy"))


def fill(cache, name, values):
    entry = cache.start(name, values.shape, values.dtype)
    if entry is not None:
        entry.array[:] = values
        entry.finish()


def test_the_oldest_go_when_it_is_full(cache):
    small = dataclasses.replace(cache, limit=2500)
    for age, name in enumerate(("a", "b", "c")):
        fill(small, name, np.zeros(250, np.float32))  # 1,000 bytes and a header of 128
        if (path := small._path(name)).exists():
            os.utime(path, (age, age))
    small.trim()
    assert small.read("a") is None and small.read("c") is not None
    fill(small, "huge", np.zeros(2500, np.float32))
    assert small.read("huge") is None and small.read("c") is not None


def test_bfloat16_survives(cache):
    values = np.asarray(jnp.asarray([[1.5, -2.25]], jnp.bfloat16))
    fill(cache, "x", values)
    back = cache.read("x")
    assert back is not None and back.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(back), values)


def test_a_run_that_breaks_leaves_nothing(model, rows, cache, monkeypatch):
    monkeypatch.setattr(Collector, "table", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(model, rows, NO_CURVE, cache)
    assert not list(cache.folder.iterdir())


@pytest.mark.slow
def test_activations_too_large_to_be_kept_in_memory_go_to_the_cache(model, rows, cache, monkeypatch):
    expected = run(model, rows, NO_CURVE)
    monkeypatch.setattr(calibration, "ACTIVATION_BYTES", 0)
    run(model, rows, NO_CURVE, cache)
    assert len(list(cache.folder.glob("*.npy"))) == 2
    agree(run(model, rows, NO_CURVE, cache), expected)


def test_what_cannot_be_kept_is_refused(tmp_path, model, lm):
    with pytest.raises(InputError, match="no SHA-256 of its weights"):
        LMCache.of(tmp_path, lm, "highest", "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        LMCache.of(tmp_path / "file", model, "highest", "text")
