"""Files that commands write besides the folder of a run."""

import json
from pathlib import Path
from typing import Any

from jsaeval.cache import atomic
from jsaeval.errors import InputError


def check_file(flag: str, name: str) -> None:
    """Raises InputError where a file of this name cannot be written, before anything is computed."""
    path = Path(name)
    if not name or path.is_dir():
        raise InputError(f"{flag} {name!r}: the name of a file was expected")
    if not path.parent.is_dir():
        raise InputError(f"{flag} {name}: there is no folder {path.parent}")


def write_json(name: str, made: Any) -> None:
    """Write a file whole or not at all, and print its name.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with atomic(Path(name)) as temporary:
            temporary.write_text(json.dumps(made, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {name}: cannot be written ({error.strerror})") from None
    print(name)
