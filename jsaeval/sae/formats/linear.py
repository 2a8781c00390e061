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
_LAYERS = ("encoder", "decoder")


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    return "a torch file of encoder and decoder alone, taken as relu" if has_layers(path, _LAYERS) else None


def read(path: Path) -> SAE:
    """Read an SAE.

    Raises:
        InputError: see `make_sae`.
    """
    return read_layers(path, NAME, _LAYERS, r"DeepSeek-R1-Distill-\w+-\d+B", "deepseek-ai")


def has_layers(path: Path, layers: tuple[str, str]) -> bool:
    """Whether a file is a torch file of these two layers and nothing else."""
    contents = peek(path)
    return contents is not None and contents.kind == "torch" and contents.has(*_tensors(layers), only=True)


def read_layers(path: Path, format: str, layers: tuple[str, str], lm: str, owner: str) -> SAE:
    """Two layers as an SAE; where the path has what `lm` matches, it is of that LM of `owner`."""
    model = in_path(lm, path)
    card = make_card(path, format, layer_at_end(path), lm=f"{owner}/{model[0]}" if model else None)
    return make_sae(look(path).read(_tensors(layers)), str(path), card=card)


def _tensors(layers: tuple[str, str]) -> dict[str, str]:
    ends = zip(layers, ("enc", "dec"), strict=True)
    return {
        f"{layer}.{part}": name
        for layer, end in ends
        for part, name in (("weight", f"W_{end}.T"), ("bias", f"b_{end}"))
    }
