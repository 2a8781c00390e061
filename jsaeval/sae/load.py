"""`load_sae`, `save_sae`: a name, a file or a folder ↔ an `SAE`. The content decides the format, not the name."""

from importlib import resources
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
from jaxtyping import DTypeLike

from jsaeval.errors import InputError, nearest
from jsaeval.sae.formats import native, saelens
from jsaeval.sae.module import SAE


FORMATS = {module.NAME: module for module in (native, saelens)}

# Named LM → the SAE that ships with it.
SHIPPED = {
    "smollm2-135m": "smollm2-135m.blocks.9.hook_resid_post.topk-48.safetensors",
    "tiny": "tiny.blocks.1.hook_resid_post.topk-16.safetensors",
}


def load_sae(name: str | Path) -> SAE:
    """Load a sparse autoencoder.

    Args:
        name: a named LM (the SAE that ships with it), a file of the package's own format, a SAELens folder, or a folder
            with exactly one of these in it.

    Returns:
        The SAE with float32 weights on the default device; `.card` says where it came from and where it hooks.

    Raises:
        InputError: no such SAE, an unknown format, or a damaged or unsupported one.
    """
    if str(name) in SHIPPED:
        return native.read(shipped_path(str(name)))
    path = Path(name)
    if not path.exists():
        raise InputError(f"SAE {str(name)!r}: no such file, folder or name{nearest(str(name), SHIPPED)}")
    candidates = [path] if path.is_file() else [path, *sorted(path.iterdir())]
    found = [(module, c) for c in candidates for module in FORMATS.values() if module.recognise(c)]
    if not found and path.suffix == ".safetensors":
        native.read(path)  # says what is wrong with it
    if not found:
        raise InputError(f"SAE {str(name)!r}: not recognised as any of: {', '.join(FORMATS)}")
    if len(found) > 1 and found[0][1] != path:
        names = ", ".join(c.name for _, c in found)
        raise InputError(f"SAE {str(name)!r}: holds {len(found)} SAEs ({names}); name one of them")
    module, path = found[0]
    return module.read(path)


def save_sae(
    sae: SAE, path: str | Path, format: Literal["jsaeval", "saelens"] = "jsaeval", dtype: DTypeLike = jnp.float32
) -> None:
    """Save an SAE to a file (`jsaeval`) or a folder (`saelens`), with its weights rounded to `dtype`."""
    FORMATS[format].write(sae, Path(path), dtype)


def shipped_path(lm: str) -> Path:
    """Where the SAE that ships with a named LM is installed."""
    return Path(str(resources.files("jsaeval.sae") / "shipped" / SHIPPED[lm]))
