"""Goodfire's SAEs of Llama 3.1 8B and 3.3 70B (2025): one torch file, relu, nothing subtracted from the input."""

from pathlib import Path

from jsaeval.sae.formats.linear import has_layers, read_layers
from jsaeval.sae.module import SAE


NAME = "goodfire"
_LAYERS = ("encoder_linear", "decoder_linear")


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    return "a torch file with encoder_linear and decoder_linear" if has_layers(path, _LAYERS) else None


def read(path: Path) -> SAE:
    """Read an SAE; the name of the file says LM and layer.

    Raises:
        InputError: see `make_sae`.
    """
    return read_layers(path, NAME, _LAYERS, r"Llama-3\.\d-\d+B-Instruct", "meta-llama")
