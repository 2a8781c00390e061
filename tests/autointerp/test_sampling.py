"""Evidence from tables that are made by hand or at random, against plain loops."""

import numpy as np
import pytest

from jsaeval.autointerp.evidence import INTERVALS, SPLITS
from jsaeval.autointerp.sampling import LEAST, Amounts, Sizes, evidence
from jsaeval.autointerp.sparse import Entries, table_of
from jsaeval.autointerp.windows import cut_windows
from jsaeval.corpus.masks import Masks
from jsaeval.corpus.rows import Rows
from tests.autointerp.test_windows import corpus


N_LATENTS = 6


def dense(rows, masks, seed=1):
    """z (row, position, latent): one dead, one rare, one nearly always on; the others in between."""
    rng = np.random.default_rng(seed)
    z = rng.gamma(1.0, 1.0, (*rows.tokens.shape, N_LATENTS)).astype(np.float32)
    share = np.array([0.0, 10 / masks.metric.sum(), 0.95, 0.05, 0.02, 0.2])
    return np.where((rng.random(z.shape) < share) & masks.metric[..., None], z, 0).astype(np.float32)


def table(z, masks):
    row, position, latent = (own.astype(np.int32) for own in np.nonzero(z))
    entries = Entries(row, position, latent, z[row, position, latent])
    return table_of([entries], np.ones(z.shape[-1], bool), int(masks.metric.sum()))


@pytest.fixture(scope="module")
def made():
    rows, masks = corpus()
    z = dense(rows, masks)
    return rows, masks, z, evidence(table(z, masks), rows, masks)


def test_examples_show_what_is_there(made):
    rows, _, z, found = made
    for own in found:
        largest = z[..., own.latent].max()
        for split in SPLITS:
            for example in own.of(split):
                span = slice(example.start, example.start + len(example.tokens))
                np.testing.assert_array_equal(example.tokens, rows.tokens[example.row, span])
                np.testing.assert_array_equal(example.activations, z[example.row, span, own.latent])
                assert set(rows.documents[example.row, span].tolist()) == {example.document}
                before = np.flatnonzero(rows.documents[example.row] == example.document)
                before = rows.tokens[example.row, before[before < example.start]]
                np.testing.assert_array_equal(example.before, before)
                assert example.begins == (example.document == rows.documents[example.row, 1])
                peak = example.activations.max()
                assert example.interval == int(np.ceil(peak / largest * INTERVALS)) if peak else example.interval == 0
                if example.kind == "active":
                    assert example.activations[example.focus] > 0
                else:
                    assert example.activations[example.focus] == peak


def test_no_document_twice_in_a_kind_and_none_in_two_splits(made):
    _, _, _, found = made
    for own in found:
        documents = [{example.document for example in own.of(split)} for split in SPLITS]
        assert len(set.union(*documents)) == sum(map(len, documents))
        for split in SPLITS:
            for kind in ("top", "interval", "active", "random"):
                listed = [example.document for example in own.of(split, kind)]
                assert len(listed) == len(set(listed))


def test_as_many_as_were_asked_for(made):
    rows, masks, z, found = made
    sizes = Sizes()
    windows = cut_windows(rows, masks)
    for own in found[2:]:
        for split in SPLITS:
            amounts: Amounts = getattr(sizes, split)
            assert len(own.of(split, "top")) == amounts.top and len(own.of(split, "random")) == amounts.random
            in_split = windows.of(split)
            assert own.strata[split].sum() == len(in_split)
            peaks = [z[windows.row[i], windows.start[i] : windows.stop[i], own.latent].max() for i in in_split.tolist()]
            intervals = np.ceil(np.array(peaks) / z[..., own.latent].max() * INTERVALS).astype(int)
            np.testing.assert_array_equal(own.strata[split], np.bincount(intervals, minlength=INTERVALS + 1))
            counted = np.bincount([e.interval for e in own.of(split, "interval")], minlength=INTERVALS + 1)
            assert (counted <= np.minimum(amounts.interval, own.strata[split])).all() and counted[0] == 0
            assert counted[INTERVALS] == min(amounts.interval, own.strata[split][INTERVALS])


def test_top_is_the_largest_of_its_split(made):
    rows, masks, z, found = made
    windows = cut_windows(rows, masks)
    for own in found[2:]:
        for i, split in enumerate(SPLITS):
            documents = np.unique(windows.document[windows.split == i])
            best = [z[..., own.latent][(rows.documents == document) & masks.metric].max() for document in documents]
            peaks = [example.activations.max() for example in own.of(split, "top")]
            np.testing.assert_array_equal(peaks, np.sort(best)[::-1][: len(peaks)])


