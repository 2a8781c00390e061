"""Gemma Scope (Lieberum et al. 2024, arXiv 2408.05147): `params.npz`, JumpReLU, nothing subtracted from the input.

Repository and folders say what it is: `gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`. Three things need care.
MLP SAEs stand after Gemma's post-MLP norm. Transcoders read the normalised residual stream *without* the gain of the
norm (`ln2.hook_normalized`). SAEs of the embedding were trained before it is multiplied by sqrt(d_model), so that the
scale goes into their weights, the decoder's bias included.
"""

from pathlib import Path

import numpy as np

from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import look, peek
from jsaeval.sae.formats.places import in_path, name_of, number_in_path
from jsaeval.sae.module import SAE


NAME = "gemma-scope"
_TENSORS = {name.lower(): name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
_SITES = {
    "res": ("hook_resid_post", None),
    "att": ("attn.hook_z", None),
    "mlp": ("hook_mlp_out", None),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "npz" or {name.lower() for name in contents.tensors} != set(_TENSORS):
        return None
    return "an npz of W_enc, W_dec, b_enc, b_dec and threshold"


def read(path: Path) -> SAE:
    """Read an SAE. Its hook and LM are known where the folders are still those of its repository.

    Raises:
        InputError: see `make_sae`.
    """
    tensors = {_TENSORS[name.lower()]: tensor for name, tensor in look(path).read().items()}
    repository = in_path(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|att|mlp|transcoders)", path)
    layer = number_in_path(r"layer_(\d+)/", path)
    hook = hook_out = None
    if in_path(r"/embedding/width_\w+/average_l0_\d+/", path):
        hook = "blocks.0.hook_resid_pre"
        scale = np.float32(tensors["W_enc"].shape[0] ** 0.5)
        tensors |= {"W_enc": tensors["W_enc"] / scale, "W_dec": tensors["W_dec"] * scale}
        tensors |= {"b_dec": tensors["b_dec"] * scale}
    elif repository and layer is not None:
        hook, hook_out = (site and f"blocks.{layer}.{site}" for site in _SITES[repository[3]])
    card = make_card(
        path,
        NAME,
        hook,
        hook_out,
        f"gemma-2-{repository[1]}{'-it' if repository[2] == 'it' else ''}" if repository else None,
        name_of(path, 3),
        {"l0": number_in_path(r"average_l0_(\d+)", path)},
    )
    return make_sae(tensors, str(path), activation="jumprelu", card=card)
