"""A latent as a function of text: its activation at the last token of token sequences that are made up as needed."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jsaeval.corpus.texts import TokenIds
from jsaeval.errors import InputError
from jsaeval.forward.splice import prefix, read_at_hook
from jsaeval.hooks import Hook
from jsaeval.lm.card import card_of
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import DATA, looked_up, map_rows, on_host, replicate, shard_rows
from jsaeval.run.lengths import padded_length, rows_at_once
from jsaeval.run.placed import Dictionaries, Model
from jsaeval.sae.module import SAE


# Activations of latents at the last tokens of texts, which need not have BOS.
Activate = Callable[[Sequence[TokenIds], Sequence[int]], Float[np.ndarray, " text"]]


class LatentFunction:
    """The latents of an SAE as functions of text.

    Texts are sorted by length and padded on the right, where a causal LM does not look; only the wanted latent of each
    leaves the device. All latents are encoded, because some activation functions compare them.
    """

    def __init__(
        self,
        lm: HostLM,
        sae: SAE,
        hook: Hook,
        *,
        mesh: Mesh,
        precision: str = "highest",
        rows_at_once: int | None = None,
        start: int | None = None,
    ):
        """Put the LM and the SAE on the devices.

        Args:
            lm: the language model.
            sae: the SAE; one of `expected_average` norm with its scale (`SAE.with_scale`).
            hook: where it reads.
            mesh: devices; texts are split over its data axis.
            precision: of matrix products.
            rows_at_once: texts of a batch; default as many as suit the machine. It changes no result.
            start: the id that every text begins with; default BOS of the LM, else EOS.

        Raises:
            InputError: `start` is not given, and the card of the LM has neither BOS nor EOS.
        """
        card = card_of(lm)
        start = next((i for i in (start, card.bos, card.eos) if i is not None), None)
        if start is None:
            raise InputError("the LM has neither BOS nor EOS to begin a text with; give start=")
        self.start, self._mesh, self._latents = start, mesh, sae.d_sae
        self._rows = rows_at_once and -(-rows_at_once // mesh.shape[DATA]) * mesh.shape[DATA]
        self._model, self._sae = Model.place(lm, mesh), Dictionaries.place([sae], mesh).saes[0]
        self._block = replicate(jnp.int32(hook.block), mesh)

        def run(shared, tokens: Int[Array, "row position"], last: Int[Array, " row"], latent: Int[Array, " row"]):
            arrays, sae, block = shared
            whole, own = self._model.whole(arrays), hook.at(block)
            with jax.default_matmul_precision(precision):
                read = read_at_hook(whole, own, prefix(whole, own, tokens))[0].astype(sae.W_enc.dtype)
                z = sae.encode(jnp.take_along_axis(read, last[:, None, None], axis=1)[:, 0])
            row = jnp.arange(len(latent), dtype=latent.dtype)
            return looked_up(lambda i: z[row, i], latent, z.T)

        self._step = jax.jit(map_rows(run, mesh))

    def __call__(self, texts: Sequence[TokenIds], latents: Sequence[int]) -> Float[np.ndarray, " text"]:
        """Activations at the last tokens, in the unit of the latents.

        Args:
            texts: token ids of each; BOS is put before those that do not begin with it.
            latents: index of the latent that is wanted of each.

        Raises:
            InputError: an index is not one of the SAE's, or the LM gives NaN or Inf.
        """
        starts = np.array([self.start], np.int32)
        begun = [len(text) > 0 and text[0] == self.start for text in texts]
        whole = [text if own else np.concatenate([starts, text]) for own, text in zip(begun, texts, strict=True)]
        return self.exactly([text.astype(np.int32) for text in whole], latents)

    def exactly(self, texts: Sequence[TokenIds], latents: Sequence[int]) -> Float[np.ndarray, " text"]:
        """The same for texts that are whole as they are, none of them empty."""
        if len(latents) and not 0 <= min(latents) <= max(latents) < self._latents:
            raise InputError(f"latents {min(latents)} to {max(latents)}: the SAE has {self._latents:,}")
        found = np.zeros(len(texts), np.float32)
        order, pending = np.argsort([-len(text) for text in texts], kind="stable"), None
        while len(order) or pending is not None:
            dispatched = None
            if len(order):
                width = padded_length(len(texts[order[0]]))
                size = self._rows or rows_at_once(width, self._mesh)
                chosen, order = order[:size], order[size:]
                dispatched = (
                    chosen,
                    self._dispatch([texts[i] for i in chosen], [latents[i] for i in chosen], size, width),
                )
            if pending is not None:  # fetched while the device works on the next
                found[pending[0]] = on_host(pending[1])[: len(pending[0])]
            pending = dispatched
        if not np.isfinite(found).all():
            raise InputError("the LM gives NaN or Inf at the hook; try --dtype float32")
        return found

    def _dispatch(self, texts: list[TokenIds], latents: list[int], size: int, width: int) -> Array:
        tokens, last, latent = np.zeros((size, width), np.int32), np.zeros(size, np.int32), np.zeros(size, np.int32)
        for row, text in enumerate(texts):
            tokens[row, : len(text)], last[row], latent[row] = text, len(text) - 1, latents[row]
        return self._step((self._model.arrays, self._sae, self._block), *shard_rows((tokens, last, latent), self._mesh))
