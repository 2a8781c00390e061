"""Which latents to explain."""

import re

import numpy as np
from jaxtyping import Float, Int

from jsaeval.autointerp.draws import hashed
from jsaeval.errors import InputError


STRATA = 5  # of density, from which equal numbers are drawn
# Upper edges of the strata that reports name.
_NAMED = ((1e-4, "<1e-4"), (1e-3, "1e-4–1e-3"), (1e-2, "1e-3–1e-2"), (1e-1, "1e-2–1e-1"))
DENSITY_STRATA = ("dead", *(name for _, name in _NAMED), "≥1e-1")


def choose_latents(asked: str, density: Float[np.ndarray, " latent"], seed: int = 0) -> Int[np.ndarray, " chosen"]:
    """Latents, ascending.

    A number n is a stratified random sample: the latents that fire are sorted by density and cut into `STRATA` parts of
    the same size, and from each as many are drawn as from any other (one more from some, where n does not divide). If
    fewer than n fire, all that do are taken. Dead latents come only by "all" or by name.

    Args:
        asked: "all", a number of latents, or a list of latents and ranges such as "3,17,40-45". A single latent is
            written with a comma, "7,".
        density: of every latent.
        seed: of the sample.

    Raises:
        InputError: it is none of these, or a latent does not exist.
    """
    text = asked.replace(" ", "")
    if text == "all":
        return np.arange(len(density), dtype=np.int32)
    if text.isdecimal() and text.isascii():
        return _sample(int(text), density, seed)
    parts = [re.fullmatch(r"(\d+)(?:-(\d+))?", part, re.ASCII) for part in text.removesuffix(",").split(",")]
    if not all(parts):
        raise InputError(f"latents {asked!r}: 'all', a number of latents, or a list such as 3,17,40-45 was expected")
    chosen: set[int] = set()
    for part in parts:
        assert part is not None
        first, last = int(part[1]), int(part[2] or part[1])
        if last < first:
            raise InputError(f"latents {asked!r}: the range {part[0]} ends before it begins")
        if last >= len(density):
            raise InputError(f"latents {asked!r}: there is no latent {last}, only 0 to {len(density) - 1}")
        chosen |= set(range(first, last + 1))
    return np.array(sorted(chosen), np.int32)


def _sample(n: int, density: Float[np.ndarray, " latent"], seed: int) -> Int[np.ndarray, " chosen"]:
    if n < 1:
        raise InputError(f"latents {n}: at least 1 is needed")
    alive = np.flatnonzero(density > 0)
    if n >= len(alive):
        return alive.astype(np.int32)
    order = hashed(seed, alive)
    strata = np.array_split(alive[np.lexsort((order, density[alive]))], min(STRATA, n))
    more = np.argsort(hashed(seed, np.arange(len(strata)), len(density)))[: n % len(strata)]
    drawn = []
    for i, own in enumerate(strata):
        wanted = n // len(strata) + int(i in more)
        drawn.append(own[np.argsort(hashed(seed, own), kind="stable")][:wanted])
    return np.sort(np.concatenate(drawn)).astype(np.int32)


def density_stratum(density: float) -> str:
    """The name of the decade of a density, out of `DENSITY_STRATA`."""
    if density <= 0:
        return DENSITY_STRATA[0]
    return next((name for edge, name in _NAMED if density < edge), DENSITY_STRATA[-1])
