"""What is known and not supported: each is refused by name, with what it is."""

import re
from pathlib import Path
from typing import NoReturn

from jsaeval.errors import InputError
from jsaeval.sae.formats.contents import Contents, peek, read_json


NAME = "not supported"
_CLT = "a cross-layer transcoder, which reads one layer and writes to all after it"
_CROSSCODER = "a crosscoder, which reads several layers or models at once"
_TEMPORAL = "a temporal SAE, whose latents depend on the tokens before"
_BY_TYPE = {
    "clt": _CLT,
    "crosscoder": _CROSSCODER,
    "lorsa": "a low-rank sparse attention, which reads all tokens before",
    "molt": "a mixture of linear transforms, which has no latents of one direction",
}


def recognise(path: Path) -> str | None:
    """What a file is, if it is one of those; None for anything else."""
    contents = peek(path)
    return None if contents is None else _by_tensors(contents) or _by_config(path)


def read(path: Path) -> NoReturn:
    """Refuse it.

    Raises:
        InputError: always.
    """
    raise InputError(f"{path}: {recognise(path)}; it is not supported, SAEs and per-layer transcoders are")


def _by_tensors(contents: Contents) -> str | None:
    names = set(contents.tensors)
    if any(re.fullmatch(r"W_(enc|dec)_\d+", name) for name in names):
        return _CLT
    if any(name.startswith("attn_layers.") for name in names):
        return _TEMPORAL
    axes = {name.lower(): len(tensor.shape) for name, tensor in contents.tensors.items()}
    if axes.get("w_enc", axes.get("encoder.weight", 0)) > 2:
        return _CROSSCODER
    return _CLT if axes.get("w_dec", 0) > 2 else None


def _by_config(path: Path) -> str | None:
    try:
        return _BY_TYPE.get(str(read_json(path.parent / "config.json").get("sae_type")))
    except InputError:
        return None
