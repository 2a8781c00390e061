"""Checkpoints of a run: a killed run goes on from the last one and ends with the same numbers.

A checkpoint is one safetensors file: the statistics of every pass so far, and in its header where each pass is and what
the run is a run of (plan, LM, SAEs, text). Its name ends in the SHA-256 of its content, so a damaged one is recognised.
It appears whole or not at all; the last two are kept. A checkpoint of anything else is refused.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jsaeval import processes
from jsaeval.cache import atomic
from jsaeval.errors import InputError
from jsaeval.lm.card import card_of
from jsaeval.lm.protocol import HostLM
from jsaeval.run.state import PassState
from jsaeval.sae.module import SAE


FOLDER = "checkpoint"
KEPT = 2
# A checkpoint waits until this many times the seconds that the one before took have passed: at most 2 % of a run.
PACE = 50
_DIGITS = 32  # of the digest


class Stopped(Exception):
    """The run was asked to stop, and did between two batches, after it wrote a checkpoint."""


class Ended(Exception):
    """The run that was to go on came to its end before."""


Identity = dict[str, Any]


def identity(lm: HostLM, text: str, saes: Sequence[SAE]) -> Identity:
    """What a run is a run of, beside its plan: the version, the LM and each SAE with how they are read, and SHA-256 of
    the token ids."""
    card = card_of(lm)
    about = [getattr(lm, "config", None), card.special_ids, card.pad]
    return {
        "version": metadata.version("jsaeval"),
        "LM": _digest(card.sha256, *about),
        "text": text,
        "SAE": {sae.card.name: _digest(sae.card.sha256, *_how_it_reads(sae)) for sae in saes},
    }


def _how_it_reads(sae: SAE) -> tuple[Any, ...]:
    return sae.architecture, sae.input_norm, sae.b_pre is None, sae.card.declared


def _digest(*parts: Any) -> str:
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie, made when the first one is written; None: nothing is kept.
        every: seconds between two; 0 for one after every batch.
        plan: what was asked for; part of what a checkpoint is a checkpoint of.
        resume: take up the newest one that is whole.
        ended: what the run in the folder is a run of, where it came to its end.
        stop: asked between batches; when it says yes, a checkpoint is written and the run ends.
        say: told in one line what the user should know.

    Raises:
        InputError: the newest checkpoint is one of another plan.
    """

    def __init__(
        self,
        folder: Path | None = None,
        every: float = 30.0,
        plan: Mapping[str, Any] | None = None,
        resume: bool = False,
        ended: Identity | None = None,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.folder, self.every, self.resumed_rows, self.opened = folder, every, 0, False
        self._how, self._asked = {"resume": resume, "folder": str(folder)}, 0
        self._stop, self._say = stop, say
        self._identity: Identity = {"plan": dict(plan or {})}
        self._before = None if ended is None or not resume else self._identity | ended
        self._ended = self._before is not None
        self._passes: dict[str, PassState] = {}
        self._number, self._last, self._cost = 0, time.monotonic(), 0.0
        self._read_newest(folder if resume else None)

    def open(self, identity: Identity) -> None:
        """Begin: say what the run is a run of.

        Raises:
            InputError: what it was to go on from is another run; the difference is named. Or other processes are about
                to do something else.
            Ended: there is nothing left to do.
        """
        self._identity |= identity
        self.opened = True
        processes.agree(self._identity | {"how": self._how})
        self._check(self._identity)
        if self._ended:
            raise Ended
        if self.resumed_rows:
            self._say(f"going on after {self.resumed_rows:,} rows")
        self._last = time.monotonic()

    def _read_newest(self, folder: Path | None) -> None:
        """Of the first process, which writes them; the others may not even see the folder."""
        content = self._newest(folder) if processes.is_first() and folder is not None else b""
        if found := _unpack(processes.broadcast(content)):
            (self._before, self._passes), self._ended = found, False
            self.resumed_rows = sum(state.rows for state in self._passes.values())
            if processes.count() == 1:  # of several, all have to come to `open`
                self._check({"plan": self._identity["plan"]})

    def _newest(self, folder: Path) -> bytes:
        """The newest checkpoint that is whole; nothing where there is none."""
        for path in reversed(_files(folder)):
            self._number = max(self._number, int(path.name.partition("-")[0]))
            if content := _read(path):
                return content
            self._say(f"{path}: damaged; going back to the one before it")
        return b""

    def _check(self, now: Identity) -> None:
        """`now` against what the run was, as far as it is known yet."""
        if self._before is None:
            return
        then = {key: self._before.get(key) for key in now}
        if then != now:
            raise InputError(f"--resume: the run in {self._home} is another one ({difference(then, now)})")

    @property
    def _home(self) -> str:
        return "" if self.folder is None else str(self.folder.parent)

    @property
    def newest(self) -> int:
        """Number of the newest checkpoint; 0: there is none."""
        return self._number

    def state(self, name: str) -> PassState | None:
        """Where a pass was; `name` is that of its hook."""
        return self._passes.get(name)

    def offer(self, name: str, state: Callable[[], PassState], settle: Callable[[], Any] = lambda: None) -> None:
        """Between two batches: keep the state of a pass if it is time.

        Args:
            name: of the hook.
            state: makes the state.
            settle: waits for the batches that are under way. That is no cost of the checkpoint.

        Raises:
            Stopped: the run was asked to stop.
        """
        stop = self._stop()
        if self.folder is None:
            if stop:
                raise Stopped
            return
        wait = max(self.every, PACE * self._cost) if self.every else 0.0
        self._asked += 1
        due = stop or time.monotonic() - self._last >= wait
        if processes.first_decides(f"checkpoint/{self._asked}", due):
            settle()
            start = time.monotonic()
            self.done(name, state())
            self._write(self.folder)
            self._last = time.monotonic()
            self._cost = self._last - start
        if stop:
            raise Stopped

    def done(self, name: str, state: PassState) -> None:
        """Keep the state of a pass in memory, for the checkpoints to come."""
        self._passes[name] = state

    def stop_early(self) -> None:
        """Where a pass has nothing to keep yet: raises Stopped if the run was asked to stop."""
        if self._stop():
            if self._passes and self.folder is not None:
                self._write(self.folder)
            raise Stopped

    def _write(self, folder: Path) -> None:
        if not processes.is_first():
            return
        self._number += 1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content = _pack(self._identity, self._passes)
            name = f"{self._number:06d}-{hashlib.sha256(content).hexdigest()[:_DIGITS]}.safetensors"
            with atomic(folder / name) as temporary:
                temporary.write_bytes(content)
            for old in _files(folder)[:-KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            self._say(f"{folder}: the checkpoint cannot be written ({error.strerror}); going on without it")


def unfinished(folder: Path) -> bool:
    """Whether the folder of a run holds checkpoints."""
    return bool(_files(folder / FOLDER))


def clear(folder: Path) -> None:
    """Delete the checkpoints of a run, and what a killed process left beside them."""
    inside = folder / FOLDER
    if inside.is_dir():
        for path in [*_files(inside), *inside.glob(".*.safetensors.*")]:
            path.unlink(missing_ok=True)
        if not any(inside.iterdir()):
            inside.rmdir()


def difference(then: Any, now: Any, where: str = "") -> str:
    """The first thing in which two JSON values differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            if then.get(key) != now.get(key):
                return difference(then.get(key), now.get(key), f"{where} {key}".strip())
    return f"{where} was {_shown(then)}, now {_shown(now)}"


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    return f"{value[:12]}…" if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else f"{value}"


def _files(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    return sorted(folder.glob("[0-9]*-*.safetensors")) if folder.is_dir() else []


def _pack(identity: Identity, passes: dict[str, PassState]) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    about: list[dict[str, Any]] = []
    for i, (name, state) in enumerate(passes.items()):
        own, rest = state.pack()
        arrays |= {f"{i}/{key}": array for key, array in own.items()}
        about.append({"name": name} | rest)
    return save(arrays, {"run": json.dumps({"identity": identity, "passes": about})})


def _read(path: Path) -> bytes | None:
    """The content of a checkpoint, or None where it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    whole = hashlib.sha256(content).hexdigest()[:_DIGITS] == path.stem.partition("-")[2]
    return content if whole and _unpack(content) else None


def _unpack(content: bytes) -> tuple[Identity, dict[str, PassState]] | None:
    """What `_pack` was given; None where it was something else."""
    try:
        head = json.loads(_metadata(content)["run"])
        arrays, passes = load(content), {}
        for i, rest in enumerate(head["passes"]):
            own = {key.removeprefix(f"{i}/"): array for key, array in arrays.items() if key.startswith(f"{i}/")}
            passes[rest["name"]] = PassState.unpack(own, rest)
        return head["identity"], passes
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None


def _metadata(content: bytes) -> dict[str, str]:
    """Of a safetensors file: its header is JSON, after the length of the header in eight bytes."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"]
