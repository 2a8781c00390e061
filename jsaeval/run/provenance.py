"""What a report says of the LM and of an SAE, and of the machine and the versions that its numbers were made with."""

import dataclasses
import platform
import resource
from importlib import metadata
from typing import Any

from jax.sharding import Mesh

from jsaeval import processes
from jsaeval.hooks import Hook
from jsaeval.lm.card import card_of
from jsaeval.lm.decoder import Decoder
from jsaeval.lm.protocol import HostLM
from jsaeval.sae.module import SAE


def about_lm(lm: HostLM) -> dict[str, Any]:
    """Name, hash, sizes, and the config where it is a decoder of ours."""
    card = card_of(lm)
    about: dict[str, Any] = {"name": card.name, "sha256": card.sha256 or None}
    about |= {"n_blocks": lm.n_blocks, "d_model": lm.d_model, "vocab": lm.vocab}
    return about | ({"config": dataclasses.asdict(lm.config)} if isinstance(lm, Decoder) else {})


def about_sae(sae: SAE, hook: Hook) -> dict[str, Any]:
    """Name, hook, sizes, and where it came from."""
    card = sae.card
    source = {"format": card.format, "path": card.source, "sha256": card.sha256}
    about = {"name": card.name, "hook": hook.name, "architecture": sae.architecture}
    return about | {"d_in": sae.d_in, "d_sae": sae.d_sae, "d_out": sae.d_out, "source": source}


def surroundings(lm: HostLM, mesh: Mesh, precision: str) -> dict[str, Any]:
    """Versions, machine, devices, arithmetic, and the memory that this process took at most."""
    packages = ("jsaeval", "jax", "jaxlib", "equinox", "numpy")
    return {
        "versions": {name: metadata.version(name) for name in packages} | {"python": platform.python_version()},
        "platform": platform.platform(),
        "devices": [str(device.device_kind) for device in mesh.devices.flat],
        "mesh": dict(mesh.shape),
        "processes": processes.count(),
        "dtype": str(lm.unembedding.dtype),
        "precision": precision,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
