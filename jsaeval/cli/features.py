"""`jsaeval probe --features`: probes on features that come from a file."""

import zipfile
from pathlib import Path

import numpy as np
from rich.console import Console

from jsaeval.errors import InputError, one_line
from jsaeval.probes.fit import KS, Examples, fit_probes, wanted
from jsaeval.probes.scores import scores
from jsaeval.probes.task import Which
from jsaeval.report.probes import features_to_json, show_features
from jsaeval.run.folder import finite


ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def probe_features(name: str, which: Which, seed: int, console: Console) -> list[dict]:
    """Fit and print; the entries of "probes".

    Raises:
        InputError: the file cannot be read, or does not hold what can be probed.
    """
    examples = read_features(name, seed)
    if which.ks != KS and max(which.ks) > examples.x_train.shape[1]:
        raise InputError(f"--k {max(which.ks)}: {name} has {examples.x_train.shape[1]} features")
    asked = wanted("file", examples.x_train.shape[1], which.kinds, which.ks, which.penalties)
    fitted = fit_probes({"file": examples}, asked)
    made = features_to_json([(own, scores(own.logits, examples.y_test, seed)) for own in fitted], Path(name).name)
    show_features(made, examples, console)
    return finite(made)


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
        reason = one_line(error)
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
