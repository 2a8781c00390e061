"""An environment of a peer's own, in the root of the checkout, from its constraints file."""

import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]


def peer_environment(name: str) -> Path:
    """The Python of `.venv-NAME`, which is made from `constraints-NAME.txt` if it is not there."""
    venv = ROOT / f".venv-{name}"
    python, ready = venv / "bin" / "python", venv / ".installed"
    if not ready.exists():
        print(f"making {venv.name} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        requirements = ROOT / f"constraints-{name}.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        ready.touch()
    return python
