"""One task whose answer is known, its file, and means over tasks by hand."""

import dataclasses

import numpy as np
import pytest

from jsaeval.corpus.tasks import make_task
from jsaeval.lm.load import load_lm, load_tokenizer
from jsaeval.probes import state
from jsaeval.probes.features import Pooled
from jsaeval.probes.fit import Probe
from jsaeval.probes.scores import SCORES
from jsaeval.probes.summary import DENSE_X, Key, summarise
from jsaeval.probes.task import Fitted, TaskResult, Which, draw, probe_task


WHICH = Which(ks=(1, 4), penalties=("l2",))


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    labels = rng.random(320) < 0.4
    words = np.where(labels, "sun", "rain")
    # One text in five says the other word.
    words = np.where(rng.random(320) < 0.2, np.where(labels, "rain", "sun"), words)
    texts = [f"day {i} {word}" for i, word in enumerate(words)]
    return draw(make_task("weather", "own", "it is fine", texts, labels), load_tokenizer(load_lm("tiny")), 16, None)


@pytest.fixture(scope="module")
def result(drawn):
    """Latent 3 says yes, more or less; latents 4 and 5 help; nothing is in a random SAE."""
    rng, n = np.random.default_rng(1), len(drawn.labels)
    latents = np.maximum(rng.standard_normal((n, 12)), 0).astype(np.float32)
    latents[:, 3] = np.maximum(drawn.labels * 2.0 + rng.standard_normal(n) - 0.5, 0)
    latents[:, 4] += drawn.labels
    x = latents @ rng.standard_normal((12, 8)).astype(np.float32)
    error = 0.1 * rng.standard_normal((n, 8)).astype(np.float32)
    random = rng.standard_normal((n, 12)).astype(np.float32)
    return probe_task(drawn, [Pooled(x, latents, x - error, error)] * 2, [random] * 2, WHICH)


def test_examples_are_drawn_once(drawn):
    parts = [set(part) for part in drawn.parts]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(drawn.texts) == 320
    share = [drawn.labels[list(part)].mean() for part in drawn.parts]
    assert max(share) - min(share) < 0.02
    own = drawn.examples(np.arange(320, dtype=np.float32)[:, None])
    assert own.validates.sum() == len(drawn.parts.validation)
    assert set(own.x_test[:, 0]) == set(drawn.parts.test) and np.array_equal(own.y_test, drawn.labels[drawn.parts.test])


def test_what_is_known_is_found(result):
    found = {(f.sae, f.probe.features, f.probe.kind, f.probe.k): f.probe for f in result.fitted}
    summary = summarise([result])
    loss = {line.key[:4]: line.found["bce"].value for line in summary.overall}
    assert found[0, "latents", "single", 1].chosen == (3,)
    assert 3 in found[0, "latents", "k_sparse", 4].chosen
    nothing, best = loss[None, "none", "dense", 0], loss[0, "latents", "single", 1]
    assert best < nothing - 0.15 and loss[0, "latents", "dense", None] < best
    assert loss[0, "random_sae", "single", 1] > nothing - 0.05
    assert loss[0, "shuffled_labels", "single", 1] > nothing - 0.05
    assert loss[None, "bag_of_words", "dense", None] < nothing - 0.1
    # Everything that is asked for, and once for each SAE.
    assert len(found) == len(result.fitted) == 2 * (4 + 1 + 1 + 4 + 2) + 4 + 1 + 1
    for key, value in loss.items():
        assert key[0] != 1 or value == pytest.approx(loss[0, *key[1:]], abs=1e-5)
    for text in result.top[0]:
        assert text.activation > 1 and text.text.startswith("day")
    assert [own.activation for own in result.top[0]] == sorted((own.activation for own in result.top[0]), reverse=True)


def test_the_majority_is_the_entropy_of_the_training_labels(result, drawn):
    (majority,) = [f.probe for f in result.fitted if f.probe.features == "none"]
    rate = drawn.labels[drawn.train].mean()
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    assert majority.in_sample == pytest.approx(entropy) and np.ptp(majority.logits) == 0


def test_a_task_comes_back_from_its_file(result, tmp_path):
    path = state.path_of(tmp_path, "who", {"seed": 0})
    assert state.load(path) is None
    state.save(path, result)
    again = state.load(path)
    same(again, result)
    path.write_bytes(path.read_bytes()[:-30])
    assert state.load(path) is None and not path.exists()
    assert state.path_of(tmp_path, "who", {"seed": 1}) != path


def same(a, b):
    for field in dataclasses.fields(a):
        if field.name == "labels":
            assert np.array_equal(a.labels, b.labels)
        elif field.name != "fitted":
            assert getattr(a, field.name) == getattr(b, field.name)
    for one, other in zip(a.fitted, b.fitted, strict=True):
        assert one.sae == other.sae
        for name, value in vars(one.probe).items():
            assert np.array_equal(value, getattr(other.probe, name)), name


def made(name, group, logits_x, logits_z, labels):
    def probe(features, logits):
        return Probe(features, "dense", None, "l2", 1.0, None, 0.5, True, np.asarray(logits, float))

    fitted = (Fitted(0, probe("latents", logits_z)), Fitted(None, probe("x", logits_x)))
    return TaskResult(name, group, "", (1, 1, len(labels)), 0, {}, np.asarray(labels), fitted, ((),))


def test_means_and_differences():
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.5
    logits = rng.standard_normal(200) + labels
    tasks = [made("a", "g", logits, logits + 1, labels), made("b", "g", logits, 2 * logits, labels)]
    tasks.append(made("c", "h", logits, logits, labels))
    summary = summarise(tasks)
    key = Key(0, "latents", "dense", None, "l2")
    by_task = [own[key]["bce"].value - own[DENSE_X]["bce"].value for own in summary.tasks]
    lines = {line.key: line for line in summary.overall}
    assert lines[key].minus["x"]["bce"].value == pytest.approx(np.mean(by_task))
    assert lines[key].minus["dense_x"]["bce"].value == lines[key].minus["x"]["bce"].value
    (own,) = [line for line in summary.groups["h"] if line.key == key]
    assert own.tasks == 1 and all(own.minus["x"][name].value == 0 for name in SCORES)
    assert own.minus["x"]["bce"].ci95 == (0.0, 0.0)  # paired: the same probe differs from itself nowhere
    # Tasks are resampled independently, so a mean over three varies less than one of them.
    widths = [np.ptp(found[key]["bce"].ci95) for found in summary.tasks]
    assert np.ptp(lines[key].found["bce"].ci95) < 0.75 * max(widths)
    samples = [found[DENSE_X]["bce"].samples for found in summary.tasks]
    assert abs(np.corrcoef(samples[0], samples[1])[0, 1]) < 0.2
