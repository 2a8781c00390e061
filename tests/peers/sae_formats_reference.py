"""Run by the Python of another environment: checkpoints as torch and the original libraries write them, and what they
make of them.

python sae_formats_reference.py torch OUT        files of `torch.save`, with the same numbers in `NAME.npz`
python sae_formats_reference.py LIBRARY OUT      one folder a checkpoint, with `reference.npz`: x, latents and output
"""

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch


D, M, K = 16, 40, 5


def inputs() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((50, D)).astype(np.float32) * 2 + 0.5)


def randomised(module: torch.nn.Module, scale: float = 0.3) -> torch.nn.Module:
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter, 0.0, scale)
        if "threshold" in name:
            parameter.data.abs_()
    return module


def keep(folder: Path, z: torch.Tensor, y: torch.Tensor) -> None:
    np.savez(folder / "reference.npz", x=inputs().numpy(), z=z.detach().numpy(), xhat=y.detach().numpy())


def imported(name: str) -> Any:
    """A module without the `__init__` of the packages around it, which import what is needed for training only."""
    parents = name.split(".")[:-1]
    for i in range(len(parents)):
        package = ".".join(parents[: i + 1])
        if package not in sys.modules:
            spec = importlib.util.find_spec(package)
            assert spec is not None and spec.submodule_search_locations is not None, package
            light = types.ModuleType(package)
            light.__path__, light.__spec__ = list(spec.submodule_search_locations), spec
            sys.modules[package] = light
    return importlib.import_module(name)


def torch_files(out: Path) -> None:
    """Every dtype, parameters, views, tied and strided tensors, modules, nested dictionaries; both kinds of file."""
    a = torch.randn(6, 8, generator=torch.manual_seed(0)) * 5
    dtypes = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    tree: dict[str, Any] = {name: a.to(getattr(torch, name)) for name in dtypes}
    tree |= {"parameter": torch.nn.Parameter(a), "transposed": a.T, "cut": a[2:5, 1:7:2], "tied": tree["float32"]}
    tree |= {"scalar": torch.tensor(3), "empty": torch.zeros(0), "one": a[3]}
    linear = torch.nn.Linear(8, 4, dtype=torch.bfloat16)
    tree |= {f"module.{name}": tensor for name, tensor in linear.state_dict().items()}
    rest = {"k": 32, "name": "é", "rate": 0.5, "none": None, "list": [1, "a", (2,)], "dtype": torch.bfloat16}
    rest |= {"device": torch.device("cpu"), "size": torch.Size([3, 4]), "on": True, "big": 2**40}
    np.savez(out / "expected.npz", **{name: tensor.detach().float().numpy() for name, tensor in tree.items()})
    for name, options in {
        "zip": {},
        "legacy": {"_use_new_zipfile_serialization": False},
        "protocol4": {"pickle_protocol": 4},
        "protocol5": {"pickle_protocol": 5},
    }.items():
        torch.save({**tree, "inner": linear.state_dict(), "rest": rest}, out / f"{name}.pt", **options)
    torch.save(linear, out / "whole_module.pt")


def sparsify(out: Path) -> None:
    config, coder = imported("sparsify.config"), imported("sparsify.sparse_coder")
    for name, options in {
        "layers.1": {},
        "layers.2.mlp": {"transcode": True},
        "layers.3.mlp": {"transcode": True, "skip_connection": True},
        "layers.4": {"skip_connection": True},
    }.items():
        sae = randomised(coder.SparseCoder(D, config.SparseCoderConfig(num_latents=M, k=K, **options)))
        sae.save_to_disk(out / name)
        found = sae.encode(inputs())
        z = torch.zeros(len(inputs()), M).scatter_(1, found.top_indices, found.top_acts)
        keep(out / name, z, sae(inputs()).sae_out)


