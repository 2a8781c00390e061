"""Data sets of Hugging Face `datasets`: a folder that `save_to_disk` wrote, or an id on the hub, which is streamed.

A data set on the hub is pinned to the revision that the hub names when it is opened, so its identity is its content.
In errors, `where` says who asked for it.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jsaeval.errors import InputError, nearest, one_line


_HUB_ID = re.compile(r"^(?P<id>[\w.-]+/[\w.-]+?)(?::(?P<config>[\w.+-]+))?(?:@(?P<split>[\w.-]+))?$")
HUB_FORM = "OWNER/NAME, OWNER/NAME:CONFIG or OWNER/NAME:CONFIG@SPLIT of the Hugging Face hub"
_TIMEOUT_S = 20.0


def saved_dataset(name: str) -> tuple[Path, str | None] | None:
    """The folder and the split that `FOLDER` or `FOLDER@SPLIT` is; None: no such folder, or none of `save_to_disk`."""
    if _is_saved(Path(name)):
        return Path(name), None
    folder, _, split = name.rpartition("@")
    return (Path(folder), split) if folder and split and _is_saved(Path(folder)) else None


def _is_saved(path: Path) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def is_hub_id(name: str) -> bool:
    """Whether a name that is no path may be an id on the hub."""
    return _HUB_ID.match(name) is not None


def open_saved(path: Path, where: str, split: str | None = None) -> Any:
    """The rows of a saved data set.

    Args:
        path: its folder.
        where: says in errors who asked for it.
        split: default, if it has splits: `train`, or its only one.

    Raises:
        InputError: it cannot be read, or has no such split.
    """
    import datasets  # a second of start-up that only these data sets need

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets passes on whatever its readers raise
        raise InputError(f"{where}: cannot be read as a saved data set ({one_line(error)})") from None
    if isinstance(data, datasets.DatasetDict):
        return data[_split(where, [str(name) for name in data], split)]
    if split is not None:
        raise InputError(f"{where}: no split {split!r}; this data set was saved without splits")
    return data


def pin_hub_dataset(name: str, where: str) -> str:
    """The revision of a data set on the hub.

    Raises:
        InputError: no such data set, no access to it, or no network.
    """
    import huggingface_hub
    from huggingface_hub import errors

    match = _HUB_ID.match(name)
    assert match is not None
    try:
        revision = huggingface_hub.HfApi().dataset_info(match["id"], timeout=_TIMEOUT_S).sha
    except errors.GatedRepoError:
        raise InputError(f"{where}: access must be asked for on the hub; then log in with `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{where}: no such file, folder or name, and no such data set on the hub") from None
    except Exception as error:  # of the HTTP library beneath
        reason = f"the hub cannot be reached ({one_line(error)})"
        raise InputError(f"{where}: no such file, folder or name, and {reason}; a local copy works") from None
    return revision or ""


def open_hub(name: str, revision: str, where: str) -> Any:
    """The rows of a data set on the hub, in its order, as a stream.

    Raises:
        InputError: no such configuration or split.
    """
    import datasets

    match = _HUB_ID.match(name)
    assert match is not None
    options: dict[str, Any] = {"name": match["config"], "streaming": True, "revision": revision or None}
    try:
        data = datasets.load_dataset(match["id"], **options)
    except Exception as error:
        raise _broken(where, error) from None
    return data[_split(where, list(data), match["split"])] if isinstance(data, dict) else data


def rows(data: Iterable[Any], where: str) -> Iterator[dict[str, Any]]:
    """The rows of an open data set.

    Raises:
        InputError: they cannot be read, or the stream broke.
    """
    try:
        yield from data
    except Exception as error:
        raise _broken(where, error) from None


def texts(records: Iterable[dict[str, Any]], where: str) -> Iterator[str]:
    """The text column of records: `text`, or the only column of strings.

    Raises:
        InputError: there is no such column.
    """
    column = None
    for record in records:
        column = _text_column(record, where) if column is None else column
        yield record[column]


def with_class_names(data: Any, records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Records of an open data set whose class numbers are replaced by the names that it gives them; −1 by None."""
    import datasets

    features = getattr(data, "features", None) or {}
    classes = {name: kind for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    for record in records:
        names = {c: None if record[c] in (None, -1) else kind.int2str(record[c]) for c, kind in classes.items()}
        yield record | names


def _broken(where: str, error: Exception) -> InputError:
    return error if isinstance(error, InputError) else InputError(f"{where}: cannot be read ({one_line(error)})")


def _split(where: str, splits: list[str], wanted: str | None) -> str:
    if wanted is None:
        wanted = splits[0] if len(splits) == 1 else "train"
    if wanted not in splits:
        raise InputError(f"{where}: no split {wanted!r}{nearest(wanted, splits)}")
    return wanted


def _text_column(record: dict[str, Any], where: str) -> str:
    strings = [name for name, value in record.items() if isinstance(value, str)]
    if "text" in strings:
        return "text"
    if len(strings) == 1:
        return strings[0]
    raise InputError(f"{where}: no column 'text' with strings; its columns are {', '.join(record)}")
