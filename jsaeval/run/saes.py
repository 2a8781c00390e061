"""`--sae`: names, paths and glob patterns → SAEs, each once, with short names that differ."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from jsaeval.errors import InputError, listed
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM
from jsaeval.run.evaluate import Failed, hook_of
from jsaeval.sae.load import SHIPPED, load_sae, reader_of, shipped_path
from jsaeval.sae.module import SAE


_LISTED = 5  # names in a note


def find_saes(asked: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """What `load_sae` takes, in the order it was asked for, and notes on what was left out.

    A name that is no path and holds `*`, `?` or `[` is a pattern (`**`: any depth); its matches are sorted, numbers as
    numbers. Files and folders in them that are no SAE are left out; a damaged SAE is not. The same SAE is taken once.

    Raises:
        InputError: a pattern matches nothing, or no SAE.
    """
    taken: dict[str, str] = {}  # place → name
    notes: list[str] = []
    for text in asked:
        pattern = text not in SHIPPED and not os.path.lexists(text) and any(c in text for c in "*?[")
        for name in _matches(text, notes) if pattern else [text]:
            first = taken.setdefault(_place(name), name)
            if first is not name:
                notes.append(f"{name}: the same SAE as {first}, evaluated once")
    return tuple(taken.values()), notes


def shipped(lm: str) -> tuple[str, ...]:
    """The SAE that ships with an LM.

    Raises:
        InputError: none does.
    """
    if lm not in SHIPPED:
        raise InputError(f"--sae is missing: no SAE ships with {lm!r} (only with {', '.join(SHIPPED)})")
    return (lm,)


def load_saes(names: Sequence[str], hook: str | None, dtype: str, lm: HostLM) -> list[SAE | Failed]:
    """SAEs that fit the LM. One alone keeps the name on its card; several are named by where they lie."""
    shown = short_names(names)
    return [_load(name, alias, len(names) > 1, hook, dtype, lm) for name, alias in zip(names, shown, strict=True)]


def saes_at_one_hook(names: Sequence[str], hook: str | None, dtype: str, lm: HostLM) -> tuple[list[SAE], Hook]:
    """SAEs that all read one hook, and the hook.

    Raises:
        InputError: one cannot be loaded or does not fit the LM, or they read different hooks.
    """
    saes = []
    for entry in load_saes(names, hook, dtype, lm):
        if isinstance(entry, Failed):
            raise InputError(entry.error)
        saes.append(entry)
    hooks = list(dict.fromkeys(hook_of(sae, hook, lm) for sae in saes))
    if len(hooks) > 1:
        there = ", ".join(own.name for own in hooks)
        raise InputError(f"--sae: they read different hooks ({there}); give those of one hook at a time")
    return saes, hooks[0]


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the folders that all paths share, and without `.safetensors`, as far as they still differ."""
    paths = {name: Path(os.path.abspath(name)) for name in names if name not in SHIPPED and os.path.exists(name)}
    if not paths:
        return list(names)
    shared = os.path.commonpath([path.parent for path in paths.values()])
    relative = [str(paths[name].relative_to(shared)) if name in paths else name for name in names]
    bare = [name.removesuffix(".safetensors") for name in relative]
    return next(found for found in (bare, relative, list(names)) if len(set(found)) == len(set(names)))


def _load(name: str, alias: str, rename: bool, hook: str | None, dtype: str, lm: HostLM) -> SAE | Failed:
    try:
        sae = load_sae(name)
        hook_of(sae, hook, lm)
    except InputError as error:
        return Failed(alias, str(error))
    return sae.renamed(alias if rename else None).astype(dtype)


def _matches(pattern: str, notes: list[str]) -> list[str]:
    """The SAEs that a pattern matches; what else it matches goes into `notes`."""
    matches = [Path(name) for name in sorted(glob.glob(os.path.expanduser(pattern), recursive=True), key=_in_numbers)]
    if not matches:
        raise InputError(f"--sae {pattern!r}: matches nothing")
    inside = {path: _saes_at(path) for path in matches}
    saes = dict.fromkeys(found[0] for found in inside.values() if len(found) == 1)
    if not saes:
        raise InputError(f"--sae {pattern!r}: matches no SAE, only {listed(matches, _LISTED)}")
    # With ** a folder is matched beside what is in it, and the files of an SAE beside their folder.
    related = {parent for sae in saes for parent in sae.parents}
    rest = [
        path
        for path in matches
        if len(inside[path]) != 1 and path not in related and saes.keys().isdisjoint(path.parents)
    ]
    if several := [path for path in rest if inside[path]]:
        notes.append(f"--sae {pattern!r}: left out, folders of several SAEs: {listed(several, _LISTED)}")
    if foreign := [path for path in rest if not inside[path]]:
        notes.append(f"--sae {pattern!r}: left out, no SAEs: {listed(foreign, _LISTED)}")
    return [str(path) for path in saes]


def _in_numbers(name: str) -> list[tuple[str, int]]:
    """A key that puts topk-8 before topk-16."""
    parts = [*re.split(r"(\d+)", name), "0"]
    return [(text, int(number)) for text, number in zip(parts[::2], parts[1::2], strict=False)]


def _saes_at(path: Path) -> list[Path]:
    """The SAEs that a file or folder is, is a part of, or holds."""
    if path.is_file():
        if path.suffix in (".json", ".safetensors"):
            whole = [folder for folder in list(path.parents)[:2] if reader_of(folder)]
            if whole:
                return whole[:1]
        return [path] if _is_sae(path) else []
    if _is_sae(path):
        return [path]
    return [child for child in sorted(path.iterdir()) if _is_sae(child)] if path.is_dir() else []


def _is_sae(path: Path) -> bool:
    """Whether it looks like one, whole or damaged."""
    if reader_of(path):
        return True
    # Beside config.json are the weights of an LM.
    return path.suffix == ".safetensors" and not (path.parent / "config.json").is_file()


def _place(name: str) -> str:
    """Where an SAE lies, however it was named."""
    if name in SHIPPED:
        return str(shipped_path(name).resolve())
    path = Path(name)
    if not path.exists():
        return name
    found = _saes_at(path)
    return str((found[0] if len(found) == 1 else path).resolve())
