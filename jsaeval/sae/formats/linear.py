"""Two linear layers in one torch file, without a configuration: relu, nothing subtracted from the input.

So are qresearch's SAE of DeepSeek-R1-Distill-Llama-8B (2025) and others who save `encoder` and `decoder`. The name of
the file may say the layer.
"""

from pathlib import Path

from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import look, peek
from jsaeval.sae.formats.places import in_path, layer_at_end
from jsaeval.sae.module import SAE


NAME = "linear"
_TENSORS = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T", "decoder.bias": "b_dec"}


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "torch" or not contents.has(*_TENSORS, only=True):
        return None
    return "a torch file of encoder and decoder alone, taken as relu"


def read(path: Path) -> SAE:
    """Read an SAE.

    Raises:
        InputError: see `make_sae`.
    """
    model = in_path(r"DeepSeek-R1-Distill-\w+-\d+B", path)
    card = make_card(path, NAME, layer_at_end(path), lm=f"deepseek-ai/{model[0]}" if model else None)
    return make_sae(look(path).read(_TENSORS), str(path), card=card)
