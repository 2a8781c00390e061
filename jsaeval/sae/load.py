"""`load_sae`, `save_sae`: a name, a file or a folder ↔ an `SAE`. The content decides the format, not the name."""

import dataclasses
import os
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Literal

import jax.numpy as jnp
from jaxtyping import DTypeLike

from jsaeval.errors import InputError, listed, nearest, one_line
from jsaeval.sae.formats import (
    circuit_tracer,
    dictionary_learning,
    e2e_sae,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    hook_z,
    linear,
    llama_scope,
    lm_saes,
    native,
    openai,
    qwen_scope,
    refused,
    saelens,
    sparsify,
    transcoder_circuits,
)
from jsaeval.sae.formats.contents import kind_of, look, peek
from jsaeval.sae.module import SAE
from jsaeval.sae.pretrained import as_listed, fetch_pretrained, find_pretrained, nearest_release


# In the order in which they are asked.
_READERS = (native, saelens, gemma_scope, gemma_scope_2, dictionary_learning, qwen_scope, llama_scope, lm_saes)
_READERS += (circuit_tracer, sparsify, openai, hook_z, transcoder_circuits, e2e_sae, goodfire, linear)
FORMATS = {module.NAME: module for module in _READERS}

# Named LM → the SAE that ships with it.
SHIPPED = {
    "smollm2-135m": "smollm2-135m.blocks.9.hook_resid_post.topk-48.safetensors",
    "tiny": "tiny.blocks.1.hook_resid_post.topk-16.safetensors",
}
_TENSOR_FILES = (".safetensors", ".npz", ".pt", ".pth")
_PICKLES = (".pkl", ".pkl.gz", ".pickle")
_LISTED = 8  # names in an error


def load_sae(name: str | Path) -> SAE:
    """Load a sparse autoencoder.

    Args:
        name: a named LM (the SAE that ships with it), a file or folder in one of `FORMATS`, a folder with exactly one
            of these in it, or `RELEASE/ID` of the public SAEs that SAELens lists.

    Returns:
        The SAE with float32 weights on the default device; `.card` says where it came from and where it hooks.

    Raises:
        InputError: no such SAE, an unknown format, or a damaged or unsupported one.
    """
    if str(name) in SHIPPED:
        return native.read(shipped_path(str(name)))
    path = Path(name)
    return _read(path) if os.path.exists(path) else _public(str(name))


def _public(name: str) -> SAE:
    """An SAE of the list of public ones."""
    missing = f"SAE {name!r}: no such file, folder or name"
    if "/" not in name or Path(name).is_absolute() or name.startswith("."):
        raise InputError(f"{missing}{nearest(name, SHIPPED)}")
    if (entry := find_pretrained(name)) is None:
        raise InputError(f"{missing}, and no release of SAELens's list{nearest_release(name)}")
    return as_listed(_read(fetch_pretrained(entry)), entry)


def _read(path: Path) -> SAE:
    if not path.is_file() and not path.is_dir():
        raise InputError(f"SAE {str(path)!r}: neither a file nor a folder")
    candidates = [path] if path.is_file() else [path, *sorted(path.iterdir())]
    found = {candidate: reader for candidate in candidates if (reader := reader_of(candidate))}
    if not found:
        raise InputError(_foreign(path))
    found = {c: reader for c, reader in found.items() if reader[0] is not refused} or dict([found.popitem()])
    if len(found) > 1 and path not in found:
        names = listed((candidate.name for candidate in found), _LISTED)
        raise InputError(f"SAE {str(path)!r}: holds {len(found)} SAEs ({names}); name one of them")
    if path not in found:
        for other in candidates:
            if other.suffix in _TENSOR_FILES and other not in found and other.is_file() and peek(other) is None:
                look(other)  # says how it is damaged; it may be the SAE that is meant
    path, (module, why) = next(iter(found.items()))
    try:
        sae = module.read(path)
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its configuration is not as {module.NAME} writes it ({one_line(error)})") from None
    return dataclasses.replace(sae, card=dataclasses.replace(sae.card, why=why))


def reader_of(path: Path) -> tuple[ModuleType, str] | None:
    """The reader that takes a file or folder as one SAE, and what in its content made it so.

    It may be `refused`, whose `read` says why it is not supported.
    """
    return next(((module, why) for module in (refused, *_READERS) if (why := module.recognise(path))), None)


def _foreign(path: Path) -> str:
    """Why a path is no SAE. What is damaged or forbidden raises its own error."""
    if path.is_file() and (path.parent / "cfg.json").is_file():
        return f"SAE {str(path)!r}: a part of one; name the folder {str(path.parent)!r}"
    inside = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    files = [file for file in inside if file.suffix in _TENSOR_FILES or kind_of(file)]
    pickles = [file.name for file in inside if file not in files and file.name.endswith(_PICKLES)]
    if pickles and not files:
        return (
            f"SAE {str(path)!r}: {pickles[0]} is a bare pickle, which can do anything to whoever loads it; have its "
            "owner write what is in it with torch.save, as a .pt file"
        )
    holds = (
        f"; {files[0].name} holds {listed(sorted(look(files[0]).tensors), _LISTED) or 'none'}"
        if len(files) == 1
        else ""
    )
    return f"SAE {str(path)!r}: not recognised as any of: {', '.join(FORMATS)}{holds}"


def save_sae(
    sae: SAE, path: str | Path, format: Literal["jsaeval", "saelens"] = "jsaeval", dtype: DTypeLike = jnp.float32
) -> None:
    """Save an SAE to a file (`jsaeval`) or a folder (`saelens`), with its weights rounded to `dtype`."""
    FORMATS[format].write(sae, Path(path), dtype)


def shipped_path(lm: str) -> Path:
    """Where the SAE that ships with a named LM is installed."""
    return Path(str(resources.files("jsaeval.sae") / "shipped" / SHIPPED[lm]))
