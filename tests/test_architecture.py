"""The house: imports point downward, files stay small, and nothing heavy or foreign is imported."""

import ast
from pathlib import Path

import pytest

import jsaeval


ROOT = Path(jsaeval.__file__).parent
# Top to bottom. A module may import its own layer and those below it.
LAYERS = (
    "cli",
    "report",
    "rating",
    "autointerp",
    "probes",
    "sizing",
    "run",
    "metrics",
    "forward",
    "stats",
    "corpus",
    "lm",
    "sae",
    "mesh",
    "processes",
    "hooks",
    "cache",
    "numerics",
    "errors",
)
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imports(path: Path) -> set[str]:
    """Full names of everything that a file imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    own = LAYERS.index(layer(path))
    for name in imports(path):
        if name.startswith("jsaeval."):
            assert LAYERS.index(name.split(".")[1]) >= own, (
                f"{path.relative_to(ROOT)} imports {name}, which is above it"
            )


def test_every_layer_exists():
    assert {layer(path) for path in FILES} == set(LAYERS)


def test_no_foreign_frameworks():
    for path in FILES:
        for name in imports(path):
            assert name.split(".")[0] not in {"torch", "transformers", "sae_lens", "transformer_lens", "sae_bench"}


def test_files_are_small():
    sizes = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert max(sizes.values()) <= 350, {name: size for name, size in sizes.items() if size > 350}
