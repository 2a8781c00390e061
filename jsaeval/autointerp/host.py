"""`host`: a language model in JAX simulates a latent, all tokens of a window in one forward pass.

Every line of a prompt (`jsaeval.autointerp.host_prompt`) ends in "unknown", and what the LM would have put there is
read from its next-token distribution after the tab: the probabilities of the levels, normalised over the levels, and
the mean level (Bills et al. 2023). Hosted servers no longer give that distribution at every position of a prompt; a
model of one's own does, over the whole vocabulary and not its 15 likeliest tokens.

Prompts are sorted by length and split over the data axis of the mesh. Residual streams are gathered at the tabs before
the unembedding, which a few of them go through at a time: no array of (prompt, position, vocabulary) exists.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from scipy.special import logsumexp

from jsaeval.autointerp.evidence import SIMULATED, Evidence, Split
from jsaeval.autointerp.explanation import LEVELS, Explanation, Simulation
from jsaeval.autointerp.host_prompt import HostPrompt
from jsaeval.autointerp.measures import expected_levels
from jsaeval.errors import InputError
from jsaeval.forward.head import chunk_of, next_token
from jsaeval.lm.card import card_of
from jsaeval.lm.protocol import HostLM, check_host, logit_cap_of
from jsaeval.lm.tokenizer import TextTokenizer
from jsaeval.mesh import DATA, make_mesh, map_rows, on_host, pad_rows, platform_of, shard_rows
from jsaeval.run.batches import default_batch
from jsaeval.run.calibration import Progress
from jsaeval.run.placed import Model


_LENGTHS = 64  # prompts are padded to a multiple, so that few programs are compiled


@dataclass(frozen=True)
class _Job:
    """A prompt: of which pair, split and example, its ids, and where to read."""

    pair: int
    split: Split
    example: int
    ids: Int[np.ndarray, " prompted"]
    at: Int[np.ndarray, " position"]


class HostSimulator:
    """A `Simulator`.

    Args:
        lm: the language model that simulates; `lm` may be the one whose latents are explained.
        tokenizer: of it.
        subject: of the LM whose latents are explained; default the same.
        mesh: devices; prompts are split over its data axis. Default all.
        precision: of matrix products.
        progress: called with "simulation", the prompts just done, and 0: how many there will be is not known.
        stop: called between batches; it may raise.

    Raises:
        InputError: `lm` is no host LM, its tokenizer splits digits, or it has no room for the examples of the prompt.
    """

    def __init__(
        self,
        lm: HostLM,
        tokenizer: TextTokenizer,
        subject: TextTokenizer | None = None,
        *,
        mesh: Mesh | None = None,
        precision: str = "highest",
        progress: Progress = lambda stage, done, total: None,
        stop: Callable[[], None] = lambda: None,
    ):
        check_host(lm)
        self.prompt = HostPrompt.of(tokenizer, subject)
        self._card = card_of(lm)
        if self._card.context is not None and len(self.prompt.head) >= self._card.context:
            raise InputError(
                f"{self._card.name} cannot simulate: its context is {self._card.context:,} positions, and the examples "
                f"of the prompt take {len(self.prompt.head):,}; use an LM with a longer context"
            )
        self._mesh = make_mesh() if mesh is None else mesh
        self._model = Model.place(lm, self._mesh)
        self._progress, self._stop = progress, stop
        chunk = max(1, int(np.prod(chunk_of(1024, platform_of(self._mesh) == "cpu"))))
        levels = jnp.asarray(self.prompt.levels, jnp.int32)

        def run(arrays: Any, tokens: Int[Array, "row position"], at: Int[Array, "row wanted"]):
            whole = self._model.whole(arrays)
            with jax.default_matmul_precision(precision):
                final = whole.final(whole.run(whole.embed(tokens), 0, whole.n_blocks)[0])
                hidden = jnp.take_along_axis(final, at[..., None], axis=1)
                return log_probabilities(whole.unembedding, hidden, levels, whole.vocab, logit_cap_of(whole), chunk)

        self._step = jax.jit(map_rows(run, self._mesh))

    def simulate(self, pairs: Sequence[tuple[Explanation, Evidence]]) -> list[Simulation]:
        """One simulation for each pair; one of an explanation that failed, or that does not fit, has an `error`.

        Raises:
            InputError: the LM gives NaN or Inf.
        """
        jobs, errors = self._jobs(pairs)
        found: dict[tuple[int, Split, int], np.ndarray] = {}
        for job, log_p in self._run(jobs):
            if not np.isfinite(log_p).all():
                raise InputError(f"{self._card.name} gives NaN or Inf as a simulator; try --dtype float32")
            found[job.pair, job.split, job.example] = log_p
        return [
            Simulation(error=errors[i]) if i in errors else self._simulation(i, evidence, found)
            for i, (_, evidence) in enumerate(pairs)
        ]

    def _jobs(self, pairs: Sequence[tuple[Explanation, Evidence]]) -> tuple[list[_Job], dict[int, str]]:
        """All prompts, and why there are none for some pairs."""
        jobs, errors = [], {}
        most = self._card.context
        for i, (explanation, evidence) in enumerate(pairs):
            if (error := explanation.error or evidence.problem) is not None:
                errors[i] = error
                continue
            own = [
                _Job(i, split, k, *self.prompt(explanation.text, example.tokens))
                for split in SIMULATED
                for k, example in enumerate(evidence.examples[split])
            ]
            longest = max((len(job.ids) for job in own), default=0)
            if most is not None and longest > most:
                errors[i] = f"a prompt takes {longest:,} positions, and {self._card.name} has {most:,}"
            else:
                jobs += own
        return jobs, errors

    def _run(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, Float[np.ndarray, "position level"]]]:
        """Log-probabilities of the levels at each token; the longest prompts come first."""
        todo = sorted(jobs, key=lambda job: len(job.ids), reverse=True)
        wanted = max((len(job.at) for job in jobs), default=0)
        share, pending = self._mesh.shape[DATA], None
        while todo or pending is not None:
            dispatched = None
            if todo:
                width = -(-len(todo[0].ids) // _LENGTHS) * _LENGTHS
                size = -(-default_batch(width, self._mesh) // share) * share
                batch, todo = todo[:size], todo[size:]
                tokens, at = np.zeros((size, width), np.int32), np.zeros((size, wanted), np.int32)
                for row, job in enumerate(batch):
                    tokens[row, : len(job.ids)], at[row, : len(job.at)] = job.ids, job.at
                dispatched = batch, self._step(self._model.arrays, *shard_rows((tokens, at), self._mesh))
            if pending is not None:  # fetched while the devices work on the next
                batch, log_p = pending[0], on_host(pending[1])
                for row, job in enumerate(batch):
                    yield job, np.asarray(log_p[row, : len(job.at)], np.float64)
                self._progress("simulation", len(batch), 0)
                self._stop()
            pending = dispatched

    def _simulation(self, pair: int, evidence: Evidence, found: dict[tuple[int, Split, int], np.ndarray]) -> Simulation:
        values, levels, masses = {}, {}, []
        for split in SIMULATED:
            own = [found[pair, split, k] for k in range(len(evidence.examples[split]))]
            masses += [np.exp(logsumexp(log_p, axis=1)) for log_p in own]
            given = [np.exp(log_p - logsumexp(log_p, axis=1, keepdims=True)) for log_p in own]
            levels[split] = [np.pad(p, [(0, 0), (0, LEVELS - p.shape[1])]) for p in given]
            values[split] = [expected_levels(p) for p in levels[split]]
        mass = float(np.concatenate(masses).mean()) if masses else None
        return Simulation(values, levels, mass, highest=len(self.prompt.levels) - 1)


def log_probabilities(
    unembedding: Float[Array, "vocab d_model"],
    hidden: Float[Array, "row wanted d_model"],
    tokens: Int[Array, " token"],
    vocab: int | None = None,
    logit_cap: float | None = None,
    chunk: int = 32,
) -> Float[Array, "row wanted token"]:
    """log p, nats, of some tokens as the next one after each of some final normed residual streams.

    Args:
        unembedding, vocab, logit_cap: see `jsaeval.forward.head.head`.
        hidden: the streams.
        tokens: ids.
        chunk: streams whose logits exist at a time.
    """
    rows, wanted, width = hidden.shape
    flat = pad_rows(hidden.reshape(rows * wanted, width), chunk)

    def some(hidden: Float[Array, "position d_model"]) -> Float[Array, "position token"]:
        return next_token(unembedding, vocab, logit_cap, hidden).log_p(tokens).T

    found = lax.map(some, flat.reshape(-1, chunk, width))
    return found.reshape(-1, len(tokens))[: rows * wanted].reshape(rows, wanted, -1)
