"""Qwen Scope (Qwen team 2026): `layer7.sae.pt` in a repository called `SAE-Res-Qwen3-8B-Base-W64K-L0_50`.

TopK, nothing subtracted from the input. `W_enc` is (d_sae, d_in) and `W_dec` (d_in, d_sae), other than the names
suggest. k is in the name of the repository only.
"""

from pathlib import Path

from jsaeval.errors import InputError
from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import look, peek
from jsaeval.sae.formats.places import in_path, layer_at_end, number_in_path
from jsaeval.sae.module import SAE


NAME = "qwen-scope"
_TENSORS = {"W_enc": "W_enc.T", "W_dec": "W_dec.T", "b_enc": "b_enc", "b_dec": "b_dec"}


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "torch" or not contents.has(*_TENSORS, only=True):
        return None
    shapes = {name: tensor.shape for name, tensor in contents.tensors.items()}
    if shapes["W_enc"] != shapes["b_enc"] + shapes["b_dec"] or path.with_name(f"{path.stem}_cfg.json").is_file():
        return None
    return "a torch file of W_enc (d_sae, d_in), W_dec, b_enc and b_dec"


def read(path: Path) -> SAE:
    """Read an SAE.

    Raises:
        InputError: see `make_sae`; k is not in the path.
    """
    k = number_in_path(r"L0_(\d+)", path)
    if k is None:
        raise InputError(f"{path}: k is not in the file; put it into a folder called after its repository, ...-L0_<k>")
    model = in_path(r"SAE-Res-([\w.-]+?)-W\d+K-L0_", path)
    lm = f"Qwen/{model[1]}" if model else None
    card = make_card(path, NAME, layer_at_end(path), lm=lm, name=f"{path.parent.name}/{path.stem}", declared={"l0": k})
    return make_sae(look(path).read(_TENSORS), str(path), activation="topk", k=k, card=card)
