"""Encoding and norms of activations that are at hand, mapped over the data axis of a mesh."""

from typing import NamedTuple

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jsaeval.errors import InputError
from jsaeval.forward.sums import code_norms, square
from jsaeval.mesh import DATA, MODEL, map_rows
from jsaeval.numerics import wide
from jsaeval.sae.module import SAE


class Norms(NamedTuple):
    """Per token: `l0`, `l1` and `l1_scaled` of the latents, ‖x‖², ‖x̂‖² and ‖x − x̂‖²."""

    l0: Int[Array, "row position"]
    l1: Float[Array, "row position"]
    l1_scaled: Float[Array, "row position"]
    x_sq: Float[Array, "row position"]
    xhat_sq: Float[Array, "row position"]
    squared_error: Float[Array, "row position"]


def encode(
    sae: SAE, x: Float[Array, "row position d_in"], *, mesh: Mesh | None = None, precision: str = "highest"
) -> Float[Array, "row position latent"]:
    """The latents of activations.

    Args:
        sae: the SAE.
        x: activations at its hook.
        mesh: map the rows over its data axis, and the latents over its model axis.
        precision: of matrix products.
    """

    def run(sae, x):
        with jax.default_matmul_precision(precision):
            return sae.encode(x)

    return map_rows(run, mesh, P(DATA, None, MODEL))(sae, x)[..., : sae.d_sae]


def norms(
    sae: SAE, x: Float[Array, "row position d_in"], *, mesh: Mesh | None = None, precision: str = "highest"
) -> Norms:
    """Norms of the latents and of the reconstruction, per token (METRICS.md). Arguments as for `encode`.

    Raises:
        InputError: the SAE is a transcoder, which does not reconstruct x.
    """
    if sae.card.hook_out is not None or sae.d_in != sae.d_out:
        raise InputError(f"{sae.card.name}: a transcoder; what it predicts is not x (evaluate compares it)")

    def run(sae, x):
        with jax.default_matmul_precision(precision):
            z = sae.encode(x)
            reconstruction, x = wide(sae.decode(z, x)), wide(x)
            return Norms(*code_norms(sae, z), square(x), square(reconstruction), square(x - reconstruction))

    return map_rows(run, mesh)(sae, x)
