"""The last step of every reader: tensors under their canonical names → an `SAE`, and what is known of it → its card."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from jsaeval.cache import sha256_of
from jsaeval.errors import InputError
from jsaeval.sae.module import SAE, SAECard, has_layer_norm


_CENTRED_SITES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
# File and folder names that say nothing of which SAE it is.
_COMMON = {"ae", "params", "sae", "sae_weights", "final", "checkpoints", "model", "autoencoder"}


def make_card(
    path: Path,
    format: str,
    hook: str | None,
    hook_out: str | None = None,
    lm: str | None = None,
    name: str | None = None,
    declared: Mapping[str, Any] = MappingProxyType({}),
) -> SAECard:
    """The card of an SAE that was read from a file.

    Args:
        path: of its weights.
        format: `NAME` of the reader.
        hook: where it reads, if that is known.
        hook_out: what it predicts, if that is another hook.
        lm: the language model, as its authors call it.
        name: default the name of the file, or of the first folder above it that is not called as everybody's.
        declared: what its authors say of it; None is left out.
    """
    for hooked in (hook, hook_out):
        if hooked is not None and not isinstance(hooked, str):
            raise InputError(f"{path}: {hooked!r} is no name of a hook")
    own = next((part for part in (path.stem, *path.parts[-2::-1]) if part not in _COMMON), path.stem)
    known = {key: value for key, value in declared.items() if value is not None}
    return SAECard(
        name=name or own,
        hook=hook,
        hook_out=None if hook_out == hook else hook_out,
        lm=lm,
        source=str(path),
        format=format,
        sha256=sha256_of(path),
        declared=json.dumps(known, sort_keys=True, default=str),
    )


def per_latent(value: np.ndarray, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """One number for all latents as one for each; anything else as it is, for `make_sae` to check."""
    return np.full(tensors["b_enc"].shape, value.squeeze()) if value.size == 1 and "b_enc" in tensors else value


def centred(sae: SAE, where: str) -> SAE:
    """An SAE that was trained in an LM whose writing weights TransformerLens had centred.

    It centres those of layer-norm LMs only, and only what is written to the residual stream has no mean then.

    Raises:
        InputError: see `SAE.with_centred_input`.
    """
    site = (sae.card.hook or "").rpartition(".")[2]
    if site not in _CENTRED_SITES or not has_layer_norm(sae.card.lm):
        return sae
    try:
        return sae.with_centred_input()
    except ValueError as error:
        raise InputError(f"{where}: center_writing_weights is not supported here: {error}") from None


def make_sae(tensors: Mapping[str, np.ndarray], where: str, **options: Any) -> SAE:
    """An `SAE` from tensors under their canonical names.

    Args:
        tensors: `W_enc` (d_in, d_sae), `b_enc`, `W_dec` (d_sae, d_out), `b_dec`; also `b_pre`,
            `threshold`, `b_gate`, `r_mag`, `W_skip` (d_in, d_out).
        where: names the source in errors.
        options: the remaining fields of `SAE`.

    Raises:
        InputError: a tensor is missing, superfluous, has the wrong shape, or holds NaN or Inf.
    """
    required = {"W_enc", "W_dec", "b_enc", "b_dec"}
    known = required | {"b_pre", "threshold", "b_gate", "r_mag", "W_skip"}
    if missing := sorted(required - set(tensors)):
        raise InputError(f"{where}: tensor {missing[0]!r} is missing (found {', '.join(sorted(tensors))})")
    if extra := sorted(set(tensors) - known):
        raise InputError(f"{where}: tensor {extra[0]!r} has no place in this kind of SAE")
    if tensors["W_enc"].ndim != 2 or tensors["W_dec"].ndim != 2:
        raise InputError(f"{where}: W_enc and W_dec must be matrices")
    (d_in, d_sae), d_out = tensors["W_enc"].shape, tensors["W_dec"].shape[1]
    shapes = {
        "W_dec": (d_sae, d_out),
        "b_enc": (d_sae,),
        "b_dec": (d_out,),
        "b_pre": (d_in,),
        "threshold": (d_sae,),
        "b_gate": (d_sae,),
        "r_mag": (d_sae,),
        "W_skip": (d_in, d_out),
    }
    for name, shape in shapes.items():
        if name in tensors and tensors[name].shape != shape:
            raise InputError(
                f"{where}: {name} has shape {tensors[name].shape}, but W_enc {tensors['W_enc'].shape} asks for {shape}"
            )
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(f"{where}: NaN or Inf in {name}")
    try:
        return SAE(**{name: jnp.asarray(tensor) for name, tensor in tensors.items()}, **options)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
