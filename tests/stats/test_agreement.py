"""Agreement: closed forms, the `krippendorff` package, a slow AC1 of its own, and resamples that are clusters."""

import itertools
from functools import partial

import krippendorff
import numpy as np
import pytest

from jsaeval.stats.agreement import ac1s, alphas, gwet_ac1, krippendorff_alpha, resampled
from jsaeval.stats.bootstrap import interval


NAN = np.nan
LEVELS = ("nominal", "ordinal", "interval")


def random_table(rng, units=None, raters=None):
    """Ratings of a rubric, some missing; raters agree more or less."""
    units, raters = units or int(rng.integers(2, 40)), raters or int(rng.integers(2, 7))
    highest = int(rng.integers(1, 15))
    truth = rng.integers(0, highest + 1, units)
    noise = rng.integers(0, highest + 1, (units, raters))
    found = np.where(rng.random((units, raters)) < rng.random(), truth[:, None], noise).astype(np.float64)
    found[rng.random((units, raters)) < rng.uniform(0, 0.6)] = NAN
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_alpha_is_that_of_the_krippendorff_package(level):
    rng = np.random.default_rng(7)
    compared = 0
    for _ in range(200):
        table = random_table(rng)
        pairs = np.isfinite(table).sum(1) >= 2
        if len(np.unique(table[pairs][np.isfinite(table[pairs])])) < 2:
            assert np.isnan(krippendorff_alpha(table, level))
            continue
        theirs = krippendorff.alpha(reliability_data=table.T, level_of_measurement=level)
        assert krippendorff_alpha(table, level) == pytest.approx(theirs, rel=0, abs=1e-9)
        compared += 1
    assert compared > 150


def test_alpha_of_numbers_far_from_zero():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((30, 3)) * 0.1
    assert krippendorff_alpha(table + 1e6, "interval") == pytest.approx(krippendorff_alpha(table, "interval"), abs=1e-7)


def test_alpha_by_hand():
    # Two raters, four units; one pair differs. n_0 = 3, n_1 = 5, n = 8; D_o = 2 / 8; D_e = 2 · 3 · 5 / (8 · 7).
    table = np.array([[0, 0], [1, 1], [1, 1], [0, 1]], np.float64)
    for level in LEVELS:  # with two values they are the same
        assert krippendorff_alpha(table, level) == pytest.approx(1 - (2 / 8) / (30 / 56))
    assert krippendorff_alpha(np.array([[0.0, 0], [3, 3], [1, 1]]), "ordinal") == 1.0
    # As far apart as can be: D_o = 1, D_e = 2 · 2 · 2 / (4 · 3).
    assert krippendorff_alpha(np.array([[0.0, 1], [1, 0]]), "nominal") == pytest.approx(1 - 1 / (8 / 12))


def test_what_has_no_agreement():
    nothing = np.full((3, 2), NAN)
    alone = np.array([[1.0, NAN], [NAN, 2.0]])
    same = np.full((4, 3), 2.0)
    for level in LEVELS:
        assert all(np.isnan(krippendorff_alpha(own, level)) for own in (nothing, alone, same, np.zeros((0, 2))))
    assert np.isnan(gwet_ac1(nothing, 4)) and np.isnan(gwet_ac1(alone, 4)) and np.isnan(gwet_ac1(np.zeros((0, 2)), 4))
    assert gwet_ac1(same, 4) == 1.0  # no variation is no trouble to AC1


def slow_ac1(table, q):
    """AC1 pair by pair, of the values 0 .. q − 1."""
    agree, chance = [], []
    for row in table:
        given = [value for value in row if not np.isnan(value)]
        if len(given) >= 2:
            pairs = list(itertools.permutations(range(len(given)), 2))
            agree.append(sum(given[i] == given[j] for i, j in pairs) / len(pairs))
        if given:
            chance.append([given.count(k) / len(given) for k in range(q)])
    pi = [sum(own[k] for own in chance) / len(chance) for k in range(q)]
    p_e = sum(share * (1 - share) for share in pi) / (q - 1)
    p_a = sum(agree) / len(agree)
    return (p_a - p_e) / (1 - p_e)


def test_ac1_is_that_of_pairs():
    rng = np.random.default_rng(3)
    for _ in range(100):
        table = random_table(rng)
        table[0, :2] = 1.0  # a pair there is
        q = int(np.nanmax(table)) + int(rng.integers(1, 4))
        assert gwet_ac1(table, max(q, 2)) == pytest.approx(slow_ac1(table, max(q, 2)), abs=1e-12)


def test_ac1_by_hand():
    # Gwet 2008's point: 118 of 125 agree on yes and nobody on no; κ is below 0, AC1 is 0.94.
    table = np.array([[1.0, 1.0]] * 118 + [[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 2)
    pi = (118 + 7 / 2) / 125
    chance = 2 * pi * (1 - pi)
    assert gwet_ac1(table, 2) == pytest.approx((118 / 125 - chance) / (1 - chance))
    assert gwet_ac1(table, 2) == pytest.approx(0.9408, abs=1e-4)
    assert krippendorff_alpha(table, "nominal") < 0


@pytest.mark.parametrize("level", LEVELS)
def test_a_resample_is_a_table_with_units_repeated(level):
    rng = np.random.default_rng(5)
    table = random_table(rng, 12, 4)
    counts = rng.integers(0, 3, (20, 12)).astype(np.float64)
    repeated = [np.repeat(table, own.astype(int), 0) for own in counts]
    assert np.allclose(alphas(table, counts, level), [krippendorff_alpha(own, level) for own in repeated])
    assert np.allclose(ac1s(table, counts, 15), [gwet_ac1(own, 15) for own in repeated])


def test_clusters_are_drawn_whole():
    def share(ratings, counts):
        seen.append(counts)
        return counts @ ratings[:, 0] / counts.sum(1)

    seen: list[np.ndarray] = []
    table = np.array([[1.0, 1], [0, 0], [1, 1], [0, 1], [NAN, NAN], [0, NAN]])
    value, samples, n = resampled(share, table, ["a", "b", "a", "b", "c", "b"], 0)
    assert n == 2 and value == 2 / 5  # nobody rated c; the lonely unit of b belongs to b
    assert np.array_equal(seen[1][:, 0], seen[1][:, 2]) and np.array_equal(seen[1][:, 1], seen[1][:, 4])
    assert set(np.round(samples, 6)) == {0.0, 0.4, 1.0}
    assert resampled(share, table, ["a", "b", "a", "b", "c", "d"], 0)[2] == 2  # one rater says nothing on agreement
    value, samples, n = resampled(share, table[4:], ["c", "c"], 0)
    assert n == 0 and np.isnan(value) and np.isnan(samples).all()


def test_intervals_cover():
    """Of 40 samples of 40 items, about 19 in 20 intervals hold α of 4,000 items: chance of fewer than 32 is 1e-4."""
    rng = np.random.default_rng(11)

    def draw(items):
        truth = rng.integers(0, 6, (items, 1)).repeat(3, 0)  # three units an item, that share its truth
        noisy = truth + rng.integers(-1, 2, (3 * items, 2))
        return noisy.astype(np.float64), list(np.arange(3 * items) // 3)

    true = krippendorff_alpha(draw(4000)[0], "ordinal")
    hit = 0
    for i in range(40):
        table, clusters = draw(40)
        ends = interval(resampled(partial(alphas, level="ordinal"), table, clusters, i)[1])
        assert ends is not None and ends[0] < ends[1]
        hit += ends[0] <= true <= ends[1]
    assert hit >= 32 and 0.5 < true < 0.95