def dictionary_learning(out: Path) -> None:
    dictionary = imported("dictionary_learning.dictionary")
    trainers = {
        name: imported(f"dictionary_learning.trainers.{name}")
        for name in ("top_k", "batch_top_k", "matryoshka_batch_top_k")
    }
    saes = {
        "AutoEncoder": dictionary.AutoEncoder(D, M),
        "AutoEncoderNew": dictionary.AutoEncoderNew(D, M),
        "GatedAutoEncoder": dictionary.GatedAutoEncoder(D, M),
        "JumpReluAutoEncoder": dictionary.JumpReluAutoEncoder(D, M),
        "AutoEncoderTopK": trainers["top_k"].AutoEncoderTopK(D, M, K),
        "BatchTopKSAE": trainers["batch_top_k"].BatchTopKSAE(D, M, K),
        "MatryoshkaBatchTopKSAE": trainers["matryoshka_batch_top_k"].MatryoshkaBatchTopKSAE(D, M, K, [8, 12, 20]),
    }
    for name, sae in saes.items():
        randomised(sae)
        if hasattr(sae, "k"):
            sae.threshold.fill_(0.6)
        folder = out / name
        folder.mkdir(parents=True)
        torch.save(sae.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D, "dict_size": M, "layer": 3, "lm_name": "tiny"}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"io": "out"}}))
        keep(folder, sae.encode(inputs()), sae(inputs()))


def circuit_tracer(out: Path) -> None:
    module = imported("circuit_tracer.transcoder.single_layer_transcoder")
    activations = imported("circuit_tracer.transcoder.activation_functions")
    for i, (skip, jump) in enumerate([(False, False), (True, False), (False, True), (True, True)]):
        act = activations.JumpReLU(torch.full((M,), 0.5), 0.1) if jump else torch.nn.functional.relu
        plt = module.SingleLayerTranscoder(D, M, act, i, skip, device=torch.device("cpu"), dtype=torch.float32)
        randomised(plt)
        folder = out / f"plt-{i}"
        folder.mkdir(parents=True)
        plt.to_safetensors(str(folder / f"layer_{i}.safetensors"))
        z = plt.encode(inputs())
        keep(folder, z, plt.decode(z, inputs()))


def llamascopium(out: Path) -> None:
    module, save_file = imported("llamascopium.models.sae"), importlib.import_module("safetensors.torch").save_file
    for act in ("relu", "topk", "jumprelu"):
        for rescaled in (True, False):
            config = module.SAEConfig(
                hook_point_in="blocks.1.hook_resid_post",
                hook_point_out="blocks.1.hook_mlp_out",
                d_model=D,
                expansion_factor=M / D,
                act_fn=act,
                top_k=K,
                sparsity_include_decoder_norm=rescaled,
                device="cpu",
                dtype=torch.float32,
            )
            sae = randomised(module.SparseAutoEncoder(config))
            norms = {config.hook_point_in: 9.0, config.hook_point_out: 3.0}
            sae.set_dataset_average_activation_norm(norms)
            folder = out / f"{act}-{rescaled}"
            folder.mkdir(parents=True)
            state = {name: tensor.detach().clone().contiguous() for name, tensor in sae.full_state_dict().items()}
            save_file(state, folder / "sae_weights.safetensors")
            (folder / "config.json").write_text(config.model_dump_json())
            z = sae.encode(inputs() * D**0.5 / norms[config.hook_point_in])
            y = sae.decode(z) * norms[config.hook_point_out] / D**0.5
            if act == "topk" and rescaled:  # we report latents in units of the decoder rows, without the scales
                z = z * sae.decoder_norm() * norms[config.hook_point_out] / D**0.5
            keep(folder, z, y)


LIBRARIES = {f.__name__: f for f in (sparsify, dictionary_learning, circuit_tracer, llamascopium)}

if __name__ == "__main__":
    with torch.no_grad():
        ({"torch": torch_files} | LIBRARIES)[sys.argv[1]](Path(sys.argv[2]))
