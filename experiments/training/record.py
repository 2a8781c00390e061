"""`log.jsonl` of a training: what the steps said, averaged between lines, and each evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jsaeval.cache import atomic
from jsaeval.errors import InputError


class DivergedError(InputError):
    """A loss or a weight is not finite."""


class Log:
    """Appends to a file. A resumed training begins with the lines up to its checkpoint."""

    def __init__(self, path: Path, names: list[str], tokens_per_step: int, first: int):
        kept = [line for line in read_log(path) if line["step"] <= first] if first else []
        with atomic(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.path, self.names, self.tokens_per_step = path, names, tokens_per_step
        self._silent: set[str] = set()

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def steps(self, done: int, observed: list[Any], seconds: float) -> list[str]:
        """The steps up to `done` since the last line, which took so long; what to say of them.

        Raises:
            DivergedError: a loss among them is not finite.
        """
        if not observed:
            return []
        loss = np.stack([o.loss for o in observed])
        bad = np.argwhere(~np.isfinite(loss))
        if len(bad):
            step, which = bad[0]
            number = done - len(observed) + 1 + step
            raise DivergedError(
                diverged(self.path.parent, number, self.names[which], f"the loss is {loss[step, which]}")
            )
        means = {key: np.mean([getattr(o, key) for o in observed], axis=0) for key in ("loss", "fvu", "l0")}
        speed = len(observed) * self.tokens_per_step / max(seconds, 1e-9)
        saes = {
            name: {key: short(value[i]) for key, value in means.items()} | {"dead": int(observed[-1].dead[i])}
            for i, name in enumerate(self.names)
        }
        tokens = done * self.tokens_per_step
        self._write({"step": done, "tokens": tokens, "tokens_per_s": round(speed), "training": saes})
        shown = ", ".join(f"{key} {_span([sae[key] for sae in saes.values()])}" for key in ("fvu", "l0", "dead"))
        said = [f"step {done}, {tokens:,} tokens, {speed:,.0f} tokens/s: {shown}"]
        for name, l0 in zip(self.names, observed[-1].l0, strict=True):
            if l0 == 0 and name not in self._silent:
                self._silent.add(name)
                said.append(f"{name}: no latent fires any more; a smaller penalty or learning rate would help")
        return said

    def evaluation(self, done: int, values: list[dict[str, float]]) -> str:
        """An evaluation after so many steps; what to say of it."""
        saes = {name: {id: short(v) for id, v in value.items()} for name, value in zip(self.names, values, strict=True)}
        self._write({"step": done, "tokens": done * self.tokens_per_step, "evaluation": saes})
        return "\n".join(f"  {n}: " + ", ".join(f"{id} {v:.4g}" for id, v in s.items()) for n, s in saes.items())


def diverged(out: Path, step: int, name: str, what: str) -> str:
    """What to say of a training that cannot go on."""
    return f"step {step}, {name}: {what}; the last good checkpoint in {out} is kept; a smaller learning rate would help"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one cut short by a kill is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def short(value: Any) -> float:
    """Five significant digits."""
    return float(f"{float(value):.5g}")


def _span(values: list[float]) -> str:
    """One number, or the least and the largest of many."""
    return f"{min(values):.4g}" if min(values) == max(values) else f"{min(values):.4g} to {max(values):.4g}"
