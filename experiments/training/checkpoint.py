"""The folder of a training: whose it is, and its last good checkpoint."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx

from experiments.training.step import Group
from jsaeval.cache import atomic
from jsaeval.errors import InputError


PLAN, STATE = "plan.json", "state.eqx"


def claim(out: Path, identity: dict[str, Any], command: str, resume: bool) -> int:
    """Take a folder; the number of steps that its checkpoint has, 0 to begin anew.

    Args:
        out: the folder; made if it is not there.
        identity: everything that a checkpoint must have been made with.
        command: written down beside it.
        resume: go on from a checkpoint, if there is one.

    Raises:
        InputError: it holds another training, one that is not to be resumed, or a damaged one.
    """
    out.mkdir(parents=True, exist_ok=True)
    plan, state = out / PLAN, out / STATE
    if plan.exists():
        try:
            before = json.loads(plan.read_text(encoding="utf-8"))["identity"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{plan}: not the plan of a training; choose another folder") from None
        if changed := [key for key in identity if before.get(key) != identity[key]]:
            key = changed[0]
            raise InputError(
                f"{out}: holds a training with another {key} ({_difference(before.get(key), identity[key])}); "
                "choose another folder"
            )
        if not resume and state.exists():
            raise InputError(f"{out}: holds this training already; --resume goes on with it")
    elif state.exists():
        raise InputError(f"{out}: holds a checkpoint without its {PLAN}; choose another folder")
    with atomic(plan) as temporary:
        temporary.write_text(json.dumps({"command": command, "identity": identity}, indent=1) + "\n", encoding="utf-8")
    return _head(state)["step"] if state.exists() else 0


def _difference(before: Any, now: Any) -> str:
    """The first thing in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                return f"{key}: {_difference(before.get(key), now.get(key))}"
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return next(_difference(a, b) for a, b in zip(before, now, strict=True) if a != b)
    return f"{before}, now {now}"


def save_checkpoint(out: Path, groups: tuple[Group, ...], step: int, seconds: float) -> None:
    """Groups after a number of steps; the checkpoint before is replaced when this one is whole."""
    with atomic(out / STATE) as temporary, temporary.open("wb") as stream:
        stream.write(json.dumps({"step": step, "seconds": round(seconds, 1)}).encode() + b"\n")
        eqx.tree_serialise_leaves(stream, groups)


def load_checkpoint(out: Path, groups: tuple[Group, ...]) -> tuple[tuple[Group, ...], float]:
    """What `save_checkpoint` wrote, into groups of the same shape; and the seconds that it took to get there.

    Raises:
        InputError: the file is damaged.
    """
    path = out / STATE
    seconds = _head(path)["seconds"]
    try:
        with path.open("rb") as stream:
            stream.readline()
            return eqx.tree_deserialise_leaves(stream, groups), seconds
    except (ValueError, RuntimeError, EOFError) as error:
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0]}); delete it to begin anew") from None


def _head(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            head = json.loads(stream.readline())
        return {"step": int(head["step"]), "seconds": float(head["seconds"])}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged (its first line is no checkpoint's); delete it to begin anew") from None
