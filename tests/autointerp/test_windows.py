"""Windows by hand, and what must hold of any corpus."""

import numpy as np
import pytest

from jsaeval.autointerp.draws import hashed, uniform
from jsaeval.autointerp.evidence import SPLITS, WINDOW
from jsaeval.autointerp.windows import cut_windows, split_of, texts_of
from jsaeval.corpus.masks import Masks, make_masks
from jsaeval.corpus.rows import Rows, with_documents


def corpus(n_rows=60, context=90, seed=0, longest=120):
    """Documents of 1 to `longest` tokens packed into rows as `text_rows` does; the last row is padded."""
    rng = np.random.default_rng(seed)
    lengths = []
    while sum(lengths) < n_rows * (context - 1) - 40:
        lengths.append(int(rng.integers(1, longest)))
    numbers = np.full(n_rows * (context - 1), -1, np.int32)
    filled = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[: len(numbers)]
    numbers[: len(filled)] = filled
    documents = np.full((n_rows, context), -1, np.int32)
    documents[:, 1:] = numbers.reshape(n_rows, -1)
    tokens = np.where(documents >= 0, rng.integers(3, 50, documents.shape), 0).astype(np.int32)
    tokens[:, 0] = 1
    return Rows("test", tokens, documents, 0), make_masks(tokens, (0, 1, 2), 0)


def test_windows_by_hand():
    documents = np.array([[-1, *[7] * 70, 8, 8, *[9] * 33, -1]], np.int32)
    tokens = np.full(documents.shape, 5, np.int32)
    metric = documents >= 0
    metric[0, [1, 20, 72]] = False  # the first token of 7, one inside of it, the last of 8
    windows = cut_windows(Rows("hand", tokens, documents, 0), Masks(metric, metric, metric))
    columns = windows.document, windows.start, windows.stop, windows.first
    spans = list(zip(*(column.tolist() for column in columns), strict=True))
    # 18 tokens, 50 in two pieces, one, 33 in two pieces.
    assert spans == [(7, 2, 20, 1), (7, 21, 46, 1), (7, 46, 71, 1), (8, 71, 72, 71), (9, 73, 89, 73), (9, 89, 106, 73)]
    assert windows.at[0, [1, 2, 20, 70, 71, 72, 106]].tolist() == [-1, 0, -1, 2, 3, -1, -1]
    assert windows.begins.tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("metric", ["no-special", "all"])
