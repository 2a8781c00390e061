"""The activations of many latents that are not 0, as one table on the host."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jsaeval.errors import InputError


class Entries(NamedTuple):
    """Activations that are not 0, in any order of latents; those of one latent in the order of row, then position."""

    row: Int[np.ndarray, " entry"]
    position: Int[np.ndarray, " entry"]
    latent: Int[np.ndarray, " entry"]
    value: Float[np.ndarray, " entry"]


class OfLatent(NamedTuple):
    """Where one latent fires, in the order of row, then position, and how much."""

    row: Int[np.ndarray, " entry"]
    position: Int[np.ndarray, " entry"]
    value: Float[np.ndarray, " entry"]


@dataclass(frozen=True)
class SparseLatents:
    """The activations of latents at the counted tokens that are not 0, sorted by latent, row, position.

    Attributes:
        latents: which latents were looked at, ascending.
        offsets: the entries of the i-th of them are `offsets[i] .. offsets[i + 1] - 1`.
        row: number of the row of each entry.
        position: in the row.
        value: the activation, float32.
        n_tokens: how many tokens counted.
    """

    latents: Int[np.ndarray, " latent"]
    offsets: Int[np.ndarray, " edge"]
    row: Int[np.ndarray, " entry"]
    position: Int[np.ndarray, " entry"]
    value: Float[np.ndarray, " entry"]
    n_tokens: int

    @property
    def fires(self) -> Int[np.ndarray, " latent"]:
        """At how many tokens each of `latents` fires."""
        return np.diff(self.offsets)

    @property
    def density(self) -> Float[np.ndarray, " latent"]:
        """Share of the counted tokens at which each of `latents` fires."""
        return self.fires / max(1, self.n_tokens)

    def of(self, latent: int | np.integer) -> OfLatent:
        """The entries of one latent.

        Raises:
            InputError: it was not looked at.
        """
        i = int(np.searchsorted(self.latents, latent))
        if i == len(self.latents) or self.latents[i] != latent:
            raise InputError(f"latent {latent}: the table holds {len(self.latents)} latents, but not this one")
        own = slice(self.offsets[i], self.offsets[i + 1])
        return OfLatent(self.row[own], self.position[own], self.value[own])


def table_of(parts: Sequence[Entries], chosen: Bool[np.ndarray, " latent"], n_tokens: int) -> SparseLatents:
    """The table of all latents that are chosen.

    Args:
        parts: of disjoint rows, in the order of their rows.
        chosen: which latents of the dictionary were looked at.
        n_tokens: how many tokens counted.
    """
    all_ = Entries(*(np.concatenate([part[i] for part in parts]) for i in range(4)))
    order = np.argsort(all_.latent, kind="stable")  # rows and positions are in order already
    latents = np.flatnonzero(chosen).astype(np.int32)
    offsets = np.append(0, np.cumsum(np.bincount(all_.latent, minlength=len(chosen))[latents]))
    return SparseLatents(latents, offsets, all_.row[order], all_.position[order], all_.value[order], n_tokens)
