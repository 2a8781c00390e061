"""Explainer `file`: the user's own texts, from JSON, JSON lines or CSV."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsaeval.autointerp.evidence import Evidence
from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.texts import LONGEST_TEXT, one_line_of
from jsaeval.errors import InputError


FORMS = '.json ({"latent": "text"}), .jsonl ({"latent": 1, "text": "..."} in each line) or .csv (latent,text)'


@dataclass
class FileExplainer:
    """Explanations that somebody wrote.

    Attributes:
        path: of the file; its ending says which form it has (`FORMS`). White space in a text becomes single spaces.
        d_sae: how many latents there are, to find wrong ones; None: not known.

    Raises:
        InputError: no such file, another form, a malformed entry, no such latent, one twice, a text that is
            empty or too long.
    """

    path: str | Path
    d_sae: int | None = None
    texts: dict[int, str] = field(init=False, repr=False)

    def __post_init__(self):
        self.texts = read_texts(Path(self.path), self.d_sae)

    def explain(self, evidence: Sequence[Evidence]) -> list[Explanation]:
        """The text of each latent; one that the file does not name has an error."""
        return [self._one(own.latent) for own in evidence]

    def _one(self, latent: int) -> Explanation:
        if latent in self.texts:
            return Explanation(latent, self.texts[latent], "file")
        return Explanation(latent, "", "file", error=f"{self.path} has no text for it")


def read_texts(path: Path, d_sae: int | None = None) -> dict[int, str]:
    """Texts by latent; see `FileExplainer`."""
    where = f"--explanations {path}"
    readers = {".json": _json, ".jsonl": _lines, ".csv": _csv}
    if path.suffix not in readers:
        raise InputError(f"{where}: {FORMS} was expected")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{where}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: cannot be read ({error})") from None
    texts: dict[int, str] = {}
    for place, latent, text in readers[path.suffix](content, where):
        index = _index(latent)
        if index is None:
            raise InputError(f"{where}, {place}: {latent!r} is no index of a latent")
        if d_sae is not None and index >= d_sae:
            raise InputError(f"{where}, {place}: no latent {index}; they are 0..{d_sae - 1}")
        if index in texts:
            raise InputError(f"{where}, {place}: latent {index} has a text already")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}, {place}: latent {index} has no text")
        texts[index] = one_line_of(text)
        if len(texts[index]) > LONGEST_TEXT:
            raise InputError(
                f"{where}, {place}: latent {index} has {len(texts[index]):,} characters; {LONGEST_TEXT:,} fit"
            )
    if not texts:
        raise InputError(f"{where}: holds no texts; {FORMS} was expected")
    return texts


def _index(latent: Any) -> int | None:
    if isinstance(latent, str) and latent.strip().isascii() and latent.strip().isdigit():
        return int(latent)
    return latent if isinstance(latent, int) and not isinstance(latent, bool) and latent >= 0 else None


_Entries = Iterator[tuple[str, Any, Any]]


def _json(content: str, where: str) -> _Entries:
    # A dictionary would keep the last of two texts of a latent and say nothing.
    try:
        found = json.loads(content, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(found, _Pairs):
        raise InputError(f'{where}: one object {{"latent": "text"}} was expected')
    for i, (latent, text) in enumerate(found, 1):
        yield f"entry {i}", latent, text


class _Pairs(tuple):
    """The entries of a JSON object."""


def _lines(content: str, where: str) -> _Entries:
    for i, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}, line {i}: not valid JSON ({error})") from None
        if not isinstance(record, dict) or not {"latent", "text"} <= set(record):
            raise InputError(f'{where}, line {i}: {{"latent": ..., "text": ...}} was expected')
        yield f"line {i}", record["latent"], record["text"]


def _csv(content: str, where: str) -> _Entries:
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        if not {"latent", "text"} <= set(reader.fieldnames or ()):
            raise InputError(f"{where}: its first line must name the columns latent and text")
        for row in reader:
            if None in row:
                raise InputError(f"{where}, line {reader.line_num}: too many columns; texts with commas need quotes")
            yield f"line {reader.line_num}", row["latent"], row["text"]
    except csv.Error as error:
        raise InputError(f"{where}, line {reader.line_num}: not valid CSV ({error})") from None
