"""A run that is interrupted anywhere ends with the very same numbers; a checkpoint is whole, and of this run."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jsaeval.corpus.masks import make_masks
from jsaeval.errors import InputError
from jsaeval.forward.batch import GROUPS
from jsaeval.hooks import parse_hook
from jsaeval.mesh import make_mesh
from jsaeval.run import calibration, checkpoint, engine
from jsaeval.run.checkpoint import Checkpoints, Ended, Stopped, clear, difference, identity, unfinished
from jsaeval.run.engine import Setting, measure
from jsaeval.run.evaluate import evaluate
from jsaeval.run.lm_cache import LMCache
from tests.tiny import HOOK, tiny_sae


ROWS, BATCH, CONTROL_ROWS = 11, 2, 3
OF = {"LM": "lm", "text": "text", "SAE": {"a": "1"}}
SAES = [tiny_sae("topk", d_sae=24, input_norm="expected_average")]
# Most of a test's time is compilation.
QUICK = {"groups": ("norms", "reconstruction", "latents"), "control_rows": 0}


@pytest.fixture(scope="module")
def data():
    rows = np.random.default_rng(5).integers(3, 50, (ROWS, 24)).astype(np.uint16)
    rows[:, 0] = 1
    return rows, make_masks(rows.astype(np.int32), (0, 1, 2), 0)


def run(lm, data, checkpoints=None, cache=None, **setting):
    setting = Setting(batch=BATCH, **QUICK | setting)
    return measure(lm, SAES, parse_hook(HOOK), *data, make_mesh(1), setting, cache=cache, checkpoints=checkpoints)


def interrupted_after(n_batches, folder, resume=False):
    """Checkpoints that ask the run to stop when so many batches are done."""
    asked = itertools.count(1)
    found = Checkpoints(folder, every=1e9, resume=resume, stop=lambda: found.measuring and next(asked) == n_batches)
    found.measuring = False
    offer = found.offer

    def offered(*arguments):
        found.measuring = True
        offer(*arguments)

    found.offer = offered
    found.open(OF)
    return found


def going_on(folder, **more):
    found = Checkpoints(folder, resume=True, **more)
    found.open(OF)
    return found


def same(a, b):
    assert a.calibration_tokens == b.calibration_tokens and a.batch == b.batch
    assert (a.controls is None) == (b.controls is None)
    for one, other in ((a.table, b.table), *([] if a.controls is None else [(a.controls, b.controls)])):
        leaves, others = (jax.tree.leaves_with_path(table.to_arrays()) for table in (one, other))
        for (path, x), (where, y) in zip(leaves, others, strict=True):
            assert path == where
            np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def whole(lm, data):
    return run(lm, data)


@pytest.mark.parametrize(
    ("n_batches", "kept"),
    [
        pytest.param(1, True, marks=pytest.mark.slow),
        (3, True),
        pytest.param(5, True, marks=pytest.mark.slow),
        (5, False),
    ],
)
def test_the_same_numbers_to_the_last_bit(n_batches, kept, lm, data, tmp_path, monkeypatch):
    """Among the control rows, just behind them, and later; with counters that are not in the table yet."""
    monkeypatch.setattr(engine, "FLUSH_EVERY", 2)
    if not kept:
        monkeypatch.setattr(calibration, "ACTIVATION_BYTES", 0)
    everything = {"groups": GROUPS, "control_rows": CONTROL_ROWS}
    expected = run(lm, data, **everything)
    with pytest.raises(Stopped):
        run(lm, data, interrupted_after(n_batches, tmp_path), **everything)
    resumed = going_on(tmp_path)
    assert resumed.resumed_rows == {1: 1, 3: 3, 5: 7}[n_batches]
    same(run(lm, data, resumed, **everything), expected)


def test_interrupted_twice(lm, data, whole, tmp_path):
    with pytest.raises(Stopped):
        run(lm, data, interrupted_after(2, tmp_path))
    with pytest.raises(Stopped):
        run(lm, data, interrupted_after(2, tmp_path, resume=True))
    resumed = going_on(tmp_path)
    assert resumed.resumed_rows == 2 * 2 * BATCH
    same(run(lm, data, resumed), whole)


def test_stopped_while_it_calibrates(lm, data, tmp_path):
    checkpoints = Checkpoints(tmp_path, stop=lambda: True)
    with pytest.raises(Stopped):
        run(lm, data, checkpoints)
    assert not unfinished(tmp_path.parent) and not list(tmp_path.iterdir())


def test_stopped_while_the_second_hook_calibrates(lm, data, tmp_path):
    """The first one is kept."""
    stops = iter([False] * 10 + [True])
    with pytest.raises(Stopped):
        evaluate(
            lm,
            [tiny_sae("relu"), tiny_sae("topk", hook="blocks.0.hook_mlp_out")],
            tokens=data[0].astype(np.int32),
            mesh=make_mesh(1),
            setting=Setting(batch=4, control_rows=2),
            checkpoints=Checkpoints(tmp_path, stop=lambda: next(stops)),
        )
    assert Checkpoints(tmp_path, resume=True).resumed_rows == ROWS


def test_several_hooks(lm, data, tmp_path):
    """A pass that came to its end is not run again."""
    saes = [tiny_sae("relu"), tiny_sae("topk", hook="blocks.0.hook_mlp_out")]
    setting = Setting(batch=BATCH, **QUICK)
    tokens, seen = data[0].astype(np.int32), []

    def evaluated(checkpoints=None):
        seen.clear()
        return evaluate(
            lm,
            saes,
            tokens=tokens,
            mesh=make_mesh(1),
            setting=setting,
            checkpoints=checkpoints,
            progress=lambda stage, done, total: seen.append((stage, done)),
        )

    asked = itertools.count()
    expected = evaluated(Checkpoints(tmp_path / "counting", every=1e9, stop=lambda: next(asked) < 0))
    last = next(asked)
    with pytest.raises(Stopped):
        left = itertools.count(3 - last)
        evaluated(Checkpoints(tmp_path / "checkpoint", every=0.0, stop=lambda: next(left) >= 0))
    rows_before = Checkpoints(tmp_path / "checkpoint", resume=True).resumed_rows
    assert ROWS < rows_before < 2 * ROWS
    resumed = evaluated(Checkpoints(tmp_path / "checkpoint", resume=True))
    assert resumed.provenance["resumed_rows"] == rows_before
    assert sum(done for stage, done in seen if stage == "measuring") == ROWS * 24  # of the second pass alone
    for a, b in zip(resumed.saes, expected.saes, strict=True):
        assert a.metrics == b.metrics and a.by_position == b.by_position and a.by_block == b.by_block
        for name, column in vars(a.latents).items():
            np.testing.assert_array_equal(column, vars(b.latents)[name])


def test_a_cache_is_read_but_not_left_half_full(lm, data, whole, tmp_path):
    cache = LMCache(tmp_path / "cache", "identity")
    with pytest.raises(Stopped):
        run(lm, data, interrupted_after(4, tmp_path / "checkpoint"), cache)
    same(run(lm, data, going_on(tmp_path / "checkpoint"), cache), whole)
    assert not list((tmp_path / "cache").glob("*.npy"))
    run(lm, data, cache=cache)
    assert list((tmp_path / "cache").glob("*.npy"))


def test_the_last_two_are_kept_and_a_damaged_one_is_seen(lm, data, whole, tmp_path):
    with pytest.raises(Stopped):
        stops = iter([False] * 9 + [True])
        checkpoints = Checkpoints(tmp_path, every=0.0, stop=lambda: next(stops))
        checkpoints.open(OF)
        run(lm, data, checkpoints)
    before, last = sorted(tmp_path.iterdir())
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    said = []
    resumed = going_on(tmp_path, say=said.append)
    assert said == [f"{last}: damaged; going back to the one before it", f"going on after {resumed.resumed_rows} rows"]
    same(run(lm, data, resumed), whole)
    before.write_bytes(before.read_bytes()[:100])
    said.clear()
    same(run(lm, data, going_on(tmp_path, say=said.append)), whole)
    assert len(said) == 2 and all("damaged" in line for line in said)


@pytest.mark.parametrize(
    ("now", "plan", "message"),
    [
        (OF | {"LM": "lm2", "text": "text", "SAE": {"a": "1"}}, {"rows": 4}, "LM was lm, now lm2"),
        (OF | {"LM": "lm", "text": "text", "SAE": {"a": "2" * 64}}, {"rows": 4}, "SAE a was 1, now 222222222222…"),
        (OF | {"LM": "lm", "text": "text", "SAE": {"b": "1"}}, {"rows": 4}, "SAE a was 1, now not given"),
        (OF | {"LM": "lm", "text": "other", "SAE": {"a": "1"}}, {"rows": 4}, "text was text, now other"),
        (OF, {"rows": 8}, "plan rows was 4, now 8"),
    ],
)
def test_another_run_is_refused(now, plan, message, tmp_path):
    kept = Checkpoints(tmp_path, every=0.0, plan={"rows": 4})
    kept.open(OF)
    kept._write(tmp_path)
    with pytest.raises(InputError, match=message):
        Checkpoints(tmp_path, plan=plan, resume=True).open(now)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_that_ended(tmp_path):
    with pytest.raises(Ended):
        Checkpoints(tmp_path, resume=True, ended=OF).open(OF)
    with pytest.raises(InputError, match="LM was lm"):
        Checkpoints(tmp_path, resume=True, ended=OF).open(OF | {"LM": "another"})
    Checkpoints(tmp_path, ended=OF).open(OF)


def test_a_full_disk(lm, data, whole, tmp_path, monkeypatch):
    """The run goes on, the checkpoint before stays, nothing half is left, and the user is told."""
    said, writes, real = [], itertools.count(), checkpoint.Path.write_bytes

    def write_bytes(path, content):
        if next(writes):
            real(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(checkpoint.Path, "write_bytes", write_bytes)
    checkpoints = Checkpoints(tmp_path, every=0.0, say=said.append)
    checkpoints.open(OF)
    same(run(lm, data, checkpoints), whole)
    assert len(said) > 2 and all("No space left on device" in line for line in said)
    assert [path.name[:7] for path in tmp_path.iterdir()] == ["000001-"]


def test_it_takes_two_per_cent_at_most(tmp_path, monkeypatch):
    """However often it is asked: a checkpoint that takes 0.1 s is followed by 5 s without one."""
    clock = itertools.count(step=0.1)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    written = []
    checkpoints = Checkpoints(tmp_path, every=0.001, say=print)
    write = checkpoints._write
    checkpoints._write = lambda folder: (written.append(next(clock)), write(folder))
    checkpoints.done = lambda name, state: None
    for _ in range(1000):
        checkpoints.offer("hook", lambda: None)
    gaps = np.diff(written)
    assert len(gaps) > 2 and gaps[1:].min() >= 5


def test_waiting_for_the_device_is_no_cost(tmp_path, monkeypatch):
    """An hour of waiting for batches under way, which is done only where a checkpoint is due, and before its state."""
    now, order = [0.0], []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, every=30.0)
    checkpoints.done = lambda name, state: order.append("kept")

    def settle():
        order.append("waited")
        now[0] += 3600

    for _ in range(8):
        now[0] += 10
        checkpoints.offer("hook", lambda: None, settle)
    assert order == ["waited", "kept"] * 2
    assert checkpoints.newest == 2


def test_clear_leaves_what_is_not_ours(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("000001-abc.safetensors", ".000002-abc.safetensors.x1y2"):
        (folder / name).touch()
    assert unfinished(tmp_path)
    clear(tmp_path)
    assert not folder.exists() and not unfinished(tmp_path)
    folder.mkdir()
    (folder / "notes.txt").touch()
    clear(tmp_path)
    assert (folder / "notes.txt").exists()


def test_what_a_run_is_a_run_of(lm):
    """Beside the weights: how they are read."""
    sae = tiny_sae("topk")
    of = identity(lm, "text", [sae])
    assert of == identity(lm, "text", [tiny_sae("topk")]) and set(of) == {"version", "LM", "text", "SAE"}
    for other in (dataclasses.replace(sae, k=4), dataclasses.replace(sae, input_norm="layer_norm")):
        assert identity(lm, "text", [other])["SAE"] != of["SAE"]
    stretched = dataclasses.replace(lm, config=dataclasses.replace(lm.config, rope_theta=1e6))
    assert identity(stretched, "text", [sae])["LM"] != of["LM"]


def test_difference():
    assert difference({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}) == "b c was 2, now 3"
    assert difference({"a": [1]}, {}) == "a was [1], now not given"
