"""Documents → rows of tokens that remember their documents. Tokenised once, memory-mapped after.

A row is BOS, then text until it is full. Documents follow each other with a blank line between them; one that does not
fit goes on in the next row, so no text is lost. There are no special tokens inside a row.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from jsaeval.cache import atomic, cache_dir
from jsaeval.corpus.documents import Documents, open_corpus
from jsaeval.corpus.masks import Masks
from jsaeval.errors import InputError
from jsaeval.lm.tokenizer import TextTokenizer


SEPARATOR = "\n\n"
_LAYOUT = "1"  # of the cached rows; raise it when packing changes
_ENCODE_AT_ONCE = 256


@dataclass(frozen=True)
class Rows:
    """Token rows, ready to run.

    `documents` holds the number of the document of each token (-1: BOS or padding), or is None for bare token arrays.
    `pad` is the id that fills up the last row.
    """

    name: str
    tokens: Integer[np.ndarray, "row position"]
    documents: Integer[np.ndarray, "row position"] | None
    pad: int | None

    def sha256(self) -> str:
        """Of the token ids, as little-endian int32 in row-major order."""
        return hashlib.sha256(np.ascontiguousarray(self.tokens, "<i4").tobytes()).hexdigest()


def text_rows(corpus: str | Documents, tokenizer: TextTokenizer, rows: int, context: int) -> Rows:
    """The leading rows of a corpus.

    Args:
        corpus: a name, file or folder, see `jsaeval.corpus.documents.open_corpus`; or an opened corpus.
        tokenizer: of the LM.
        rows: how many rows; fewer come back if the corpus ends before.
        context: positions of a row, BOS included.

    Raises:
        InputError: the corpus cannot be read or is empty, or the tokenizer has neither BOS nor EOS.
    """
    documents = open_corpus(corpus) if isinstance(corpus, str) else corpus
    start = tokenizer.bos if tokenizer.bos is not None else tokenizer.eos
    if start is None:
        raise InputError("the tokenizer has neither BOS nor EOS to begin a row with; give --tokens FILE.npy")
    pad = next(i for i in (tokenizer.pad, tokenizer.eos, start) if i is not None)
    key = "\n".join((_LAYOUT, documents.identity, tokenizer.sha256, str(rows), str(context), f"{start} {pad}"))
    folder = cache_dir("tokens", hashlib.sha256(key.encode()).hexdigest()[:32])
    paths = folder / "documents.npy", folder / "tokens.npy"
    if not paths[-1].exists():
        arrays = _pack(documents, tokenizer, rows, context, start, pad)
        for path, array in zip(paths, arrays, strict=True):
            with atomic(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, array)
    numbers, tokens = (np.load(path, mmap_mode="r") for path in paths)
    return Rows(documents.name, tokens, numbers, pad)


def token_rows(path: Path, rows: int | None = None, pad: int | None = None) -> Rows:
    """Rows from an array of token ids in a `.npy` file (rows, positions).

    Args:
        path: the file.
        rows: take the leading rows only; default all.
        pad: the padding id; a run of it at the end of a row is padding.

    Raises:
        InputError: no such file, not a plain integer array of two dimensions, or no rows.
    """
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"tokens {path}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"tokens {path}: not a .npy array of numbers ({error})") from None
    if not isinstance(tokens, np.ndarray):
        raise InputError(f"tokens {path}: an archive; save the array itself with numpy.save")
    if tokens.dtype.kind not in "iu":
        raise InputError(f"tokens {path}: the ids are {tokens.dtype}, integers were expected")
    if tokens.ndim != 2:
        raise InputError(f"tokens {path}: shape {tokens.shape}, (rows, positions) was expected")
    tokens = tokens[:rows]
    if not tokens.size:
        raise InputError(f"tokens {path}: shape {tokens.shape} holds no tokens")
    return Rows(str(path), tokens, None, pad)


def with_documents(rows: Rows, masks: Masks, special_ids: tuple[int, ...]) -> Rows:
    """Bare token arrays with documents: a special token ends one, and so does the row. Others come back as they are.

    Args:
        rows: the rows.
        masks: `valid` says what is padding on the right.
        special_ids: BOS, EOS and PAD. What stands before the first other token of a row belongs to no document; but
            where it counts (`masks.metric`), all of it behind position 0 belongs to the first.
    """
    if rows.documents is not None:
        return rows
    special = np.isin(rows.tokens, special_ids)
    leading = np.logical_and.accumulate(special, axis=1)
    begins = np.ones(special.shape, bool)
    begins[:, 1:] = (special & ~leading)[:, :-1]
    numbers = (np.cumsum(begins) - 1).reshape(begins.shape).astype(np.int32)
    first = np.arange(special.shape[1]) == 0
    nothing = ~np.asarray(masks.valid) | leading & (first | ~np.asarray(masks.metric))
    return dataclasses.replace(rows, documents=np.where(nothing, np.int32(-1), numbers))


def check_tokens(rows: Rows, vocab: int, context: int) -> None:
    """Raises InputError where a token is outside the vocabulary, or a row is longer than the LM's context."""
    if rows.tokens.shape[1] > context:
        raise InputError(f"{rows.name}: rows of {rows.tokens.shape[1]} positions, but the LM's context is {context}")
    bad = np.argwhere((rows.tokens < 0) | (rows.tokens >= vocab))
    if len(bad):
        row, position = bad[0]
        raise InputError(
            f"{rows.name}: token id {rows.tokens[row, position]} at row {row}, position {position} "
            f"is outside the LM's vocabulary of {vocab}"
        )


def _pack(documents: Documents, tokenizer: TextTokenizer, rows: int, context: int, start: int, pad: int):
    """(documents, tokens), both int32 (rows, context)."""
    body = context - 1
    stream = itertools.islice(_tokens(documents, tokenizer), rows * body)
    pairs = np.fromiter(stream, dtype=[("token", np.int32), ("document", np.int32)])
    if not len(pairs):
        raise InputError(f"corpus {documents.name!r}: it holds no text")
    n_rows = -(-len(pairs) // body)
    tokens = np.full((n_rows, context), pad, np.int32)
    numbers = np.full((n_rows, context), -1, np.int32)
    tokens[:, 0] = start
    for array, field in ((tokens, "token"), (numbers, "document")):
        filled = np.full(n_rows * body, array[0, -1], np.int32)
        filled[: len(pairs)] = pairs[field]
        array[:, 1:] = filled.reshape(n_rows, body)
    return numbers, tokens


def _tokens(documents: Documents, tokenizer: TextTokenizer) -> Iterator[tuple[int, int]]:
    """(token, document) of all documents, with the separator between them counted to the document before it."""
    separator = tokenizer.encode([SEPARATOR])[0]
    texts = (text for text in documents.read() if text.strip())
    number = 0
    while batch := list(itertools.islice(texts, _ENCODE_AT_ONCE)):
        for ids in tokenizer.encode(batch):
            if number:
                yield from ((token, number - 1) for token in separator)
            yield from ((token, number) for token in ids)
            number += 1
