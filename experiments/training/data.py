"""What a training step reads: rows of tokens that go through the LM in the step, or activations collected before."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jsaeval.cache import atomic, cache_dir
from jsaeval.corpus.documents import Documents
from jsaeval.corpus.masks import make_masks
from jsaeval.corpus.rows import Rows, text_rows
from jsaeval.forward.splice import at_hook, prefix
from jsaeval.hooks import Hook
from jsaeval.lm.decoder import Decoder
from jsaeval.lm.load import load_tokenizer


@dataclass(frozen=True)
class Source:
    """Batches by number: the same number gives the same batch, so a resumed training goes on where it stopped.

    Exactly one of `tokens` and `activations` is there. `sha256` changes when the content does.
    """

    sha256: str
    size: int
    batch: int
    tokens: Int[np.ndarray, "row position"] | None = None
    activations: Float[np.ndarray, "token d_in"] | None = None
    seed: int = 0

    @property
    def tokens_per_batch(self) -> int:
        return self.batch * (1 if self.tokens is None else self.tokens.shape[1])

    @property
    def n_tokens(self) -> int:
        """All there are."""
        return self.size if self.tokens is None else int(self.tokens.size)

    def identity(self) -> dict[str, Any]:
        """What decides which tokens a batch holds."""
        kind = "activations" if self.tokens is None else "rows of tokens"
        return {kind: self.size, "batch": self.batch, "seed": self.seed, "content": self.sha256}

    def at(self, number: int) -> Array:
        """Batch `number`: tokens (row, position), or activations (token, d_in) as they are stored."""
        per_epoch = self.size // self.batch
        epoch, i = divmod(number, per_epoch)
        order = _order(self.size, self.seed, epoch)[i * self.batch : (i + 1) * self.batch]
        stored = self.tokens if self.activations is None else self.activations
        assert stored is not None
        return jnp.asarray(np.asarray(stored[np.sort(order)]))


_last_order: dict[tuple[int, int, int], np.ndarray] = {}


def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    key = (size, seed, epoch)
    if key not in _last_order:
        _last_order.clear()
        _last_order[key] = np.random.default_rng([seed, epoch]).permutation(size)
    return _last_order[key]


def token_source(lm: Decoder, text: Documents, n_tokens: int, context: int, batch: int, seed: int = 0) -> Source:
    """Rows of text, tokenised once."""
    rows = _rows(lm, text, n_tokens, context)
    tokens = np.asarray(rows.tokens)
    return Source(rows.sha256(), len(tokens), min(batch, len(tokens)), tokens=tokens, seed=seed)


def activation_source(
    lm: Decoder,
    hook: Hook,
    text: Documents,
    n_tokens: int,
    context: int,
    batch: int,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Source:
    """Activations of the hook over a text, without special tokens and position 0: float16, kept in the cache folder."""
    rows = _rows(lm, text, n_tokens, context)
    key = f"{rows.sha256()[:16]}-{lm.card.sha256[:16]}-{hook.name}"
    path = cache_dir("activations") / f"{key}.npy"
    if not path.exists():
        _collect(lm, hook, rows, path, say)
    x = np.load(path, mmap_mode="r")
    return Source(key, len(x), min(batch, len(x)), activations=x, seed=seed)


def _rows(lm: Decoder, text: Documents, n_tokens: int, context: int) -> Rows:
    rows = text_rows(text, load_tokenizer(lm), -(-n_tokens // (context - 1)), context)
    whole = rows.tokens[:-1] if len(rows.tokens) > 1 else rows.tokens  # the last row may end in padding
    return dataclasses.replace(rows, tokens=whole, documents=None)


def _collect(lm: Decoder, hook: Hook, rows: Rows, path, say) -> None:
    @jax.jit
    def step(lm, tokens):
        return at_hook(lm, hook, prefix(lm, hook, tokens)).astype(jnp.float16)

    masks = make_masks(np.asarray(rows.tokens), lm.card.special_ids, rows.pad)
    parts, start, batch, context = [], time.time(), 16, rows.tokens.shape[1]
    for i in range(0, len(rows.tokens), batch):
        tokens = np.asarray(rows.tokens[i : i + batch], np.int32)
        full = np.pad(tokens, [(0, batch - len(tokens)), (0, 0)])
        parts.append(np.asarray(step(lm, jnp.asarray(full)))[: len(tokens)][masks.metric[i : i + batch]])
        if i % (100 * batch) == 0:
            done = (i + len(tokens)) * context
            say(f"collecting: {done:,} of {rows.tokens.size:,} tokens, {done / (time.time() - start):.0f} tokens/s")
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.concatenate(parts))
