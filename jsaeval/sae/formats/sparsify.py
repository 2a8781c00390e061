"""EleutherAI's sparsify: `layers.7.mlp/sae.safetensors` with a `cfg.json`; the folder is the path of a module.

TopK. SAEs subtract b_dec from their input, transcoders (`transcode`) do not: they predict a module's output from its
input, with `skip_connection` plus x W_skipᵀ. `encoder.weight` is (d_sae, d_in), `W_dec` already (d_sae, d_out).
"""

from pathlib import Path

from jsaeval.errors import InputError
from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import look, peek, read_json
from jsaeval.sae.formats.places import tl_hook
from jsaeval.sae.module import SAE


NAME = "sparsify"
_TENSORS = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_SKIP = {"W_skip": "W_skip.T"}


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "safetensors" or set(contents.tensors) - set(_SKIP) != set(_TENSORS):
        return None
    return f"safetensors of {', '.join(contents.tensors)}"


def read(path: Path) -> SAE:
    """Read an SAE or a transcoder.

    Raises:
        InputError: see `make_sae`; no `cfg.json`, one that does not agree with the weights or has something else than
            true or false where one of them belongs, or an activation other than TopK of positive values.
    """
    config = path.parent / "cfg.json"
    cfg, tensors = read_json(config), look(path).read(_TENSORS | _SKIP)
    if cfg.get("activation", "topk") != "topk":
        raise InputError(f"{config}: activation {cfg['activation']!r} is not supported; known: 'topk'")
    for key in ("signed", "skip_connection", "transcode"):
        if not isinstance(cfg.get(key, False), bool):
            raise InputError(f"{config}: {key} = {cfg[key]!r}; true or false was expected")
    if cfg.get("signed", False):
        raise InputError(f"{config}: signed, latents that may be negative, is not supported")
    if bool(cfg.get("skip_connection")) != ("W_skip" in tensors):
        raise InputError(f"{config}: skip_connection = {cfg.get('skip_connection')}, the weights say otherwise")
    transcodes, module = bool(cfg.get("transcode")), path.absolute().parent.name
    if not transcodes:
        tensors["b_pre"] = tensors["b_dec"]
    given = tl_hook(f"{module}.output")
    hook, hook_out = (tl_hook(f"{module}.input"), given) if transcodes else (given, None)
    run = path.parent.parent / "config.json"
    about = read_json(run) if run.is_file() else {}
    declared = {"l0": cfg.get("k"), "dataset": about.get("dataset"), "context": about.get("ctx_len")}
    card = make_card(path, NAME, hook, hook_out, about.get("model"), module, declared)
    sae = make_sae(tensors, str(path), activation="topk", k=cfg.get("k"), card=card)
    if cfg.get("d_in", sae.d_in) != sae.d_in:
        raise InputError(f"{config}: d_in = {cfg['d_in']}, the weights say {sae.d_in}")
    return sae
