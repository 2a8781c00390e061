"""How long does the device wait between batches, and what do checkpoints cost?

    python -m experiments.bench_gaps

Two runs on the same rows, without checkpoints and with one every 30 s, each under JAX's profiler. The device counts as
busy while any thread executes a part of a compiled program; idle is the rest of the time from the end of the first
batch to the end of the last.

Measured on 2 x86-64 cores, SmolLM2-135M in float32, 256 rows of 128: idle 1.12 % of 142 s without and 1.14 % of 150 s
with checkpoints, of which 4 were written. Six and a half minutes.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

import jsaeval
from jsaeval.run.checkpoint import Checkpoints
from jsaeval.run.engine import Setting


BUSY, FIRST, LAST = "ThunkExecutor::Execute", "the first batch is done", "the last batch is done"
NEVER = 1e9


@dataclass(frozen=True)
class Config:
    """Measure idle time between batches."""

    lm: str = "smollm2-135m"
    rows: int = 256
    context: int = 128
    every: float = 30.0
    """Seconds between checkpoints."""
    rounds: int = 1


def main(config: Config) -> None:
    lm, sae = jsaeval.load_lm(config.lm), jsaeval.load_sae(config.lm)
    for _ in range(config.rounds):
        for every in (NEVER, config.every):
            with tempfile.TemporaryDirectory() as folder:
                seconds, idle, kept = measured(lm, sae, config, every, Path(folder))
            name = "without checkpoints" if every == NEVER else f"with one every {every:g} s ({kept} written)"
            print(
                f"{name}: {seconds:.1f} s, device idle {100 * idle / seconds:.2f} % ({1000 * idle:.0f} ms)", flush=True
            )


def measured(lm, sae, config: Config, every: float, folder: Path) -> tuple[float, float, int]:
    """Seconds from the first batch to the last, those in which the device had nothing to do, and checkpoints."""
    done, total = 0, config.rows * config.context

    def progress(stage: str, tokens: int, _: int) -> None:
        nonlocal done
        if stage == "measuring":
            for name in ([FIRST] if done == 0 else []) + ([LAST] if done + tokens >= total else []):
                with jax.profiler.TraceAnnotation(name):
                    pass
            done += tokens

    checkpoints = Checkpoints(folder / "checkpoint", every)
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 1, 0
    with jax.profiler.trace(str(folder), profiler_options=options):
        jsaeval.evaluate(
            lm,
            [sae],
            rows=config.rows,
            context=config.context,
            setting=Setting(control_rows=0),
            checkpoints=checkpoints,
            progress=progress,
        )
    (file,) = folder.rglob("*.xplane.pb")
    events = list(events_of(file))
    start = next(end for name, _, end in events if name == FIRST)
    stop = max(end for name, begin, end in events if name == BUSY and begin < _mark(events, LAST))
    busy, reached = 0.0, start
    for begin, end in sorted((begin, end) for name, begin, end in events if name == BUSY):
        begin, end = max(begin, reached), min(end, stop)
        busy += max(0.0, end - begin)
        reached = max(reached, end)
    return stop - start, stop - start - busy, checkpoints.newest


def _mark(events: list[tuple[str, float, float]], wanted: str) -> float:
    return next(begin for name, begin, _ in events if name == wanted)


def events_of(file: Path) -> Iterator[tuple[str, float, float]]:
    """(name, begin, end) in seconds of everything in a profile."""
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                yield event.name, event.start_ns / 1e9, event.end_ns / 1e9


if __name__ == "__main__":
    main(tyro.cli(Config))
