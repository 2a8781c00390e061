"""Which release of which family a language model is, by what people call it.

An SAE names its LM in its author's words, a run in the user's: `gemma-2-2b`, `google/gemma-2-2b-it`, a path, a GGUF
file. Two names say different things only where both are understood; tuning, quantisation and re-uploads are no release.
"""

import re
from typing import NamedTuple


class Release(NamedTuple):
    """`generation` is that in the name, "1" where there is none; `size` as in `2b`, `large`."""

    family: str
    generation: str
    size: str


_SIZE = r"(?P<size>\d+(?:\.\d+)?[bm])(?![a-z0-9])"
_NAMES = (
    rf"(?P<family>gemma|smollm)(?:-?(?P<generation>\d))?-{_SIZE}",
    rf"(?P<family>llama|qwen)-?(?P<generation>\d(?:\.\d)?)-{_SIZE}",
    rf"(?P<family>mistral|pythia)-{_SIZE}",
    # A number after it is a size in other words, or the dimension of something.
    r"(?P<family>gpt2)(?:-(?P<size>medium|large|xl))?(?!-?[a-z]*\d)(?![a-z])",
)
_PATTERNS = tuple(re.compile(rf"(?<![a-z0-9]){name}") for name in _NAMES)
_HUB_CACHE = "models--"


def release_of(name: str) -> Release | None:
    """What a name says. None: it is not understood, which is no ground for anything.

    Args:
        name: of the hub, of TransformerLens, or a path; of a path its last part, or the folder of the hub's cache.
    """
    parts = [part for part in re.split(r"[/\\]", name.lower().replace("_", "-")) if part]
    cached = [part for part in parts if part.startswith(_HUB_CACHE)]
    for part in (*cached[-1:], *parts[-1:]):
        if found := next((match for pattern in _PATTERNS if (match := pattern.search(part))), None):
            said = found.groupdict()
            return Release(found["family"], said.get("generation") or "1", said["size"] or "small")
    return None


def differ(one: str, other: str) -> bool:
    """Whether two names are certainly those of different LMs."""
    a, b = release_of(one), release_of(other)
    return a is not None and b is not None and a != b
