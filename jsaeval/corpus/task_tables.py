"""Tables that hold one's own probe tasks: files, data sets that `save_to_disk` wrote, data sets of the hub.

Texts and labels stay as they are written: nothing guesses that "null" is no text or that 1 is 1.0.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jsaeval.corpus import hub
from jsaeval.errors import InputError, one_line


MOST_ROWS = 100_000  # of a data set; a stream of the hub may have no end


@dataclass(frozen=True)
class TaskTable:
    """`rows` has the columns `text` and `label` under whatever names its owner gave them."""

    name: str
    rows: pd.DataFrame
    note: str = ""


def _read_csv(path: Path, **flags: Any) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False, **flags)


def _read_json_lines(path: Path) -> pd.DataFrame:
    lines = path.read_text(encoding="utf-8").split("\n")
    return pd.DataFrame([json.loads(line) for line in lines if line.strip()], dtype=object)


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".tsv": lambda path: _read_csv(path, sep="\t"),
    ".jsonl": _read_json_lines,
    ".parquet": lambda path: pd.read_parquet(path, dtype_backend="numpy_nullable"),
}
FORMS = f"{', '.join(_READERS)}, a folder that save_to_disk wrote (FOLDER@SPLIT), or {hub.HUB_FORM}"


def read_table(name: str, where: str) -> TaskTable | None:
    """The table of a file, a saved data set, or a data set of the hub; None if the name can be none of these.

    Of a data set, the first 100,000 rows of its split `train`, or of the split that the name says. Numbers of classes
    become their names.

    Args:
        name: a path, of a saved data set also `FOLDER@SPLIT`; or `OWNER/NAME`, `OWNER/NAME:CONFIG@SPLIT`.
        where: says in errors who asked for it.

    Raises:
        InputError: no such table, or one that cannot be read; in a line.
    """
    path = Path(name)
    if path.suffix.lower() in _READERS:
        return TaskTable(path.stem, _of_file(path, where))
    if (saved := hub.saved_dataset(name)) is not None:
        return _of_dataset(path.name, hub.open_saved(saved[0], where, saved[1]), where)
    if not path.exists() and hub.is_hub_id(name):
        return _of_dataset(name, hub.open_hub(name, hub.pin_hub_dataset(name, where), where), where)
    return None


def _of_file(path: Path, where: str) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{where}: no such file")
    try:
        return _READERS[path.suffix.lower()](path)
    except Exception as error:  # pandas passes on whatever its readers raise
        raise InputError(f"{where}: cannot be read ({one_line(error)})") from None


def _of_dataset(name: str, data: Any, where: str) -> TaskTable:
    records = hub.with_class_names(data, hub.rows(data, where))
    read = list(itertools.islice(records, MOST_ROWS))
    note = f"; its first {MOST_ROWS:,} rows" if next(records, None) is not None else ""
    return TaskTable(name, pd.DataFrame(read, dtype=object), note)
