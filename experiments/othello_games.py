"""Othello: random legal games as rows of tokens, and the board after each token as the player to move sees it.

Rules: black begins; a move puts a disc on an empty square and must enclose a line of the other's discs, all of which
turn; who has no move passes; the game ends when neither has one. Boards are 64-bit sets of squares, bit r · n + c for
row r and column c, so that a NumPy operation moves all games at once.

Tokens of an n × n board: 0 BOS; 1 + r · n + c a move; `passing(n)` a pass; `end(n)` from the end of the game on, which
is also the padding. A row has n² − 3 tokens: BOS and the first n² − 4 plies, as many as a game without a pass has.
Passes are tokens here, unlike in Othello-GPT (Li et al. 2022, arXiv 2210.13382), so the player to move is the parity.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from jsaeval.errors import InputError


BOS = 0
KINDS = ("mine", "theirs", "empty")
# Boards with and without a property that its probe needs.
LEAST = 20
_STEPS = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
_CHUNK = 1 << 15  # games at a time

Squares = UInt64[np.ndarray, " game"]


def passing(n: int) -> int:
    """The token of a pass."""
    return n * n + 1


def end(n: int) -> int:
    """The token after the last ply."""
    return n * n + 2


def vocab(n: int) -> int:
    return n * n + 3


def context(n: int) -> int:
    """Tokens of a row."""
    return n * n - 3


def start(n: int, games: int) -> tuple[Squares, Squares]:
    """Discs of black, who is to move, and of white: two each on the diagonals of the centre."""
    low, high = n // 2 - 1, n // 2
    black, white = (
        np.uint64(sum(1 << (r * n + c) for r, c in squares))
        for squares in ([(low, high), (high, low)], [(low, low), (high, high)])
    )
    return np.full(games, black), np.full(games, white)


def _bits(n: int, keep) -> np.uint64:
    return np.uint64(sum(1 << (r * n + c) for r in range(n) for c in range(n) if keep(c)))


def _shifts(n: int) -> Iterator[tuple[int, np.uint64]]:
    """Per direction: bits to shift by, and the squares that can be arrived at."""
    for r, c in _STEPS:
        yield r * n + c, _bits(n, lambda column, c=c: 0 <= column - c < n)


def _shift(squares: Squares, by: int, arrive: np.uint64) -> Squares:
    moved = squares << np.uint64(by) if by > 0 else squares >> np.uint64(-by)
    return moved & arrive


def _run(first: Squares, through: Squares, n: int, by: int, arrive: np.uint64) -> Squares:
    """The unbroken line of squares of `through` that begins next to `first`."""
    line = _shift(first, by, arrive) & through
    for _ in range(n - 3):
        line |= _shift(line, by, arrive) & through
    return line


def legal_squares(own: Squares, other: Squares, n: int) -> Squares:
    """Where the player with the discs `own` may move."""
    found, empty = np.zeros_like(own), ~(own | other)
    for by, arrive in _shifts(n):
        found |= _shift(_run(own, other, n, by, arrive), by, arrive) & empty
    return found


def after_move(own: Squares, other: Squares, move: Squares, n: int) -> tuple[Squares, Squares]:
    """Discs of the player to move next and of the one who just moved; `move` is one square, or none for a pass."""
    turned = np.zeros_like(own)
    for by, arrive in _shifts(n):
        line = _run(move, other, n, by, arrive)
        closed = (_shift(line, by, arrive) & own) != 0
        turned |= np.where(closed, line, np.uint64(0))
    return other & ~turned, own | move | turned


def legal_tokens(own: Squares, other: Squares, n: int) -> Bool[np.ndarray, "game vocab"]:
    """Which tokens may come next: the moves, else a pass, else the end."""
    squares = unpack(legal_squares(own, other, n), n)
    stuck = ~squares.any(axis=1)
    over = stuck & (legal_squares(other, own, n) == 0)
    return np.concatenate([np.zeros_like(over)[:, None], squares, (stuck & ~over)[:, None], over[:, None]], axis=1)


def unpack(squares: UInt64[np.ndarray, "*game"], n: int) -> Bool[np.ndarray, "*game square"]:
    """Sets of squares as one boolean per square."""
    return (squares[..., None] >> np.arange(n * n, dtype=np.uint64)) & np.uint64(1) != 0


def random_games(n: int, games: int, seed: int) -> Int[np.ndarray, "game position"]:
    """Games in which every ply is uniform over the legal ones.

    Raises:
        InputError: a board of that size is not played on here.
    """
    if n % 2 or not 4 <= n <= 8:
        raise InputError(f"a board of {n} × {n}: 4, 6 or 8 was expected")
    rng = np.random.default_rng(seed)
    parts = [_random_games(n, min(_CHUNK, games - i), rng) for i in range(0, games, _CHUNK)]
    return np.concatenate(parts)


@functools.lru_cache(maxsize=1)
def disjoint(
    n: int, train: int, held_out: int, seed: int
) -> tuple[Int[np.ndarray, "game position"], Int[np.ndarray, "game position"]]:
    """About `train` games, and `held_out` others, which differ from each other and from every training game.

    Raises:
        InputError: there are not that many.
    """
    rows = random_games(n, 2 * held_out, seed + 1_000_003)
    rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])[:held_out]]
    if len(rows) < held_out:
        raise InputError(f"{held_out} held-out games: only {len(rows)} of {2 * held_out} of this board are different")
    kept = {row.tobytes() for row in rows}
    training = random_games(n, train, seed)
    return training[[row.tobytes() not in kept for row in training]], rows


def _random_games(n: int, games: int, rng: np.random.Generator) -> Int[np.ndarray, "game position"]:
    rows = np.full((games, context(n)), BOS, np.int32)
    own, other = start(n, games)
    for position in range(1, context(n)):
        legal = legal_tokens(own, other, n)
        chosen = np.argmax(legal * (1 - rng.random(legal.shape, np.float32)), axis=1)
        rows[:, position] = chosen
        own, other = after_move(own, other, _square_of(chosen, n), n)
    return rows


def _square_of(tokens: Int[np.ndarray, " game"], n: int) -> Squares:
    """The square of each move; nothing for other tokens."""
    is_move = (tokens > BOS) & (tokens < passing(n))
    bit = np.left_shift(np.uint64(1), np.where(is_move, tokens - 1, 0).astype(np.uint64))
    return np.where(is_move, bit, np.uint64(0))


@dataclass(frozen=True)
class Replayed:
    """What is true after each token.

    `properties`: (square, kind) flattened, kinds as in `KINDS` for the player to move. `legal`: tokens that may follow.
    """

    properties: Bool[np.ndarray, "game position property"]
    legal: Bool[np.ndarray, "game position vocab"]


def replay(rows: Int[np.ndarray, "game position"], n: int) -> Replayed:
    """Play games again.

    Raises:
        ValueError: a token is not legal where it stands.
    """
    own, other = start(n, len(rows))
    properties, legal = [], []
    for position in range(rows.shape[1]):
        token = rows[:, position]
        if position:
            wrong = ~legal[-1][np.arange(len(rows)), token]
            if wrong.any():
                game = int(np.argmax(wrong))
                raise ValueError(f"game {game}, position {position}: token {token[game]} is not legal there")
            own, other = after_move(own, other, _square_of(token, n), n)
        mine, theirs = unpack(own, n), unpack(other, n)
        properties.append(np.stack([mine, theirs, ~(mine | theirs)], axis=-1).reshape(len(rows), -1))
        legal.append(legal_tokens(own, other, n))
    return Replayed(np.stack(properties, axis=1), np.stack(legal, axis=1))


def against_rules(
    log_p: Float[np.ndarray, "game position vocab"], legal: Bool[np.ndarray, "game position vocab"]
) -> dict[str, Float[np.ndarray, " game"]]:
    """Sums over the positions of each game at which it is not over.

    `n`: positions. `legal_top1`: the likeliest token is legal. `legal_mass`: probability of all legal ones. `ce`: the
    cross-entropy in nats, exactly, that is its mean over the legal tokens, of which each is as likely to be played.
    `ce_optimum`: the log of their number, which nothing can be below.

    Args:
        log_p: log-probabilities of the next token.
        legal: which tokens may come next.
    """
    going = ~legal[..., -1]
    options = legal.sum(axis=-1)
    log_p = log_p.astype(np.float64)
    values = {
        "n": np.ones_like(going),
        "legal_top1": np.take_along_axis(legal, log_p.argmax(axis=-1)[..., None], axis=-1)[..., 0],
        "legal_mass": np.where(legal, np.exp(log_p), 0.0).sum(axis=-1),
        "ce": -np.where(legal, log_p, 0.0).sum(axis=-1) / options,
        "ce_optimum": np.log(options),
    }
    return {name: np.where(going, value, 0.0).sum(axis=1) for name, value in values.items()}


class Split(NamedTuple):
    """Boards: the activation after a token, what is true then, and from which game and which place in it."""

    x: Float[np.ndarray, "board d_model"]
    properties: Bool[np.ndarray, "board property"]
    game: Int[np.ndarray, " board"]
    place: Int[np.ndarray, " board"]


class Splits(NamedTuple):
    """Boards to fit on, to choose on, and to score on: of different games."""

    train: Split
    validation: Split
    test: Split

    @property
    def judged(self) -> Int[np.ndarray, " judged"]:
        """Properties that are often enough true and false to be learnt."""
        yes = self.train.properties.sum(axis=0)
        no = len(self.train.properties) - yes
        return np.flatnonzero((yes >= LEAST) & (no >= LEAST))


def shuffled(splits: Splits, seed: int) -> Splits:
    """With the boards of each split in random order, so that no activation has its own."""
    rng = np.random.default_rng(seed)
    return Splits(*(split._replace(properties=rng.permutation(split.properties)) for split in splits))


def rates(splits: Splits, places: int):
    """Features of a board: how often each property holds on training boards at this place in the game."""
    place, properties = splits.train.place, splits.train.properties
    by_place = np.stack([properties[place == i].sum(axis=0) / max(1, (place == i).sum()) for i in range(places)])
    return lambda split: by_place[split.place].astype(np.float32)
