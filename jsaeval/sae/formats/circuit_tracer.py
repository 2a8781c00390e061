"""Per-layer transcoders of circuit-tracer (mwhanna and others): `layer_7.safetensors`, hooks in a `config.yaml`.

`W_enc` is (d_sae, d_in) and `W_skip` (d_out, d_in). `W_dec` is (d_sae, d_out), in some repositories (d_out, d_sae); the
lengths of the biases tell. relu, or JumpReLU where there is a threshold; nothing is subtracted from the input.
"""

from pathlib import Path
from typing import Any

from jsaeval.errors import InputError
from jsaeval.sae.formats.assemble import make_card, make_sae, per_latent
from jsaeval.sae.formats.contents import look, peek, read_yaml
from jsaeval.sae.formats.places import number_in_path
from jsaeval.sae.module import SAE


NAME = "circuit-tracer"
_TENSORS = {"W_enc": "W_enc.T", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec"}
_MORE = {"W_skip": "W_skip.T", "activation_function.threshold": "threshold"}


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "safetensors":
        return None
    shapes = {name: tensor.shape for name, tensor in contents.tensors.items()}
    if set(shapes) - set(_MORE) != set(_TENSORS) or shapes["W_enc"][:1] != shapes["b_enc"]:
        return None
    if (path.parent / "cfg.json").is_file():
        return None
    return f"safetensors of W_enc (d_sae, d_in), {', '.join(name for name in shapes if name != 'W_enc')}"


def read(path: Path) -> SAE:
    """Read a transcoder, or an SAE.

    Raises:
        InputError: see `make_sae`.
    """
    config = path.parent / "config.yaml"
    stated: dict[str, Any] = read_yaml(config) if config.is_file() else {}
    if stated.get("model_kind", "transcoder_set") != "transcoder_set":
        raise InputError(f"{config}: model_kind {stated['model_kind']!r} is not supported; known: 'transcoder_set'")
    tensors = look(path).read(_TENSORS | _MORE)
    if tensors["W_dec"].shape == tensors["b_dec"].shape + tensors["b_enc"].shape:
        tensors["W_dec"] = tensors["W_dec"].T
    if "threshold" in tensors:
        tensors["threshold"] = per_latent(tensors["threshold"], tensors)
    layer = number_in_path(r"layer_(\d+)\.", path)
    hooks = (stated.get(f"feature_{end}_hook") for end in ("input", "output"))
    hook, hook_out = (f"blocks.{layer}.{site}" if site and layer is not None else None for site in hooks)
    name = f"{path.absolute().parent.name}/{path.stem}"
    card = make_card(path, NAME, hook, hook_out, stated.get("model_name"), name)
    return make_sae(tensors, str(path), activation="jumprelu" if "threshold" in tensors else "relu", card=card)
