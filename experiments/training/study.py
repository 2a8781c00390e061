"""What the studies share: metrics of several SAEs on held-out text with intervals, paired differences, small JSON."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

import jsaeval
from jsaeval.cache import atomic
from jsaeval.corpus.rows import text_rows
from jsaeval.lm.load import load_tokenizer
from jsaeval.lm.protocol import HostLM
from jsaeval.metrics.compute import Facts, Value, columns_of, estimates
from jsaeval.run.engine import Setting
from jsaeval.run.evaluate import Results, SAEResult
from jsaeval.sae.module import SAE


RESULTS = Path(__file__).parents[1] / "results"


def judged_tokens(lm: HostLM, rows: int = 128, context: int = 128) -> Int[np.ndarray, "row position"]:
    """Rows of AG News, which no training text overlaps."""
    return np.asarray(text_rows("ag-news", load_tokenizer(lm), rows, context).tokens)


def evaluated(
    lm: HostLM, saes: Sequence[SAE], tokens: Int[np.ndarray, "row position"], control_rows: int = 0
) -> Results:
    """All metrics that the study asks for; without controls unless rows are given for them."""
    return jsaeval.evaluate(lm, saes, tokens=tokens, setting=Setting(control_rows=control_rows))


def numbers(entry: SAEResult, ids: Sequence[str]) -> dict[str, Any]:
    """Values with their intervals."""
    return {id: number(entry.metrics[id]) for id in ids}


def number(value: Value) -> dict[str, Any]:
    """A value, and its interval if it has one."""
    ends = value.ci95
    return {"value": short(value.value)} | ({} if ends is None else {"ci95": [short(end) for end in ends]})


def difference(a: SAEResult, b: SAEResult, id: str) -> dict[str, Any]:
    """a − b on the same rows, with the interval of the paired bootstrap."""
    one, other = (
        estimates(columns_of(e.table, e.index), Facts(e.sae.d_in, int(e.hook.prefix_stop)))[id] for e in (a, b)
    )
    paired = one.minus(other)
    ends = paired.ci95()
    return {"value": short(paired.value), "ci95": None if ends is None else [short(end) for end in ends]}


def short(value: Any) -> float:
    """Four significant digits."""
    return float(f"{float(value):.4g}")


def save(name: str, result: dict[str, Any], seconds: float) -> None:
    """`experiments/results/NAME.json`, with the command, the machine and the time that made it."""
    flags = [flag for flag in sys.argv[1:] if flag != "--resume"]
    command = shlex.join(["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *flags])
    made = {
        "command": command,
        "machine": f"{os.cpu_count()} {platform.machine()} cores, {jax.default_backend()}",
        "seconds": round(seconds),
    }
    RESULTS.mkdir(exist_ok=True)
    with atomic(RESULTS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(made | result, indent=1) + "\n", encoding="utf-8")
