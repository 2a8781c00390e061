"""EleutherAI delphi's cache of activations (package `eai-delphi` 0.1.3, `delphi/latents/cache.py` and `loader.py`).

A folder per hook with shards `{first}_{last}.safetensors`, each for a range of latents, both ends included: `locations`
(entry, 3), uint16 or uint32, are row, position and latent − first, in this order; `activations` (entry) float16, of
those whose size is above 1e-5; `tokens` (row, position), the same in every shard. `config.json` says how it was made.
"""

import itertools
import json
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jsaeval.autointerp.sparse import Entries, SparseLatents, table_of
from jsaeval.cache import atomic
from jsaeval.corpus.rows import Rows
from jsaeval.errors import InputError, one_line


SHARDS = 5
_LEAST = 1e-5
_MOST_LATENTS = 2**26  # what a name may ask of memory
_CONFIG = "config.json"


def write_delphi(folder: Path, table: SparseLatents, rows: Rows, d_sae: int, lm: str, shards: int = SHARDS) -> None:
    """Write a table of activations as delphi would. Activations of size 1e-5 and below are left out, as it does.

    Args:
        folder: of the hook; delphi calls it by the hook's name, below the folder that it is given.
        table: the activations.
        rows: the corpus.
        d_sae: latents of the dictionary.
        lm: what delphi can load the tokenizer by.
        shards: into how many files; delphi's own default is 5.

    Raises:
        InputError: an activation is too large for float16, or there are more shards than latents.
    """
    if not 1 <= shards <= d_sae:
        raise InputError(f"delphi cache: {shards} shards of {d_sae} latents; 1 to {d_sae} are possible")
    latent = np.repeat(table.latents, table.fires)
    kept = np.abs(table.value) > _LEAST
    if len(table.value) and np.abs(table.value).max() > np.finfo(np.float16).max:
        raise InputError(f"delphi cache: its activations are float16, and {np.abs(table.value).max():g} is too large")
    order = np.lexsort((latent, table.position, table.row))
    order = order[kept[order]]
    locations = np.stack([table.row, table.position, latent], axis=1)[order]
    activations, tokens = table.value[order].astype(np.float16), np.array(rows.tokens, np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    edges = [d_sae * i // shards for i in range(shards + 1)]
    for first, end in itertools.pairwise(edges):
        inside = (locations[:, 2] >= first) & (locations[:, 2] < end)
        own = locations[inside] - np.array([0, 0, first])
        own = own.astype(np.uint16 if own.max(initial=0) < 2**16 else np.uint32)
        with atomic(folder / f"{first}_{end - 1}.safetensors") as temporary:
            save_file({"locations": own, "activations": activations[inside], "tokens": tokens}, temporary)
    config = {"dataset_repo": rows.name, "dataset_split": "", "dataset_name": "", "dataset_column": ""}
    config |= {"batch_size": len(tokens), "cache_ctx_len": tokens.shape[1], "n_tokens": tokens.size}
    config |= {"n_splits": shards, "model_name": lm}
    with atomic(folder / _CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=4))


def read_delphi(folder: Path) -> tuple[SparseLatents, Rows]:
    """The activations and the rows of a cache that delphi wrote, or `write_delphi`.

    Every token counts, and nothing is known of documents: delphi looks at all tokens and joins documents.

    Args:
        folder: of one hook.

    Raises:
        InputError: no such folder, no shards in it, or they cannot be what delphi writes.
    """
    if not folder.is_dir():
        raise InputError(f"delphi cache {folder}: no such folder")
    named = {path: re.fullmatch(r"(\d{1,9})_(\d{1,9})", path.stem, re.ASCII) for path in folder.glob("*.safetensors")}
    if not named:
        inside = [path.name for path in sorted(folder.iterdir()) if path.is_dir()]
        hint = f"; the folder of one hook was expected, such as {inside[0]}" if inside else ""
        raise InputError(f"delphi cache {folder}: no .safetensors files in it{hint}")
    for path, match in named.items():
        if match is None or not int(match[1]) <= int(match[2]) < _MOST_LATENTS:
            raise InputError(
                f"{path}: the shards of a delphi cache are named after their latents, as 0_819.safetensors"
            )
    shards = sorted((int(match[1]), int(match[2]), path) for path, match in named.items() if match)
    for (_, last, path), (first, _, after) in itertools.pairwise(shards):
        if first != last + 1:
            raise InputError(f"{after}: follows {path.name}, so its latents should begin at {last + 1}")
    parts, tokens = [], None
    for first, last, path in shards:
        entries, own = _shard(path, first, last)
        if tokens is not None and not np.array_equal(tokens, own):
            raise InputError(f"{path}: its tokens are not those of {shards[0][2].name}")
        tokens = own
        parts.append(entries)
    assert tokens is not None
    looked_at = np.zeros(shards[-1][1] + 1, bool)
    looked_at[shards[0][0] :] = True
    return table_of(parts, looked_at, tokens.size), Rows(str(folder), tokens, None, None)


def _shard(path: Path, first: int, last: int) -> tuple[Entries, Int[np.ndarray, "row position"]]:
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a safetensors file of numbers ({one_line(error)})") from None
    if missing := [name for name in ("locations", "activations", "tokens") if name not in found]:
        raise InputError(f"{path}: no {missing[0]} in it; delphi writes locations, activations and tokens")
    locations, activations, tokens = found["locations"], found["activations"], found["tokens"]
    shapes = {name: found[name].shape for name in ("locations", "activations", "tokens")}
    if locations.ndim != 2 or shapes["locations"] != (*shapes["activations"], 3) or tokens.ndim != 2:
        raise InputError(
            f"{path}: (entry, 3) locations, (entry) activations, (row, position) tokens expected: {shapes}"
        )
    if locations.dtype.kind not in "iu" or tokens.dtype.kind not in "iu" or activations.dtype.kind != "f":
        raise InputError(
            f"{path}: locations {locations.dtype}, activations {activations.dtype}, tokens {tokens.dtype}; "
            "integers, floats and integers were expected"
        )
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**31:
        raise InputError(f"{path}: token ids from {tokens.min()} to {tokens.max()}")
    sizes = np.array([*tokens.shape, last - first + 1])
    bad = np.flatnonzero(((locations < 0) | (locations >= sizes)).any(axis=1) | ~np.isfinite(activations))
    if len(bad):
        where = ", ".join(map(str, locations[bad[0]].tolist()))
        raise InputError(
            f"{path}: entry {bad[0]} is {activations[bad[0]]} at ({where}), outside {tuple(sizes.tolist())}"
        )
    row, position, latent = (locations[:, i].astype(np.int64) for i in range(3))
    order = np.lexsort((latent, position, row))
    place = np.ravel_multi_index((row[order], position[order], latent[order]), tuple(sizes.tolist()))
    if not np.diff(np.asarray(place)).all():
        raise InputError(f"{path}: it holds the same row, position and latent twice")
    return _entries(row[order], position[order], latent[order] + first, activations[order]), tokens.astype(np.int32)


def _entries(
    row: Int[np.ndarray, " n"],
    position: Int[np.ndarray, " n"],
    latent: Int[np.ndarray, " n"],
    value: Float[np.ndarray, " n"],
) -> Entries:
    value = value.astype(np.float32)
    row, position, latent = (own[value != 0].astype(np.int32) for own in (row, position, latent))
    return Entries(row, position, latent, value[value != 0])
