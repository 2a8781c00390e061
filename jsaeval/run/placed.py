"""The LM and the SAEs of a pass on the devices of a mesh."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from jsaeval.forward.latents import LatentCounts, first_latents, no_counts
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import MODEL, on_host, place
from jsaeval.sae.module import SAE, SAECard


Counts = tuple[LatentCounts, ...]


@dataclass(frozen=True)
class Model:
    """An LM cut into its arrays, which cross `jit`, and the rest of the pytree, which may hold anything."""

    arrays: PyTree
    rest: PyTree

    @classmethod
    def place(cls, lm: HostLM, mesh: Mesh) -> "Model":
        """With its arrays on the devices of the mesh; whole on every one, if it says nothing of their axes."""
        arrays, rest = eqx.partition(lm, eqx.is_array)
        return cls(place(arrays, mesh), rest)

    def whole(self, arrays: PyTree) -> HostLM:
        return eqx.combine(arrays, self.rest)


@dataclass(frozen=True)
class Dictionaries:
    """SAEs on the devices, where they may be padded; `sizes` are their numbers of latents."""

    saes: tuple[SAE, ...]
    sizes: tuple[int, ...]
    mesh: Mesh

    @classmethod
    def place(cls, saes: Sequence[SAE], mesh: Mesh) -> "Dictionaries":
        # Cards are static fields: without them, SAEs of one shape share one compiled program.
        bare = tuple(dataclasses.replace(sae, card=SAECard()) for sae in saes)
        return cls(place(bare, mesh), tuple(sae.d_sae for sae in saes), mesh)

    def with_scale(self, mean_norm: float) -> "Dictionaries":
        return dataclasses.replace(self, saes=tuple(sae.with_scale(mean_norm) for sae in self.saes))

    def no_counts(self) -> Counts:
        """Counters of every SAE, on the devices, at zero."""
        return self.put(tuple(no_counts(sae.d_sae) for sae in self.saes))

    def put(self, counts: Counts) -> Counts:
        """Counters from the host."""
        return place(counts, self.mesh, P(MODEL))

    def fetch(self, counts: Counts) -> Counts:
        """Counters on the host, as they are on the devices."""
        host = jax.tree.map(lambda x: np.array(on_host(x)), counts)
        return tuple(first_latents(own, size) for own, size in zip(host, self.sizes, strict=False))
