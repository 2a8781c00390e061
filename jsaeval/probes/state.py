"""What was found for a task as one file, found again by a hash of everything that it depends on."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from jsaeval.cache import HARMED, atomic
from jsaeval.probes.fit import Probe
from jsaeval.probes.task import Fitted, TaskResult, Top
from jsaeval.run.folder import PROBES


def path_of(folder: Path, *identity: Any) -> Path:
    """Where the results of a task with this identity lie in the folder of a run."""
    return folder / PROBES.parts / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]}.npz"


def save(path: Path, result: TaskResult) -> None:
    """Write results; the file appears whole or not at all."""
    about = dataclasses.asdict(dataclasses.replace(result, labels=np.zeros(0, bool), fitted=()))
    del about["labels"], about["fitted"]
    fitted = [dataclasses.asdict(own) for own in result.fitted]
    logits = [own["probe"].pop("logits") for own in fitted]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("wb") as stream:
        text = json.dumps(about | {"fitted": fitted})
        np.savez(stream, about=np.array(text), labels=result.labels, logits=np.stack(logits))


def load(path: Path) -> TaskResult | None:
    """Results, or None where there are none, or what is there was harmed."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            about, labels, logits = json.loads(str(file["about"])), file["labels"], file["logits"]
    except FileNotFoundError:
        return None
    except HARMED:
        path.unlink(missing_ok=True)
        return None
    fitted = []
    for own, line in zip(about.pop("fitted"), logits, strict=True):
        chosen = own["probe"].pop("chosen")
        chosen = None if chosen is None else tuple(chosen)
        fitted.append(Fitted(own["sae"], Probe(**own["probe"], chosen=chosen, logits=line)))
    top = tuple(tuple(Top(**text) for text in texts) for texts in about.pop("top"))
    return TaskResult(**about | {"examples": tuple(about["examples"])}, labels=labels, fitted=tuple(fitted), top=top)
