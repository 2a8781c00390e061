"""`jsaeval show`: what an SAE or a language model is, in a few lines."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp

from jsaeval.errors import InputError, nearest
from jsaeval.lm.decoder import Decoder
from jsaeval.lm.load import NAMES, load_lm
from jsaeval.metrics.behaviour import input_bias
from jsaeval.sae.load import SHIPPED, load_sae, reader_of
from jsaeval.sae.module import SAE


def describe(name: str) -> str:
    """Lines of text about an SAE or LM given by name, file or folder. A named LM is shown with its SAE.

    Raises:
        InputError: there is nothing of that name, or it cannot be read.
    """
    if name in NAMES:
        shipped = [describe_sae(load_sae(name))] if name in SHIPPED else []
        return "\n\n".join([describe_lm(load_lm(name)), *shipped])
    path = Path(name)
    if not path.exists() and "/" not in name:
        raise InputError(f"{name!r}: no such file, folder or name{nearest(name, NAMES)}")
    if path.suffix == ".gguf" or ((path / "config.json").is_file() and not _holds_sae(path)):
        return describe_lm(load_lm(name))
    return describe_sae(load_sae(name))


def _holds_sae(folder: Path) -> bool:
    return any(reader_of(path) for path in (folder, *folder.iterdir()))


def describe_lm(lm: Decoder) -> str:
    """About a language model."""
    config, card = lm.config, lm.card
    size = sum(leaf.size for leaf in jax.tree.leaves(lm))
    lines = {
        "language model": card.name,
        "family": config.family,
        "blocks": config.n_blocks,
        "width": f"{config.d_model} (MLP {config.d_mlp}, {config.n_heads} heads of {config.d_head}, "
        f"{config.n_kv_heads} key-value heads)",
        "vocabulary": f"{config.vocab:,}; BOS {card.bos}, EOS {card.eos}, PAD {card.pad}",
        "context": config.context,
        "parameters": f"{size:,}",
        "hooks": f"blocks.0 .. blocks.{config.n_blocks - 1}",
        "source": card.source,
        "SHA-256": card.sha256,
    }
    return _lines(lines)


def describe_sae(sae: SAE) -> str:
    """About a sparse autoencoder."""
    card = sae.card
    norms = jnp.linalg.norm(sae.W_dec, axis=1)
    lines = {
        "sparse autoencoder": card.name,
        "architecture": sae.architecture,
        "width": f"{sae.d_in} → {sae.d_sae} latents → {sae.d_out}",
        "hook": card.hook or "not stored",
        **({} if card.hook_out is None else {"predicts": card.hook_out}),
        **({} if sae.W_skip is None else {"affine skip": "yes"}),
        "LM": card.lm or "not stored",
        "input bias": input_bias(sae),
        "input normalisation": sae.input_norm,
        "decoder norms": f"{float(norms.min()):.4g} to {float(norms.max()):.4g}",
        "format": f"{card.format} ({card.why})" if card.why else card.format,
        "source": card.source,
        "SHA-256": card.sha256,
    }
    declared = json.loads(card.declared)
    return _lines(lines | {key: value for key, value in declared.items() if value not in (None, {}, [])})


def _lines(items: dict) -> str:
    width = max(len(key) for key in items)
    return "\n".join(f"{key:{width}}  {value}" for key, value in items.items())