def test_statistics_and_token_table(made):
    rows, masks, z, found = made
    windows = cut_windows(rows, masks)
    explain = masks.metric & (windows.split[windows.at] == 0)
    for own in found:
        values = z[..., own.latent][masks.metric].astype(np.float64)
        active, statistics = values[values > 0], own.statistics
        assert (statistics.n_tokens, statistics.fires) == (masks.metric.sum(), len(active))
        assert statistics.density == len(active) / masks.metric.sum()
        assert statistics.counts.sum() == len(active) and statistics.edges[0] == 0
        if len(active):
            assert statistics.largest == active.max() == statistics.edges[-1]
            np.testing.assert_allclose(statistics.mean_active, active.mean(), rtol=1e-12)
        tokens, values = rows.tokens[explain], z[..., own.latent][explain].astype(np.float64)
        np.testing.assert_array_equal(own.tokens.ids, np.unique(tokens[values > 0]))
        np.testing.assert_allclose(own.tokens.overall, values.mean(), rtol=1e-12)
        assert own.tokens.n_tokens == len(values) and own.tokens.density == (values > 0).mean()
        for i, token in enumerate(own.tokens.ids):
            there = values[tokens == token]
            assert (own.tokens.seen[i], own.tokens.fires[i]) == (len(there), (there > 0).sum())
            np.testing.assert_allclose(own.tokens.mean[i], there.mean(), rtol=1e-12)


def test_problems_are_named(made):
    rows, masks, z, found = made
    assert found[0].problem == "dead" and not any(e.activations.any() for e in found[0].of("score"))
    fires = found[1].statistics.fires
    assert 0 < fires < LEAST and found[1].problem == f"{fires} examples, at least 20 are needed"
    assert [own.problem for own in found[2:]] == [None] * 4
    windows = cut_windows(rows, masks)
    z = np.where((windows.split[windows.at] == 1)[..., None], z, 0)
    (silent,) = evidence(table(z, masks), rows, masks, [2])
    assert silent.problem == "never fires in the split explain and score"


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_draws_depend_on_the_latent_alone(made):
    rows, masks, z, found = made
    (alone,) = evidence(table(np.where(np.arange(z.shape[-1]) == 4, z, 0), masks), rows, masks, [4])
    smaller = Sizes(explain=Amounts(10, 2, 4, 10))
    (fewer,) = evidence(table(z, masks), rows, masks, [4], sizes=smaller)
    (other,) = evidence(table(z, masks), rows, masks, [4], seed=1)
    for split in SPLITS:
        assert all(map(same, alone.of(split), found[4].of(split)))
        for kind in ("top", "interval", "random"):
            assert all(map(same, fewer.of(split, kind), found[4].of(split, kind)))
    assert all(map(same, fewer.of("explain", "active"), found[4].of("explain", "active")))
    assert [e.row for e in other.of("explain", "random")] != [e.row for e in alone.of("explain", "random")]
    places = [[(e.row, e.start) for e in own.of("explain", "random")] for own in found]
    assert len(set(map(tuple, places))) == len(places)  # each latent has its own


def test_contexts_with_the_same_tokens_count_once():
    rows, masks = corpus(longest=25)
    tokens = np.where(masks.metric, 5, rows.tokens).astype(np.int32)
    z = np.zeros((*tokens.shape, 1), np.float32)
    z[masks.metric] = 1
    same_text = Rows("test", tokens, rows.documents, 0)
    (own,) = evidence(table(z, masks), same_text, masks)
    lengths = [len(example.tokens) for example in own.of("explain", "top")]
    assert len(lengths) == 9 and sorted(min(n, 9) for n in lengths) == list(range(1, 10))


def test_draws_are_uniform():
    """Each document of ten tokens; the latent fires at one, two or three of them, more strongly at the third."""
    n = 240
    documents = np.concatenate([np.full((n, 1), -1), np.arange(n)[:, None] * np.ones((1, 10), int)], axis=1)
    tokens = np.random.default_rng(0).integers(3, 50, documents.shape).astype(np.int32)
    metric = documents >= 0
    rows, masks = Rows("test", tokens, documents.astype(np.int32), None), Masks(metric, metric, metric)
    fires = 1 + np.arange(n) % 3
    z = np.zeros((*tokens.shape, 1), np.float32)
    for row, count in enumerate(fires):
        z[row, 1 : 1 + count, 0] = 0.75 + 0.01 * np.arange(count)
    z[0, 1] = 1.0
    sizes = Sizes(explain=Amounts(0, 12, 12, 12))
    drawn = {kind: np.zeros(4, int) for kind in ("interval", "active", "random")}
    positions, split_counts = np.zeros(4, int), np.zeros(4, int)
    for seed in range(60):
        (own,) = evidence(table(z, masks), rows, masks, seed=seed, sizes=sizes)
        for kind, counts in drawn.items():
            for example in own.of("explain", kind):
                counts[fires[example.document]] += 1
                if kind == "active":
                    positions[example.focus] += 1
        windows = cut_windows(rows, masks, seed)
        split_counts += np.bincount(fires[windows.document[windows.split == 0]], minlength=4)

    def share(counts):
        return counts[1:] / counts.sum()

    available = share(split_counts)
    np.testing.assert_allclose(share(drawn["random"]), available, atol=0.05)
    np.testing.assert_allclose(share(drawn["interval"]), available, atol=0.05)
    # An activation of a document that has k of them is drawn k times as often.
    np.testing.assert_allclose(share(drawn["active"]), available * [1, 2, 3] / (available @ [1, 2, 3]), atol=0.05)
    np.testing.assert_allclose(positions[:3] / positions.sum(), np.array([3, 2, 1]) / 6, atol=0.05)
