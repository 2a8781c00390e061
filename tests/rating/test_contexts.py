"""Windows that raters see: from every interval, inside one document, of different documents."""

import numpy as np
import pytest

from jsaeval.autointerp.sparse import OfLatent
from jsaeval.corpus.masks import make_masks
from jsaeval.corpus.rows import Rows
from jsaeval.rating.contexts import EITHER_SIDE, Contexts
from jsaeval.rating.prepare import matched
from jsaeval.rating.study import INTERVALS


N_ROWS, POSITIONS = 60, 24
TOKENS = np.random.default_rng(0).integers(3, 900, (N_ROWS, POSITIONS)).astype(np.int32)
# Two documents a row; the second goes on in the next row.
DOCUMENTS = np.repeat(np.arange(N_ROWS)[:, None], POSITIONS, axis=1)
DOCUMENTS[:, 14:] += 1
DOCUMENTS[:, 0] = -1
MASKS = make_masks(TOKENS)


def contexts(documents=DOCUMENTS, seed=0):
    rows = Rows("test", TOKENS, None if documents is None else documents.astype(np.int32), None)
    return Contexts.of(rows, MASKS, lambda id: f"<{id}>", seed)


def entries(n=400, seed=1):
    rng = np.random.default_rng(seed)
    flat = np.sort(rng.choice(N_ROWS * POSITIONS, n, replace=False))
    flat = flat[flat % POSITIONS > 0]
    value = rng.gamma(1.0, 1.0, len(flat)).astype(np.float32) + np.float32(1e-3)
    return OfLatent((flat // POSITIONS).astype(np.int32), (flat % POSITIONS).astype(np.int32), value)


def places(windows):
    """(row, position) of the focus of each window; tokens are nearly all different."""
    for window in windows:
        ids = np.array([int(own[1:-1]) for own in window.tokens])
        for row, start in np.argwhere(ids[0] == TOKENS):
            if np.array_equal(TOKENS[row, start : start + len(ids)], ids):
                yield int(row), int(start) + window.focus
                break
        else:
            raise AssertionError("not in the text")


def test_every_window_lies_in_its_interval():
    own = entries()
    found = contexts().by_interval(own, 5, 0, 0, 7)
    largest = own.value.max()
    assert len(found) == INTERVALS and found[-1] and max(map(len, found)) <= 5
    for i, windows in enumerate(found, 1):
        for window, (row, position) in zip(windows, places(windows), strict=True):
            (at,) = np.flatnonzero((own.row == row) & (own.position == position))
            assert (i - 1) / INTERVALS < own.value[at] / largest <= i / INTERVALS + 1e-7
            assert window.shares[window.focus] == pytest.approx(own.value[at] / largest, abs=6e-4)
        inside = ((own.value / largest > (i - 1) / INTERVALS) & (own.value / largest <= i / INTERVALS)).any()
        assert inside == bool(windows)
    assert max(share for windows in found for own in windows for share in own.shares) == 1.0


def test_a_window_is_of_one_document():
    for windows in contexts().by_interval(entries(), 5, 1):
        for window, (row, position) in zip(windows, places(windows), strict=True):
            first, last = position - window.focus, position - window.focus + len(window.tokens) - 1
            assert (DOCUMENTS[row, first : last + 1] == DOCUMENTS[row, position]).all()
            assert window.focus <= EITHER_SIDE and last - position <= EITHER_SIDE
            # As long as the document allows.
            assert window.focus == EITHER_SIDE or DOCUMENTS[row, first - 1] != DOCUMENTS[row, position]
            assert (
                last - position == EITHER_SIDE
                or last + 1 == POSITIONS
                or DOCUMENTS[row, last + 1] != DOCUMENTS[row, position]
            )


def test_no_document_twice():
    found = contexts().by_interval(entries(60), 5, 2)
    documents = [DOCUMENTS[place] for windows in found if len(windows) > 1 for place in places(windows)]
    assert len(documents) == len(set(documents)) > 5
    # All of one row: an interval that would stay empty shows one all the same.
    crowded = OfLatent(
        np.zeros(10, np.int32), np.arange(2, 12, dtype=np.int32), np.linspace(0.1, 1, 10, dtype=np.float32)
    )
    assert [len(windows) for windows in contexts().by_interval(crowded, 5, 0)] == [0, *[1] * 10]


def test_draws_depend_on_the_item_and_the_seed_alone():
    own = entries()
    one = contexts().by_interval(own, 2, 0, 0, 7)
    assert one == contexts().by_interval(own, 2, 0, 0, 7)
    assert one != contexts().by_interval(own, 2, 0, 0, 8) != contexts(seed=1).by_interval(own, 2, 0, 0, 8)
    more = contexts().by_interval(own, 2, 0, 0, 7)
    assert all(a == b[: len(a)] for a, b in zip(one, more, strict=True))


def test_without_documents_each_row_is_one():
    found = contexts(None).by_interval(entries(), 5, 0)
    rows = [row for windows in found if len(windows) > 1 for row, _ in places(windows)]
    assert len(rows) == len(set(rows)) > 10


def test_nothing_fires():
    none = OfLatent(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert contexts().by_interval(none, 5, 0) == ((),) * INTERVALS


def test_controls_are_matched_with_latents():
    control, latent = entries(400, 2), entries(90, 3)
    control = control._replace(value=control.value + 5)
    found = matched(control, latent)
    # The same shares of the largest, so that no interval has more or fewer.
    shares = np.sort(latent.value / latent.value.max())
    np.testing.assert_allclose(np.sort(found.value / found.value.max()), shares, rtol=1e-6)
    assert found.value.max() == control.value.max()
    # At the tokens where the control is strongest, in their order.
    strongest = np.argsort(-control.value, kind="stable")[: len(latent.value)]
    place = {(int(control.row[i]), int(control.position[i])): control.value[i] for i in strongest}
    kept = [(int(row), int(position)) for row, position in zip(found.row, found.position, strict=True)]
    assert set(kept) == set(place)
    assert (np.diff(found.row.astype(int) * POSITIONS + found.position) > 0).all()
    by_control = np.argsort([-place[own] for own in kept], kind="stable")
    assert (np.diff(found.value[by_control]) <= 0).all()


def test_a_control_that_fires_less_often_keeps_all():
    few, many = entries(30, 3), entries(400, 2)
    found = matched(few, many)
    np.testing.assert_array_equal(found.row, few.row)
    shares = np.sort(found.value / found.value.max())
    np.testing.assert_allclose(shares[[0, -1]], [many.value.min() / many.value.max(), 1.0], rtol=1e-6)


def test_a_control_that_always_fires_as_much():
    flat = entries(90, 2)._replace(value=np.full(len(entries(90, 2).value), 3.0, np.float32))
    found = matched(flat, entries(50, 3))
    assert np.isfinite(found.value).all() and found.value.max() == 3 and len(np.unique(found.value)) > 20


def test_counted_tokens_only():
    """What is no document does not come into a window."""
    rows = Rows("test", TOKENS, DOCUMENTS.astype(np.int32), None)
    own = OfLatent(np.array([3], np.int32), np.array([1], np.int32), np.array([2.0], np.float32))
    (window,) = Contexts.of(rows, MASKS, str, 0).by_interval(own, 5, 0)[-1]
    assert window.focus == 0 and window.tokens == tuple(map(str, TOKENS[3, 1:6]))
