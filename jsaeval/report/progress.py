"""Progress on standard error: a bar with tokens per second and time left, or plain lines where there is no terminal."""

import time

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


# What is counted in a stage, where it is not tokens.
_UNITS = {"probes": "tasks", "explanations": "latents", "simulation": "prompts", "calls": "calls"}


class Progress:
    """A context manager; called as `jsaeval.run.engine.measure` calls its `progress`."""

    def __init__(self, console: Console | None = None, line_every: float = 5.0, quiet: bool = False):
        self._console = console or Console(stderr=True, quiet=quiet)
        self._line_every = line_every
        columns = (
            TextColumn("{task.description:12}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._bars = RichProgress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._stages: dict[str, tuple[TaskID, int, int, float]] = {}  # bar, first and all tokens, time of the first
        self._last_line = 0.0

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """One line above the bars."""
        self._console.print(line, highlight=False, style="dim")

    def __call__(self, stage: str, tokens: int, total: int) -> None:
        now, unit = time.perf_counter(), _UNITS.get(stage, "tokens")
        if stage not in self._stages or self._stages[stage][2] >= total:
            # Time counts from the end of the first batch: the batch before it waited for the compiler.
            self._stages[stage] = (self._bars.add_task(stage, total=total, rate="", unit=unit), tokens, tokens, now)
            self._bars.update(self._stages[stage][0], completed=tokens)
        else:
            bar, first, done, since = self._stages[stage]
            done += tokens
            self._stages[stage] = (bar, first, done, since)
            rate = (done - first) / max(1e-9, now - since)
            self._bars.update(bar, completed=done, rate=f"{_per_second(rate)} {unit}/s")
            if not self._console.is_terminal and (now - self._last_line > self._line_every or done >= total):
                self._last_line = now
                left = (total - done) / max(rate, 1e-9)
                self.say(f"{stage}: {done:,} of {total:,} {unit}, {_per_second(rate)} {unit}/s, {left:.0f} s left")


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
