"""What the place of a file says: hooks by module path, and what authors put into the names of folders."""

import re
from pathlib import Path

from jsaeval.errors import InputError
from jsaeval.hooks import parse_hook


def tl_hook(module: str, family: str | None = None) -> str | None:
    """TransformerLens's name for the output (or `.input`) of a Hugging Face module; None: it has none.

    Where families of LMs differ in what the module gives out, it is the path of the module, which `parse_hook` reads
    when the LM is known. The embedding is `blocks.0.hook_resid_pre`, which is all that block 0 reads in models with
    rotary positions.
    """
    if re.fullmatch(
        r"(?:(?:model|language_model|transformer|gpt_neox)\.)*(?:embed_tokens|wte|embed_in)(?:\.output)?", module
    ):
        return "blocks.0.hook_resid_pre"
    names = {_hook_in(module, own) for own in ("llama", "gemma2")} if family is None else {_hook_in(module, family)}
    if names == {None}:
        return None
    return names.pop() if len(names) == 1 else module


def _hook_in(module: str, family: str) -> str | None:
    try:
        return parse_hook(module, family=family).name
    except InputError:
        return None


def in_path(pattern: str, path: Path) -> re.Match[str] | None:
    """The last place in a path, folders included, where a pattern matches. Symbolic links are not followed."""
    found = list(re.finditer(pattern, path.absolute().as_posix()))
    return found[-1] if found else None


def number_in_path(pattern: str, path: Path) -> int | None:
    """The number that the first group of a pattern finds in a path."""
    match = in_path(pattern, path)
    return int(match[1]) if match else None


def name_of(path: Path, folders: int) -> str:
    """The last folders above a file, as a name."""
    return "/".join(path.absolute().parent.parts[-folders:])


def layer_at_end(path: Path) -> str | None:
    """The residual stream after the layer that a file is called after: `...-l19.pt`, `layer7.sae.pt`."""
    match = re.search(r"(?:^|[^a-z])l(?:ayer)?[-_]?(\d+)(?:\.\w+)+$", path.name, re.IGNORECASE)
    return f"blocks.{match[1]}.hook_resid_post" if match else None
