"""The rules of Othello against a slow player, and measures of the board where the answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import othello, othello_games, train_tiny_lm
from experiments.othello_boards import (
    MEASURES,
    best_detectors,
    count,
    detect,
    f1,
    measure_latents,
    measure_linear,
    reconstruct,
    square_tally,
    tally,
    thresholds,
    vote,
    voters,
)
from experiments.othello_games import (
    BOS,
    Split,
    Splits,
    after_move,
    against_rules,
    disjoint,
    end,
    legal_tokens,
    passing,
    random_games,
    rates,
    replay,
    shuffled,
)
from jsaeval.errors import InputError


class SlowPlayer:
    """Othello square by square; colours are +1 and −1."""

    def __init__(self, n):
        self.n, self.turn = n, 1
        self.colour = {(r, c): 0 for r in range(n) for c in range(n)}
        h = n // 2
        self.colour |= {(h - 1, h): 1, (h, h - 1): 1, (h - 1, h - 1): -1, (h, h): -1}

    def turned(self, at, player):
        if self.colour[at] != 0:
            return []
        found = []
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                line, here = [], (at[0] + dr, at[1] + dc)
                while (dr, dc) != (0, 0) and self.colour.get(here, 0) == -player:
                    line.append(here)
                    here = (here[0] + dr, here[1] + dc)
                if self.colour.get(here, 0) == player:
                    found += line
        return found

    def options(self):
        def moves(player):
            return {1 + r * self.n + c for r, c in self.colour if self.turned((r, c), player)}

        if own := moves(self.turn):
            return own
        return {passing(self.n)} if moves(-self.turn) else {end(self.n)}

    def play(self, token):
        if token < passing(self.n):
            at = divmod(token - 1, self.n)
            for square in [*self.turned(at, self.turn), at]:
                self.colour[square] = self.turn
        self.turn = -self.turn

    def properties(self):
        return [c * self.turn == kind for c in self.colour.values() for kind in (1, -1, None)]


@pytest.mark.parametrize(("n", "games"), [(4, 60), (6, 20), (8, 6)])
def test_rules_are_those_of_a_slow_player(n, games):
    rows = random_games(n, games, seed=3)
    told = replay(rows, n)
    for row, properties, legal in zip(rows, told.properties, told.legal, strict=True):
        player = SlowPlayer(n)
        for position, token in enumerate(row):
            if position:
                assert token in player.options()
                player.play(token)
            assert set(np.flatnonzero(legal[position])) == player.options()
            if token != end(n):
                own = np.asarray(list(player.colour.values())) * player.turn
                expected = np.stack([own == 1, own == -1, own == 0], axis=1).ravel()
                np.testing.assert_array_equal(properties[position], expected)
    assert (rows[:, 0] == BOS).all() and rows.shape == (games, n * n - 3)
    if n == 4:
        assert (rows == passing(n)).any() and (rows == end(n)).any()


def test_the_first_two_plies_by_hand():
    """Black plays row 2, column 1, which turns the white disc to its right."""
    told = replay(np.array([[BOS, 14, 8]]), 6)
    assert set(np.flatnonzero(told.legal[0, 0])) == {9, 14, 23, 28}
    assert set(np.flatnonzero(told.legal[0, 1])) == {8, 10, 20}
    mine, theirs, empty = told.properties[0, 1].reshape(36, 3).T
    assert set(np.flatnonzero(mine)) == {3 * 6 + 3}
    assert set(np.flatnonzero(theirs)) == {2 * 6 + 1, 2 * 6 + 2, 2 * 6 + 3, 3 * 6 + 2}
    assert empty.sum() == 31
    # White plays row 1, column 1: the diagonal to its disc at (3, 3) turns (2, 2).
    assert set(np.flatnonzero(told.properties[0, 2].reshape(36, 3)[:, 1])) == {7, 14, 21}


def test_pass_and_end_by_hand():
    """Two discs in the corner of a row: only the one in the corner can enclose the other."""
    corner, beside = np.array([1], np.uint64), np.array([2], np.uint64)
    none = np.array([0], np.uint64)
    assert np.flatnonzero(legal_tokens(beside, corner, 4)).tolist() == [passing(4)]
    assert np.flatnonzero(legal_tokens(corner, beside, 4)).tolist() == [3]
    assert np.flatnonzero(legal_tokens(corner, none, 4)).tolist() == [end(4)]
    assert [int(x[0]) for x in after_move(beside, corner, none, 4)] == [1, 2]
    assert [int(x[0]) for x in after_move(corner, beside, np.array([4], np.uint64), 4)] == [0, 7]


def test_lines_do_not_go_around_the_edge():
    """Discs at the end of row 0 and the beginning of row 1 are no neighbours."""
    own, other = np.array([1 << 3], np.uint64), np.array([1 << 4], np.uint64)
    assert np.flatnonzero(legal_tokens(own, other, 4)).tolist() == [end(4)]


def test_illegal_games_and_boards_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="position 2: token 14"):
        replay(np.array([[BOS, 14, 14]]), 6)
    with pytest.raises(InputError, match="5 × 5"):
        random_games(5, 1, 0)
    monkeypatch.setattr(othello_games, "random_games", lambda n, games, seed: np.zeros((games, 13), np.int32))
    with pytest.raises(InputError, match="only 1 of 6 of this board"):
        disjoint(4, 1, 3, 0)


def test_games_are_uniform_over_moves_and_differ_by_seed():
    rows = random_games(6, 4000, seed=0)
    share = np.bincount(rows[:, 1], minlength=39)[[9, 14, 23, 28]] / len(rows)
    assert np.abs(share - 0.25).max() < 4 * (0.25 * 0.75 / 4000) ** 0.5
    np.testing.assert_array_equal(rows, random_games(6, 4000, seed=0))
    assert (random_games(6, 4000, seed=1) != rows).any()


def test_a_perfect_player_is_at_the_optimum_and_an_ignorant_one_is_not():
    legal = replay(random_games(4, 50, seed=0), 4).legal
    perfect = np.log(np.maximum(legal / legal.sum(-1, keepdims=True), 1e-30))
    sums = against_rules(perfect, legal)
    assert sums["n"].sum() == (~legal[..., end(4)]).sum() < legal[..., 0].size
    np.testing.assert_allclose(sums["legal_top1"], sums["n"])
    np.testing.assert_allclose(sums["legal_mass"], sums["n"])
    np.testing.assert_allclose(sums["ce"], sums["ce_optimum"])
    ignorant = against_rules(np.full(legal.shape, -np.log(19)), legal)
    np.testing.assert_allclose(ignorant["ce"], sums["n"] * np.log(19))
    assert ignorant["legal_mass"].sum() < 0.3 * sums["n"].sum()


def splits(games=(150, 40, 60), features=None):
    """The first row of squares in random games; x is what `features` makes of the properties."""
    rows = random_games(4, sum(games), seed=5)
    properties, mask = replay(rows, 4).properties[..., :12], (rows != end(4)) & (rows != BOS)
    parts, first = [], 0
    for size in games:
        game, place = np.nonzero(mask[first : first + size])
        truth = properties[first : first + size][game, place]
        x = truth if features is None else features(truth)
        parts.append(Split(np.asarray(x, np.float32), truth, game, place))
        first += size
    return Splits(*parts)


def test_an_oracle_scores_one():
    """Latents are the properties, each with a scale of its own."""
    scales = np.random.default_rng(0).uniform(0.5, 20, 12)
    line = measure_latents(splits(features=lambda truth: truth * scales), lambda split: split.x)
    measured = {name: value.value for name, value in line.measures.items()}
    assert measured["coverage"] == measured["accuracy"] == measured["reconstruction"] == 1
    assert tuple(measured) == MEASURES and line.about["coverage_in_sample"] == 1 and measured["probe_loss"] < 0.01
    assert all(value.ci95() == (1, 1) for name, value in line.measures.items() if name != "probe_loss")


def test_an_oracle_of_other_boards_scores_like_chance():
    own = splits()
    wrong = shuffled(own, 0)
    line, constant = (
        measure_latents(wrong, features) for features in (lambda s: s.x, lambda s: np.ones((len(s.x), 1), np.float32))
    )
    chance = {name: value.value for name, value in constant.measures.items()}
    measured = {name: value.value for name, value in line.measures.items()}
    rate = own.test.properties[:, own.judged].mean(axis=0)
    assert chance["coverage"] == pytest.approx((2 * rate / (1 + rate)).mean())
    assert chance["probe_loss"] == pytest.approx(
        -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)).mean(), rel=0.02
    )
    assert measured["probe_loss"] == pytest.approx(chance["probe_loss"], rel=0.03)
    assert measured["coverage"] < chance["coverage"] and measured["reconstruction"] < 0.02


def test_linear_probes_find_a_rotated_oracle_that_no_latent_is():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    own = splits(games=(60, 20, 30), features=lambda truth: truth @ rotation)
    dense, single = measure_linear(own, lambda s: s.x), measure_latents(own, lambda s: s.x)
    assert dense.measures["accuracy"].value > 0.995 and dense.measures["reconstruction"].value > 0.99
    assert single.measures["accuracy"].value < 0.9 and single.measures["reconstruction"].value < 0.7
    gap = dense.measures["probe_loss"].minus(single.measures["probe_loss"])
    assert gap.ci95()[1] < 0


def test_coverage_by_hand():
    """Latent 0 finds property 0 if it has to exceed half of its maximum; latent 1 never fires."""
    latents = np.array([[4.0, 0], [3, 0], [1, 0], [1, 0], [0, 0]])
    properties = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [0, 0]], bool)
    above = thresholds(latents)
    np.testing.assert_allclose(above[:, 0], np.linspace(0, 4, 11))
    assert np.isinf(above[:, 1]).all()
    counts = count(latents, properties, above)
    np.testing.assert_array_equal(counts.yes[:, 0], [4, 4, 4, 2, 2, 2, 2, 2, 1, 1, 0])
    np.testing.assert_array_equal(counts.right[[0, 3, 8], 0], [[2, 2], [2, 1], [1, 1]])
    found = best_detectors(counts, np.array([2.0, 2.0]), above)
    # Property 0: above 1.2, F1 1. Property 1: above 0, 2 · 2 / (4 + 2); above 3.2 it is 2 · 1 / (1 + 2), the same.
    np.testing.assert_array_equal(found.latent, [0, 0])
    np.testing.assert_allclose(found.f1, [1, 2 / 3])
    np.testing.assert_array_equal(detect(latents, found)[:, 0], properties[:, 0])


def test_reconstruction_by_hand():
    """Two squares of three kinds, two games: a right vote beside a wrong one is lost."""
    truth = np.array([[1, 0, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1]], bool)
    said = np.array([[1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 0, 1, 0, 0]], bool)
    game = np.array([0, 0, 1])
    tallied = square_tally(said, truth, game)
    np.testing.assert_array_equal(tallied, [[2, 1], [1, 1], [1, 1]])
    np.testing.assert_allclose(f1(tallied, np.array([[1.0, 1], [1, 0], [0, 2]])), [6 / 10, 4 / 6, 4 / 8])
    by_property = tally(said, truth, game)
    np.testing.assert_array_equal(by_property[:, :, 0], [[1, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(by_property.sum(axis=(1, 2)), [4, 2, 2])


def test_voters_need_precision_and_hits():
    latents = np.zeros((40, 4))
    latents[:20, 0] = latents[:19, 1] = latents[:9, 2] = latents[:10, 3] = 1
    properties = np.zeros((40, 3), bool)
    properties[:19] = True
    votes = voters(count(latents, properties, thresholds(latents)))
    assert votes[0].all(axis=1).tolist() == [True, True, False, True]  # 19 of 20 is 0.95; 9 hits are too few
    assert not votes[-1].any()  # nothing exceeds its own maximum
    properties[18] = False
    votes = voters(count(latents, properties, thresholds(latents)))
    assert votes[0].any(axis=1).tolist() == [False, False, False, True]  # 18 of 20, 18 of 19


def test_reconstruction_takes_the_threshold_of_the_validation_boards():
    """The latent fires a little by mistake, so thresholds below 0.3 of its maximum make no voter."""
    truth = np.zeros((60, 3), bool)
    truth[:30, 0] = truth[30:, 1] = True
    latent = np.where(truth[:, :1], 1.0, 0.25)
    board, share = reconstruct((latent, truth), (latent, truth), latent)
    np.testing.assert_array_equal(board[:, 0], truth[:, 0])
    assert share == pytest.approx(0.3) and not board[:, 1:].any()
    one = np.ones((1, 1))
    assert f1(square_tally(board, truth, np.zeros(60, int)), one)[0] == pytest.approx(2 / 3)
    assert not vote(latent, np.array([1.0]), np.ones((1, 3), bool)).any()


CONFIG = dict(board=4, games=96, n_blocks=1, d_model=16, n_heads=2, d_mlp=16, batch=32, block=0, held_out=(30, 10, 20))


def test_lm_stage_is_done_once_and_belongs_to_its_flags(tmp_path, monkeypatch):
    config = othello.Config(out=tmp_path, **CONFIG)
    monkeypatch.setattr(train_tiny_lm, "train", lambda shape, rows, held_out: train_tiny_lm.initial(shape))
    lm, _ = othello.language_model(config)
    assert (lm.vocab, lm.card.bos, lm.card.pad) == (19, BOS, end(4))
    monkeypatch.setattr(train_tiny_lm, "train", None)
    again, _ = othello.language_model(config)
    np.testing.assert_array_equal(lm.embedding, again.embedding)
    with pytest.raises(InputError, match="another LM"):
        othello.language_model(othello.Config(out=tmp_path, **CONFIG | {"games": 64}))

    rows = othello.held_out_games(config)
    trained = {tuple(row) for row in othello.training_games(config).tolist()}
    assert len({tuple(row) for row in rows.tolist()}) == 60 and not trained & {tuple(row) for row in rows.tolist()}
    known = othello.quality(lm, rows, config)
    assert known["lm"]["ce"]["value"] > known["lm"]["ce_optimum"]["value"]
    own = othello.splits_of(lm, rows, config)
    assert [len(np.unique(split.game)) for split in own] == [30, 10, 20]
    # The activation of a board is that of its own row.
    alone = lm.run(lm.embed(jnp.asarray(rows[40:41])), 0, 1)[0]
    np.testing.assert_allclose(
        own.test.x[: (own.test.game == 0).sum()], alone[0, 1:][: (own.test.game == 0).sum()], atol=1e-5
    )
    known_rates = rates(own, 13)(own.test)
    place = own.train.place == own.test.place[7]
    np.testing.assert_allclose(known_rates[7], own.train.properties[place].mean(axis=0), rtol=1e-6)
