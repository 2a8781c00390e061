"""Features of texts: latents, reconstruction and error of an SAE, pooled over the tokens of each text.

Every token is encoded first and pooled after. `last` takes the last token, `mean` and `max` all tokens but BOS.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jsaeval.corpus.texts import TokenIds
from jsaeval.mesh import DATA, MODEL, map_rows, on_host, shard_rows
from jsaeval.probes.activations import Activations
from jsaeval.run.lengths import padded_length
from jsaeval.sae.module import SAE, SAECard


Pool = Literal["last", "mean", "max"]
# Numbers of a batch of latents, so that wide SAEs need not much memory.
_NUMBERS = 2**24


class Pooled(NamedTuple):
    """Of each text: x, and of an SAE the latents z, the reconstruction x̂ and the error x − x̂."""

    x: Float[np.ndarray, "text d_in"]
    latents: Float[np.ndarray, "text latent"]
    reconstruction: Float[np.ndarray, "text d_in"]
    error: Float[np.ndarray, "text d_in"]


class Encoder:
    """An SAE on the devices of a mesh that reads activations of texts."""

    def __init__(self, sae: SAE, pool: Pool, mesh: Mesh, precision: str = "highest"):
        # Cards are static: without them, SAEs of one shape share one compiled program.
        self._sae, self._mesh = dataclasses.replace(sae, card=SAECard()), mesh
        self._step = _program(pool, mesh, precision)

    def __call__(self, texts: Sequence[Activations]) -> Pooled:
        """Pooled features of texts, in their order.

        Args:
            texts: activations at each token; of `last` that of the last token.
        """
        widths = [self._sae.d_in, self._sae.d_sae, self._sae.d_in, self._sae.d_in]
        out = [np.zeros((len(texts), width), np.float32) for width in widths]
        for rows, x, length in self._batches(texts):
            for own, part in zip(out, self._step(self._sae, *shard_rows((x, length), self._mesh)), strict=True):
                own[rows] = on_host(part)[: len(rows), : own.shape[1]]
        return Pooled(*out)

    def _batches(self, texts: Sequence[Activations]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(which texts, their activations filled up, their lengths); batches of one length have one shape."""
        lengths = np.array([len(own) for own in texts], np.int32)
        order, share = np.argsort(-lengths, kind="stable"), self._mesh.shape[DATA]
        while len(order):
            width = 1 if lengths[order[0]] == 1 else padded_length(int(lengths[order[0]]))
            size = -(-min(256, max(1, _NUMBERS // (width * self._sae.d_sae))) // share) * share
            rows, order = order[:size], order[size:]
            x, length = np.zeros((size, width, self._sae.d_in), np.float32), np.ones(size, np.int32)
            for i, row in enumerate(rows):
                x[i, : lengths[row]], length[i] = texts[row], lengths[row]
            yield rows, x, length


@functools.cache
def _program(pool: Pool, mesh: Mesh, precision: str) -> Callable:
    def run(sae: SAE, x: Float[Array, "row position d_in"], length: Int[Array, " row"]) -> tuple[Array, ...]:
        with jax.default_matmul_precision(precision):
            z = sae.encode(x.astype(sae.W_enc.dtype))
            reconstruction = sae.decode(z, x.astype(z.dtype))
        parts = x, z, reconstruction, x - reconstruction.astype(x.dtype)
        return tuple(_pooled(part.astype(jnp.float32), length, pool) for part in parts)

    whole = P(DATA)
    return jax.jit(map_rows(run, mesh, (whole, P(DATA, MODEL), whole, whole)))


def _pooled(
    values: Float[Array, "row position feature"], length: Int[Array, " row"], pool: Pool
) -> Float[Array, "row feature"]:
    if pool == "last":
        return jnp.take_along_axis(values, length[:, None, None] - 1, axis=1)[:, 0]
    counted = (jnp.arange(values.shape[1], dtype=jnp.int32)[None] < length[:, None])[..., None]
    if pool == "max":
        return jnp.max(jnp.where(counted, values, -jnp.inf), axis=1)
    return jnp.sum(jnp.where(counted, values, 0.0), axis=1) / length[:, None].astype(values.dtype)


def bag_of_words(
    texts: Sequence[TokenIds], train: Int[np.ndarray, " train"], most: int = 4096
) -> Float[np.ndarray, "text word"]:
    """Which tokens occur in each text: 1 or 0 for those that occur in most training texts, at most `most` of them.

    Args:
        texts: token ids, BOS first, which is not counted.
        train: which texts choose the tokens. Those in only one of them are left out.
    """
    found = [np.unique(ids[1:]) for ids in texts]
    tokens, counts = np.unique(np.concatenate([found[i] for i in train]), return_counts=True)
    kept = np.sort(tokens[np.lexsort((tokens, -counts))][: min(most, int((counts > 1).sum()))])
    out = np.zeros((len(texts), most), np.float32)  # one width for all tasks; a column of zeros gets no weight
    for row, ids in enumerate(found):
        out[row, np.flatnonzero(np.isin(kept, ids))] = 1
    return out
