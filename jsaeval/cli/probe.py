"""`jsaeval probe`: can a concept be read off features?"""

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console

from jsaeval.cache import keep_programs
from jsaeval.cli.files import check_file, write_json
from jsaeval.errors import InputError, nearest
from jsaeval.probes.fit import KINDS, KS, Examples, fit_probes
from jsaeval.report.probes import probes_to_json, show_probes
from jsaeval.run.folder import SCHEMA


ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class ProbeFeatures:
    """Probe features for a concept: one of them, k of them, all of them."""

    features: Annotated[str, tyro.conf.arg(metavar="FILE.npz")]
    """Arrays x_train and x_test (example, feature), y_train and y_test (example) of 0 and 1."""
    probes: str = ",".join(KINDS)
    """Which probes, separated by commas."""
    k: tyro.conf.UseAppendAction[tuple[int, ...]] = ()
    """Features of the k-sparse probes. Repeat for several. Default: 1, 2, 4, ... 512."""
    seed: int = 0
    """Of the validation examples and of the bootstrap."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file for the numbers."""


def probe(command: ProbeFeatures) -> int:
    """Fit and print; returns the exit code.

    Raises:
        InputError: a flag or file that cannot be meant.
    """
    kinds = [name.strip() for name in command.probes.split(",") if name.strip()]
    for name in kinds:
        if name not in KINDS:
            raise InputError(f"--probes {name!r}: no such probe{nearest(name, KINDS)}")
    if not kinds:
        raise InputError(f"--probes is empty; known: {', '.join(KINDS)}")
    if any(k < 1 for k in command.k):
        raise InputError(f"--k {min(command.k)}: at least 1 is needed")
    if command.out is not None:
        check_file("--out", command.out)
    keep_programs()
    examples = read_features(command.features, command.seed)
    fitted = fit_probes(examples, [kind for kind in KINDS if kind in kinds], command.k or KS, seed=command.seed)
    made = probes_to_json(fitted, features=Path(command.features).name)
    show_probes(made, examples, Console(width=None if sys.stdout.isatty() else 120))
    if command.out is not None:
        write_json(command.out, {"schema": SCHEMA, "probes": made})
    return 0


def read_features(name: str, seed: int) -> Examples:
    """The examples in a file.

    Raises:
        InputError: no such file, not one of arrays, or arrays that do not fit.
    """
    try:
        with np.load(name, allow_pickle=False) as file:
            missing = [array for array in ARRAYS if array not in file]
            if missing:
                raise InputError(f"--features {name}: no array {', '.join(missing)}; it holds {', '.join(file.files)}")
            arrays = {array: file[array] for array in ARRAYS}
    except FileNotFoundError:
        raise InputError(f"--features {name}: no such file") from None
    except InputError:
        raise
    except (OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"--features {name}: cannot be read as .npz ({reason})") from None
    for array in ("y_train", "y_test"):
        values = np.unique(arrays[array])
        if not set(values.tolist()) <= {0, 1}:
            raise InputError(f"--features {name}: {array} holds {values[:4].tolist()}; 0 and 1 were expected")
    for array in ("x_train", "x_test"):
        if not np.issubdtype(arrays[array].dtype, np.number):
            raise InputError(f"--features {name}: {array} holds {arrays[array].dtype}; numbers were expected")
    try:
        return Examples.of(**arrays, seed=seed)
    except InputError as error:
        raise InputError(f"--features {name}: {error}") from None
