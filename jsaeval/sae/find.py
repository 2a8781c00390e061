"""What `--sae` names: SAEs by name, file, folder, or a pattern that stands for many."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jsaeval.errors import InputError
from jsaeval.sae.load import SHIPPED


class Found(NamedTuple):
    """SAEs to load, in order and each once; `skipped` are things that a pattern met and that are none."""

    names: tuple[str, ...]
    skipped: tuple[str, ...]


def find_saes(given: Sequence[str]) -> Found:
    """Replace patterns (`runs/*/topk-*`, `sweep/**`) by what they match, sorted, numbers as numbers.

    A name without `*`, `?` or `[` is kept as it is, and so is one of an existing file. The same file or folder given
    twice is kept once. Of what a pattern matches, files and folders that cannot be SAEs are skipped; a damaged SAE is
    not, because it should have been one.

    Raises:
        InputError: a pattern matches nothing, or no SAE.
    """
    names, skipped = [], []
    for text in given:
        if text in SHIPPED or Path(text).exists() or not any(sign in text for sign in "*?["):
            names.append(text)
            continue
        matches = sorted(glob.glob(text, recursive=True), key=_in_numbers)
        chosen = [match for match in matches if _may_be_sae(Path(match))]
        if not chosen:
            seen = f"; what it matches ({Path(matches[0]).name}, ...) is no SAE" if matches else " matches nothing"
            raise InputError(f"--sae {text!r}{seen}")
        names += chosen
        skipped += [match for match in matches if match not in chosen]
    unique: dict[str, str] = {}
    for name in names:
        unique.setdefault(name if name in SHIPPED else str(Path(name).resolve()), name)
    return Found(tuple(unique.values()), tuple(skipped))


def _in_numbers(name: str) -> list[tuple[str, int]]:
    """A key that puts topk-8 before topk-16."""
    parts = [*re.split(r"(\d+)", name), "0"]
    return [(text, int(number)) for text, number in zip(parts[::2], parts[1::2], strict=False)]


def _may_be_sae(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".safetensors" and not (path.parent / "cfg.json").is_file()
    return (path / "cfg.json").is_file()


def short_names(names: Sequence[str]) -> list[str]:
    """Names for a report: without the folders that all of them share, as long as they stay apart."""
    parts = [Path(name).parts for name in names]
    shared = 0
    while len(names) > 1 and all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    short = ["/".join(p[shared:]).removeprefix("//") for p in parts]
    bare = [name.removesuffix(".safetensors") for name in short]
    return bare if len(set(bare)) == len(bare) else short