def test_every_counted_token_is_in_one_window(known, metric):
    rows, _ = corpus()
    rows = rows if known else Rows("test", rows.tokens, None, 0)
    masks = make_masks(rows.tokens, (0, 1, 2), 0, metric)
    windows = cut_windows(rows, masks)
    np.testing.assert_array_equal(windows.at >= 0, masks.metric)
    length = windows.stop - windows.start
    assert length.min() >= 1 and length.max() <= WINDOW
    for i in range(len(length)):
        span = slice(windows.start[i], windows.stop[i])
        assert (windows.at[windows.row[i], span] == i).all()
        found = set(rows.documents[windows.row[i], span].tolist()) - {-1} if known else {int(windows.row[i])}
        assert found == {int(windows.document[i])}
    # As few as there can be, and of nearly equal length.
    key = windows.document.astype(np.int64) * len(rows.tokens) + windows.row
    for own in (length[key == one] for one in np.unique(key)):
        assert len(own) == -(-own.sum() // WINDOW) and np.ptp(own) <= 1


def test_splits_are_of_documents():
    rows, masks = corpus()
    windows = cut_windows(rows, masks, seed=3)
    documents = [set(windows.document[windows.of(split)].tolist()) for split in SPLITS]
    assert all(documents) and len(set.union(*documents)) == sum(map(len, documents))
    crossing = np.unique(windows.document).size < len(np.unique(np.stack([windows.document, windows.row]), axis=1).T)
    assert crossing  # documents do go on in the next row
    # Fewer rows, the same splits; another seed, others.
    fewer = Rows("test", rows.tokens[:9], rows.documents[:9], 0)
    part = cut_windows(fewer, Masks(*(mask[:9] for mask in masks)), seed=3)
    np.testing.assert_array_equal(part.split, windows.split[: len(part.split)])
    assert (cut_windows(rows, masks, seed=4).split != windows.split).any()
    shares = np.bincount(split_of(np.arange(100_000), 0)) / 100_000
    np.testing.assert_allclose(shares, [0.5, 0.2, 0.3], atol=0.01)


def test_documents_of_the_same_text_are_in_one_split():
    rng = np.random.default_rng(0)
    texts = [rng.integers(3, 50, rng.integers(1, 40)) for _ in range(40)]
    order = rng.permutation(120) % 40  # each of them three times
    body = [(token, i) for i, text in enumerate(order) for token in texts[text]]
    body = np.array(body[: len(body) // 19 * 19]).reshape(-1, 19, 2).transpose(2, 0, 1)  # nothing is padded
    tokens, documents = (
        np.pad(own, [(0, 0), (1, 0)], constant_values=bos) for own, bos in ((body[0], 1), (body[1], -1))
    )
    first, whole = texts_of(tokens, documents), documents.max()  # the last document is cut
    assert (first[documents < 0] == -1).all() and (first <= documents).all()
    kept = (documents >= 0) & (documents < whole)
    np.testing.assert_array_equal(order[first[kept]], order[documents[kept]])
    assert len(np.unique(first[kept])) == len(np.unique(order[:whole]))
    rows = Rows("test", tokens.astype(np.int32), documents.astype(np.int32), 0)
    windows = cut_windows(rows, make_masks(rows.tokens, (0, 1, 2), 0))
    texts_in = [{int(order[i]) for i in windows.document[windows.of(split)] if i < whole} for split in SPLITS]
    assert all(texts_in) and len(set.union(*texts_in)) == sum(map(len, texts_in))
    # Where nothing is known of documents, rows are compared.
    same = Rows("test", np.tile(rows.tokens[:3], (9, 1)), None, 0)
    split = cut_windows(same, make_masks(same.tokens, (0, 1, 2), 0)).split
    assert (split.reshape(9, 3, -1) == split.reshape(9, 3, -1)[:1]).all()


def test_text_begins_behind_bos():
    documents = np.array([[-1, 4, 4, 5, 5], [-1, 5, 5, 5, 6], [-1, 6, 6, -1, 6], [-1, -1, 7, 7, -1]], np.int32)
    rows = Rows("hand", np.full(documents.shape, 5, np.int32), documents, 0)
    metric = documents >= 0
    metric[1, 1:4] = False  # where nothing of the beginning counts, the rest is no beginning, either
    windows = cut_windows(rows, Masks(metric, metric, metric))
    assert windows.document.tolist() == [4, 5, 6, 6, 6, 7]
    assert windows.begins.tolist() == [True, False, False, True, False, False]  # the last is padded on the left
    # Several windows of one stretch begin alike; where nothing is known of documents, every row is one.
    rows, masks = corpus()
    windows = cut_windows(rows, masks)
    heads = np.unique(np.stack([windows.row, windows.first])[:, windows.begins], axis=1).T
    assert sorted(heads[:, 0].tolist()) == list(range(len(rows.tokens))) and (~windows.begins).any()
    windows = cut_windows(Rows("test", rows.tokens, None, 0), masks)
    assert windows.begins.all() and (windows.first == 1).all()  # BOS is no text


BOS, EOS, PAD = 1, 2, 0
# Rows of bare tokens: what they are, the ids, documents, and which windows begin behind BOS alone.
KINDS_OF_ROWS = {
    "BOS": ([1, 5, 6, 7, 8], [-1, 0, 0, 0, 0], [True]),
    "no BOS": ([5, 6, 7, 8, 9], [0, 0, 0, 0, 0], [False]),
    "EOS inside": ([1, 5, 2, 7, 8], [-1, 0, 0, 1, 1], [True, False]),
    "EOS and BOS inside": ([1, 5, 2, 1, 8], [-1, 0, 0, 1, 2], [True, False]),
    "padded on the right": ([1, 5, 6, 0, 0], [-1, 0, 0, -1, -1], [True]),
    "padded on the left": ([0, 0, 1, 5, 6], [-1, -1, -1, 0, 0], [False]),
    "padding alone": ([0, 0, 0, 0, 0], [-1, -1, -1, -1, -1], []),
}


@pytest.mark.parametrize("kind", KINDS_OF_ROWS)
def test_documents_of_bare_tokens(kind):
    ids, expected, begins = KINDS_OF_ROWS[kind]
    tokens = np.array([ids, [1, 5, 6, 7, 8]], np.int32)
    bare, masks = Rows("bare", tokens, None, PAD), make_masks(tokens, (PAD, BOS, EOS), PAD)
    rows = with_documents(bare, masks, (PAD, BOS, EOS))
    assert rows.documents[0].tolist() == expected
    bos, *text = rows.documents[1].tolist()
    assert bos == -1 and len(set(text)) == 1 and text[0] > max(expected)
    windows = cut_windows(rows, masks)
    assert windows.begins[windows.row == 0].tolist() == begins and windows.begins[-1]
    assert with_documents(rows, masks, ()) is rows
    # Where special tokens count, too, every counted token is in a window.
    masks = make_masks(tokens, (PAD, BOS, EOS), PAD, "all")
    rows = with_documents(bare, masks, (PAD, BOS, EOS))
    windows = cut_windows(rows, masks)
    np.testing.assert_array_equal(windows.at >= 0, masks.metric)
    assert windows.begins[-1] and (windows.first[-1], windows.start[-1]) == (0, 0)


def test_hashes_are_spread():
    drawn = uniform(0, np.arange(300)[:, None], np.arange(300)[None])
    counts = np.histogram(drawn, 100, (0, 1))[0]
    assert ((counts - 900) ** 2 / 900).sum() < 160  # chi², 99 degrees of freedom: p = 1e-4
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.02
    assert len(np.unique(hashed(0, np.arange(300)[:, None], np.arange(300)[None]))) == 90_000
    assert hashed(1, 2)[0] != hashed(2, 1)[0]
