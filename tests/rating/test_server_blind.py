"""Nothing that a rater's browser gets tells latents from controls: not the source, headers, sizes or timing."""

import re
import time
import zlib

import numpy as np
import pytest

from jsaeval.rating.queue import queue_of
from jsaeval.rating.study import FOLDER, AnswerKey, Identity, write_key, write_study
from tests.rating.serving import Line, Process
from tests.rating.studies import make_item, make_study, on_disk


pytestmark = pytest.mark.slow
ITEMS, BINS = 200, 512


def fetch(folder, study):
    """(source, headers, seconds) of all items, in the order of the study's ids, as one rater gets them."""
    with Process(folder, ("Ada",)) as server:
        line = Line(server.links["Ada"])
        found = {}
        for n, place in enumerate(queue_of(study, "Ada"), 1):
            before = time.perf_counter()
            status, headers, body = line.get(f"/item/{n}")
            found[place.item] = (body, headers.items(), time.perf_counter() - before)
            assert status == 200
        line.close()
    return [found[id] for id in study.items]


def features(pages):
    """What could tell: bytes in ones, twos and fours, tags with their attributes, headers, size and time."""
    rows = []
    for body, headers, seconds in pages:
        own = np.frombuffer(body, np.uint8).astype(np.int64)
        pairs = (own[:-1] * 31 + own[1:]) % BINS
        fours = (own[:-3] * 7919 + own[1:-2] * 104729 + own[2:-1] * 1299709 + own[3:] * 15485863) % BINS
        tags = [zlib.crc32(tag) % BINS for tag in re.findall(rb"<[^>]*>", body)]
        said = [zlib.crc32(f"{name}: {value}".encode()) % BINS for name, value in headers if name != "date"]
        counts = [np.bincount(part, minlength=BINS) for part in (own, pairs, fours, np.array(tags), np.array(said))]
        rows.append(np.concatenate([*counts, [len(body), np.log(seconds)]]))
    return np.array(rows, float)


def cross_validated(x, y, folds=10, most=20, penalty=1.0):
    """Scores from ridge logistic regression on the features that tell most, each from a fit to the other folds."""
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    fold = np.random.default_rng(0).permutation(len(y)) % folds
    scores = np.zeros(len(y))
    for k in range(folds):
        fit = fold != k
        tells = np.abs((y[fit] - y[fit].mean()) @ x[fit])
        own = np.column_stack([x[:, np.argsort(-tells)[:most]], np.ones(len(y))])
        weights = np.zeros(own.shape[1])
        for _ in range(30):  # Newton
            p = 1 / (1 + np.exp(-own[fit] @ weights))
            slope = own[fit].T @ (y[fit] - p) - penalty * weights
            curve = (own[fit] * (p * (1 - p))[:, None]).T @ own[fit] + penalty * np.eye(own.shape[1])
            weights += np.linalg.solve(curve, slope)
        scores[~fit] = own[~fit] @ weights
    return scores


def auc(scores, y):
    return float((scores[y][:, None] > scores[~y]).mean() + (scores[y][:, None] == scores[~y]).mean() / 2)


def interval(scores, y, draws=1000):
    """AUC with its 95 % interval, by resampling items."""
    rng, values = np.random.default_rng(1), []
    for _ in range(draws):
        pick = rng.integers(len(y), size=len(y))
        values.append(auc(scores[pick], y[pick]))
    return auc(scores, y), *np.percentile(values, [2.5, 97.5])


def label(folder, study, labels):
    """Write the key: what nobody but the report reads."""
    groups = {id: "latent" if own else "random_sae" for id, own in zip(study.items, labels, strict=True)}
    items = {id: Identity("sae", group, i, 0.01, 3.0) for i, (id, group) in enumerate(groups.items())}
    sha256 = write_study(folder / FOLDER, study)
    write_key(folder / FOLDER, AnswerKey(study.id, sha256, items, {}, [], {}, {}))


def test_a_classifier_of_all_that_is_sent_is_at_chance(tmp_path):
    """Labels are drawn after the items were made. An interval of 95 % misses one time in twenty: two of three hold."""
    study = make_study(ITEMS, windows=2)
    on_disk(tmp_path, study)
    rng, found = np.random.default_rng(2), []
    for draw in range(3):
        y = rng.permutation(ITEMS) < ITEMS // 2
        label(tmp_path, study, y)
        pages = fetch(tmp_path, study)
        found.append(interval(cross_validated(features(pages), y), y))
        print(f"\nlabels {draw}: AUC {found[-1][0]:.3f} [{found[-1][1]:.3f}, {found[-1][2]:.3f}]", end="")
        assert len({len(body) for body, *_ in pages}) == 1
    # The classifier does find what is there: one more space in the source of one group, at the cost of padding.
    told = []
    for own, (body, *rest) in zip(y, pages, strict=True):
        spaced = re.sub(rb"<!--padding.", b"<!--padding", body.replace(b"<h1 ", b"<h1  "))
        told.append((spaced if own else body, *rest))
    planted = interval(cross_validated(features(told), y), y)
    print(f"\nplanted: AUC {planted[0]:.3f} [{planted[1]:.3f}, {planted[2]:.3f}]")
    assert planted[1] > 0.8
    assert sum(low <= 0.5 <= high for _, low, high in found) >= 2, found


def test_what_surrounds_the_windows_says_nothing_of_them(tmp_path):
    """Groups whose windows differ in number and length: sizes, headers and what is outside the windows are equal."""
    rng = np.random.default_rng(3)
    study = make_study(ITEMS, windows=1)
    y = rng.permutation(ITEMS) < ITEMS // 2
    for id, own in zip(list(study.items), y, strict=True):
        study.items[id] = make_item(rng, id, 4 if own else 2, 11 if own else 7, (3, 7, 11), True)
    on_disk(tmp_path, study)
    label(tmp_path, study, y)
    pages = fetch(tmp_path, study)
    assert len({len(body) for body, *_ in pages}) == 1
    assert len({str([own for own in headers if own[0] != "date"]) for _, headers, _ in pages}) == 1
    middle = set()
    for id, (body, *_) in zip(study.items, pages, strict=True):
        text = re.sub(r"<(ul|ol) class=.*?</\1>", "", body.decode(), flags=re.DOTALL)
        text = re.sub(r'<!--padding\w+-->|name="nonce" value="\w+"', "", text)
        if id not in (
            queue_of(study, "Ada")[0].item,
            queue_of(study, "Ada")[-1].item,
        ):  # these have no Back, and no Next
            middle.add(re.sub(r"\d+", "#", text))  # the number of the item
    assert len(middle) == 1 and middle.pop().count("<") > 200
