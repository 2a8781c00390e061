"""SAEs of Braun et al. 2024 (arXiv 2405.12241): `samples_N.pt` with a `final_config.yaml`.

The names of the tensors begin with the hook, its dots as dashes. The decoder's columns are brought to norm 1 whenever
it is applied, and are not so in the file. The LM was TransformerLens's with its default processing, which centres what
is written to the residual stream.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from jsaeval.errors import InputError
from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import Contents, look, peek, read_yaml
from jsaeval.sae.formats.places import name_of
from jsaeval.sae.module import SAE


NAME = "e2e-sae"
_TENSORS = {"encoder.0.weight": "W_enc.T", "encoder.0.bias": "b_enc"}
_TENSORS |= {"decoder.weight": "W_dec.T", "decoder.bias": "b_dec"}
_CONFIG = "final_config.yaml"


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "torch":
        return None
    hooks = _hooks(contents)
    return f"a torch file with encoder.0.weight of {', '.join(hooks)}" if hooks else None


def read(path: Path) -> SAE:
    """Read an SAE.

    Raises:
        InputError: see `make_sae`; SAEs of several hooks in one file.
    """
    contents, config = look(path), path.parent / _CONFIG
    hooks = _hooks(contents)
    if len(hooks) != 1:
        raise InputError(
            f"{path}: holds SAEs of {len(hooks)} hooks ({', '.join(hooks)}); only files of one are supported"
        )
    tensors = contents.read({f"{hooks[0]}.{old}": new for old, new in _TENSORS.items()})
    if "W_dec" in tensors:
        tensors["W_dec"] = tensors["W_dec"] / np.maximum(np.linalg.norm(tensors["W_dec"], axis=1, keepdims=True), 1e-12)
    stated: dict[str, Any] = read_yaml(config) if config.is_file() else {}
    hook, lm = hooks[0].replace("-", "."), stated.get("tlens_model_name")
    sae = make_sae(tensors, str(path), card=make_card(path, NAME, hook, lm=lm, name=name_of(path, 1)))
    return sae.with_centred_input()


def _hooks(contents: Contents) -> list[str]:
    """As they are written in the names of tensors."""
    matches = (re.fullmatch(r"(.+)\.encoder\.0\.weight", name) for name in contents.tensors)
    return [match[1] for match in matches if match]
