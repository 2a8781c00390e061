"""Random draws that are keyed by what is drawn, never by what else is: the first of several things is the one whose
hash is least. So a latent's examples do not depend on which other latents were asked for, nor a document's split on
how many rows the corpus has."""

import functools
from typing import Any

import numpy as np
from jaxtyping import UInt64


def hashed(*keys: Any) -> UInt64[np.ndarray, "..."]:
    """64 bits for each tuple of keys: integers, or arrays of them that broadcast against each other."""
    return functools.reduce(further, keys, np.zeros(1, np.uint64))


def further(state: UInt64[np.ndarray, "..."], key: Any) -> UInt64[np.ndarray, "..."]:
    """What `hashed` gives with one more key.

    The finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA).
    """
    key = np.atleast_1d(np.asarray(key)).astype(np.int64).view(np.uint64)
    with np.errstate(over="ignore"):
        state = (state ^ key) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform(*keys: Any) -> np.ndarray:
    """As `hashed`, but float64 in [0, 1)."""
    return (hashed(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53
