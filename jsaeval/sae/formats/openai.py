"""OpenAI's autoencoders of GPT-2 small (Gao et al. 2024, arXiv 2406.04093), versions 1 to 5: `.../autoencoders/8.pt`.

One bias, `pre_bias`, is subtracted from the input and added to the output. Those with a TopK activation normalise each
input to zero mean and unit deviation first, and undo it at the end. The folder says the location.
"""

from pathlib import Path

from jsaeval.errors import InputError
from jsaeval.sae.formats.assemble import make_card, make_sae
from jsaeval.sae.formats.contents import look, peek
from jsaeval.sae.formats.places import in_path
from jsaeval.sae.module import SAE


NAME = "openai"
_TENSORS = {"encoder.weight": "W_enc.T", "decoder.weight": "W_dec.T", "latent_bias": "b_enc", "pre_bias": "b_dec"}
_SITES = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}


def recognise(path: Path) -> str | None:
    """What says that a file is in this format."""
    contents = peek(path)
    if contents is None or contents.kind != "torch" or not contents.has(*_TENSORS):
        return None
    return "a torch file with pre_bias and latent_bias"


def read(path: Path) -> SAE:
    """Read an SAE.

    Raises:
        InputError: see `make_sae`; an activation other than ReLU and TopK.
    """
    contents = look(path)
    act, k = contents.rest.get("activation", "ReLU"), contents.rest.get("activation_state_dict/k")
    if act not in ("ReLU", "TopK") or contents.rest.get("activation_state_dict/postact_fn", "ReLU") != "ReLU":
        raise InputError(f"{path}: activation {act!r} is not supported; known: 'ReLU', 'TopK' with a ReLU after it")
    tensors = contents.read(_TENSORS)
    tensors["b_pre"] = tensors["b_dec"]
    found = in_path(rf"({'|'.join(_SITES)})(?:_v\d+(?:_\w+)?)?/autoencoders/(\d+)\.pt$", path)
    hook = f"blocks.{found[2]}.{_SITES[found[1]]}" if found else None
    name = f"{path.absolute().parts[-3]}/{path.stem}" if found else None
    card = make_card(path, NAME, hook, lm="gpt2", name=name, declared={"l0": k})
    if act == "ReLU":
        return make_sae(tensors, str(path), card=card)
    return make_sae(tensors, str(path), activation="topk", k=k, input_norm="layer_norm", card=card)
