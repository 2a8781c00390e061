"""Goodfire's SAEs of Llama 3.1 8B and 3.3 70B (2025): one torch file, relu, nothing subtracted from the input."""

from pathlib import Path

from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import look, peek
from jsaeval.sae.formats.places import in_path, layer_at_end
from jsaeval.sae.module import SAE


NAME = "goodfire"
_TENSORS = {"encoder_linear.weight": "W_enc.T", "encoder_linear.bias": "b_enc"}
_TENSORS |= {"decoder_linear.weight": "W_dec.T", "decoder_linear.bias": "b_dec"}


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "torch" or not contents.has(*_TENSORS, only=True):
        return None
    return "a torch file with encoder_linear and decoder_linear"


def read(path: Path) -> SAE:
    """Read an SAE; the name of the file says LM and layer.

    Raises:
        InputError: see `make_sae`.
    """
    model = in_path(r"Llama-3\.\d-\d+B-Instruct", path)
    card = make_card(path, NAME, layer_at_end(path), lm=f"meta-llama/{model[0]}" if model else None)
    return make_sae(look(path).read(_TENSORS), str(path), card=card)
