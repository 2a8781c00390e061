"""Transcoders of Dunefsky et al. 2024 (arXiv 2406.11944), and SAEs of the same trainer: torch files of a configuration
object and a `state_dict`.

b_dec is subtracted from the input; a transcoder has a bias of its own for the output, `b_dec_out`. The configuration
was pickled as an object of the trainer, of which only the attributes are read.
"""

from pathlib import Path
from typing import Any

from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import Contents, look, peek
from jsaeval.sae.module import SAE


NAME = "transcoder-circuits"
_STATE, _CFG = "state_dict/", "cfg/"


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "torch" or not contents.has(f"{_STATE}W_enc", f"{_STATE}b_dec"):
        return None
    return "a torch file of cfg and state_dict" if _config(contents) else None


def read(path: Path) -> SAE:
    """Read a transcoder or an SAE.

    Raises:
        InputError: see `make_sae`.
    """
    contents = look(path)
    cfg = _config(contents)
    tensors = contents.read({name: name.removeprefix(_STATE) for name in contents.tensors})
    tensors["b_pre"] = tensors["b_dec"]
    tensors["b_dec"] = tensors.pop("b_dec_out", tensors["b_dec"])
    hook, hook_out = cfg.get("hook_point"), cfg.get("out_hook_point")
    declared = {"dataset": cfg.get("dataset_path"), "context": cfg.get("context_size")}
    return make_sae(
        tensors, str(path), card=make_card(path, NAME, hook, hook_out, cfg.get("model_name"), declared=declared)
    )


def _config(contents: Contents) -> dict[str, Any]:
    return {name.removeprefix(_CFG): value for name, value in contents.rest.items() if name.startswith(_CFG)}
