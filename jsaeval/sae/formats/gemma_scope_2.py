"""Gemma Scope 2 (Google DeepMind 2025), for Gemma 3: `params.safetensors` and, mostly, `config.json`.

JumpReLU, nothing subtracted from the input, matrices as in the canonical form. Transcoders read what the MLP reads, the
gain of the norm included, and predict what the post-MLP norm gives; folders that end in `_affine` add a skip. Where
there is no `config.json`, the folders say which site it is: `transcoder_all/layer_9_width_16k_l0_small_affine`.
"""

import re
from pathlib import Path
from typing import Any

from jsaeval.errors import InputError
from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import look, peek, read_json
from jsaeval.sae.formats.places import in_path, name_of, tl_hook
from jsaeval.sae.module import SAE


NAME = "gemma-scope-2"
_TENSORS = {"w_enc": "W_enc", "w_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
_SKIP = {"affine_skip_connection": "W_skip"}
_MLP = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"
_SITES = {
    "resid_post": ("output", "output"),
    "attn_out": ("self_attn.o_proj.input", "self_attn.o_proj.input"),
    "mlp_out": (_MLP[1], _MLP[1]),
    "transcoder": _MLP,
}


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "safetensors" or set(contents.tensors) - set(_SKIP) != set(_TENSORS):
        return None
    return f"safetensors of {', '.join(contents.tensors)}"


def read(path: Path) -> SAE:
    """Read an SAE or a transcoder.

    Raises:
        InputError: see `make_sae`; another architecture than its tensors show.
    """
    contents, config = look(path), path.parent / "config.json"
    stated = _from_folders(path) | (read_json(config) if config.is_file() else {})
    if stated.get("architecture", "jump_relu") != "jump_relu":
        raise InputError(f"{config}: architecture {stated['architecture']!r} is not supported; known: jump_relu")
    affine = next(iter(_SKIP)) in contents.tensors
    if bool(stated.get("affine_connection", affine)) != affine:
        raise InputError(f"{config}: affine_connection = {not affine}, but the weights say {affine}")
    points = [stated.get(f"hf_hook_point_{end}") for end in ("in", "out")]
    hook, hook_out = (tl_hook(point, "gemma3") if point else None for point in points)
    declared = {"l0": stated.get("l0"), "hf_hook_point_in": points[0], "hf_hook_point_out": points[1]}
    card = make_card(path, NAME, hook, hook_out, _lm(path, stated), name_of(path, 2), declared)
    return make_sae(contents.read(_TENSORS | _SKIP), str(path), activation="jumprelu", card=card)


def _from_folders(path: Path) -> dict[str, Any]:
    match = in_path(rf"/({'|'.join(_SITES)})(?:_all)?/layer_(\d+)_width_", path)
    if match is None:
        return {}
    ends = zip(("in", "out"), _SITES[match[1]], strict=True)
    return {f"hf_hook_point_{end}": f"model.layers.{match[2]}.{module}" for end, module in ends}


def _lm(path: Path, stated: dict[str, Any]) -> str | None:
    """The model's name on the hub; the smallest one has no `-pt` there."""
    repository = in_path(r"gemma-scope-2-(\d+[mb](?:-pt|-it)?)", path)
    name = stated.get("model_name") or (f"gemma-3-{repository[1]}" if repository else None)
    if not isinstance(name, str):
        return None
    name = re.sub(r"-270m-pt$", "-270m", name.replace("gemma-v3", "gemma-3"))
    return name if "/" in name else f"google/{name}"
