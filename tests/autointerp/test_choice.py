"""Which latents are chosen."""

import numpy as np
import pytest

from jsaeval.autointerp.choice import DENSITY_STRATA, choose_latents, density_stratum
from jsaeval.errors import InputError


DENSITY = np.where(np.arange(1000) % 4, 10 ** np.random.default_rng(0).uniform(-5, -0.5, 1000), 0.0)


def test_all_and_lists():
    assert choose_latents("all", DENSITY).tolist() == list(range(1000))
    assert choose_latents("40-43, 3,17,41", DENSITY).tolist() == [3, 17, 40, 41, 42, 43]
    assert choose_latents("7,", DENSITY).tolist() == [7]
    assert choose_latents("999-999", DENSITY).tolist() == [999]


def test_a_number_is_as_many_of_each_density():
    alive = np.flatnonzero(DENSITY)
    chosen = choose_latents("52", DENSITY)
    assert len(set(chosen.tolist())) == 52 and set(chosen.tolist()) <= set(alive.tolist())
    edges = np.quantile(DENSITY[alive], np.linspace(0, 1, 6))
    counts = np.histogram(DENSITY[chosen], edges)[0]
    assert sorted(counts.tolist()) == [10, 10, 10, 11, 11]
    assert choose_latents("52", DENSITY).tolist() == chosen.tolist()
    assert choose_latents("52", DENSITY, seed=1).tolist() != chosen.tolist()
    assert len(choose_latents("3", DENSITY)) == 3
    assert choose_latents("5000", DENSITY).tolist() == alive.tolist()
    drawn = np.concatenate([choose_latents("50", DENSITY, seed) for seed in range(300)])
    counts = np.bincount(drawn, minlength=1000)[alive]
    chance = 50 / len(alive)
    spread = ((counts - 300 * chance) ** 2 / (300 * chance * (1 - chance))).sum() / len(alive)
    assert abs(spread - 1) < 5 * np.sqrt(2 / len(alive))  # chi² over its degrees of freedom


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("0", "at least 1 is needed"),
        ("3,1000", "there is no latent 1000, only 0 to 999"),
        ("9-4", "ends before it begins"),
        ("-3", "'all', a number of latents, or a list"),
        ("3,,4", "'all', a number of latents, or a list"),
        ("", "'all', a number of latents, or a list"),
        ("some", "'all', a number of latents, or a list"),
        ("٣,4", "'all', a number of latents, or a list"),
    ],
)
def test_bad_input_gets_one_line(asked, line):
    with pytest.raises(InputError, match=line) as error:
        choose_latents(asked, DENSITY)
    assert "\n" not in str(error.value)


def test_strata_have_names():
    named = [density_stratum(own) for own in (0.0, 5e-5, 1e-4, 2e-3, 0.05, 0.1, 1.0)]
    assert named == ["dead", "<1e-4", "1e-4–1e-3", "1e-3–1e-2", "1e-2–1e-1", "≥1e-1", "≥1e-1"]
    assert set(named) == set(DENSITY_STRATA)
