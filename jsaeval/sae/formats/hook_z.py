"""SAEs of attention outputs by Kissane, Krzyzanowski and Conmy (2024, arXiv 2406.17759): `NAME.pt`, `NAME_cfg.json`.

relu; b_dec is subtracted from the input, which is all heads of `attn.hook_z` side by side.
"""

from pathlib import Path

from jsaeval.errors import InputError
from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import look, peek, read_json
from jsaeval.sae.module import SAE


NAME = "hook-z"
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "torch" or not contents.has(*_TENSORS, only=True):
        return None
    return f"a torch file beside {_config(path).name}" if _config(path).is_file() else None


def read(path: Path) -> SAE:
    """Read an SAE.

    Raises:
        InputError: see `make_sae`; sizes that the configuration contradicts.
    """
    cfg, tensors = read_json(_config(path)), look(path).read()
    tensors["b_pre"] = tensors["b_dec"]
    sae = make_sae(tensors, str(path), card=make_card(path, NAME, cfg.get("act_name"), lm=cfg.get("model_name")))
    for key, found in (("act_size", sae.d_in), ("dict_size", sae.d_sae)):
        if cfg.get(key, found) != found:
            raise InputError(f"{_config(path)}: {key} = {cfg[key]}, the weights say {found}")
    return sae


def _config(path: Path) -> Path:
    return path.with_name(f"{path.stem}_cfg.json")
