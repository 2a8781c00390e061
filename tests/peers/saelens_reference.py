"""Run by the Python of SAELens's environment: random SAEs as SAELens saves them, and what SAELens makes of folders.

python saelens_reference.py write OUT       one folder an SAE, with `reference.npz`: x, latents and reconstruction
python saelens_reference.py read FOLDER     the same file into every folder below FOLDER that lacks it
"""

import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)


SIZES = dict(d_in=16, d_sae=40, device="cpu", dtype="float32")
KINDS = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 5}),
    "topk_rescaled": (TopKSAE, TopKSAEConfig, {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": 5}),
}
TRANSCODERS = {
    "transcoder": (Transcoder, TranscoderConfig),
    "skip_transcoder": (SkipTranscoder, SkipTranscoderConfig),
    "jumprelu_transcoder": (JumpReLUTranscoder, JumpReLUTranscoderConfig),
    "jumprelu_skip_transcoder": (JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig),
}
NORMS = ("none", "constant_norm_rescale", "layer_norm")


def inputs() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((2, 30, 16)).astype(np.float32) * 2 + 0.5)


def write(out: Path) -> None:
    for kind, norm, centred in itertools.product(KINDS, NORMS, (True, False)):
        cls, config, options = KINDS[kind]
        sae = randomised(cls(config(**SIZES, **options, normalize_activations=norm, apply_b_dec_to_input=centred)))
        folder = out / f"{kind}-{norm}-{'centred' if centred else 'plain'}"
        if kind == "batchtopk":
            sae.topk_threshold = torch.tensor(0.4, dtype=torch.double)
            sae.save_inference_model(folder)
        else:
            sae.save_model(folder)
        reference(folder)
    for kind, (cls, config) in TRANSCODERS.items():
        sae = randomised(cls(config(**SIZES, d_out=12, apply_b_dec_to_input=False)))
        sae.cfg.metadata.hook_name_out = "blocks.1.hook_mlp_out"
        sae.save_model(out / kind)
        reference(out / kind)


def randomised(sae):
    torch.manual_seed(0)
    for name, parameter in sae.named_parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
        if name == "threshold":
            parameter.data.abs_()
    sae.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    return sae


def reference(folder: Path) -> None:
    sae, x = SAE.load_from_disk(folder), inputs()
    with torch.no_grad():
        z = sae.encode(x)
        z = z.to_dense() if z.is_sparse else z
        y = sae(x) if isinstance(sae, Transcoder) else sae.decode(z)  # a skip is no part of `decode` there
        np.savez(folder / "reference.npz", x=x.numpy(), z=z.numpy(), xhat=y.numpy())


def read(root: Path) -> None:
    for cfg in root.glob("*/cfg.json"):
        if not (cfg.parent / "reference.npz").exists():
            reference(cfg.parent)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
