"""Progress on standard error: a bar with tokens per second and time left, or plain lines where there is no terminal.

Of some stages nobody knows beforehand how much there will be: what was done and the pace are all that is said of them.
"""

import time

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


# What is counted in a stage, where it is not tokens.
_UNITS = {"probes": "tasks", "explanations": "latents", "simulation": "prompts", "calls": "calls"}


class Progress:
    """A context manager; called as `jsaeval.run.engine.measure` calls its `progress`, with a total of 0 where none is
    known."""

    def __init__(self, console: Console | None = None, line_every: float = 5.0, quiet: bool = False):
        self._console = console or Console(stderr=True, quiet=quiet)
        self._line_every = line_every
        columns = (
            TextColumn("{task.description:12}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
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
        if stage not in self._stages or 0 < total <= self._stages[stage][2]:
            # Time counts from the end of the first batch: the batch before it waited for the compiler.
            bar = self._bars.add_task(stage, total=total or None, done="", rate="")
            self._stages[stage] = bar, tokens, tokens, now
            self._bars.update(bar, completed=tokens, done=_counted(tokens, total, unit))
        else:
            bar, first, done, since = self._stages[stage]
            done += tokens
            self._stages[stage] = (bar, first, done, since)
            rate = (done - first) / max(1e-9, now - since)
            counted, pace = _counted(done, total, unit), f"{_per_second(rate)} {unit}/s"
            self._bars.update(bar, completed=done, done=counted, rate=pace)
            ends = 0 < total <= done
            if not self._console.is_terminal and (now - self._last_line > self._line_every or ends):
                self._last_line = now
                left = f", {(total - done) / max(rate, 1e-9):.0f} s left" if total else ""
                self.say(f"{stage}: {counted}, {pace}{left}")


def _counted(done: int, total: int, unit: str) -> str:
    return f"{done:,} of {total:,} {unit}" if total else f"{done:,} {unit}"


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
