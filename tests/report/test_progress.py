"""What is said of progress, where there is a terminal and where there is none."""

import io
import re

import pytest
from rich.console import Console

from jsaeval.report.progress import Progress


def said(steps, **how):
    stream = io.StringIO()
    with Progress(Console(file=stream, width=100, **how), line_every=-1.0) as progress:
        for step in steps:
            progress(*step)
    return stream.getvalue()


@pytest.mark.parametrize("stage, unit", [("simulation", "prompts"), ("calls", "calls")])
def test_what_has_no_total_is_counted_over_the_whole_run(stage, unit):
    lines = said([(stage, 84, 0)] * 3).splitlines()
    assert [re.sub(r"[\d,.e+]+ (\w+/s)", r"PACE \1", line) for line in lines] == [
        f"{stage}: 168 {unit}, PACE {unit}/s",
        f"{stage}: 252 {unit}, PACE {unit}/s",
    ]
    shown = said([(stage, 84, 0)] * 3, force_terminal=True)
    assert f"252 {unit}" in shown and "of" not in shown and "0:00:00" not in shown


def test_what_has_a_total_says_what_is_left():
    lines = said([("explanations", 2, 6)] * 3).splitlines()
    assert lines[0].startswith("explanations: 4 of 6 latents, ") and lines[0].endswith(" s left")
    assert lines[1].startswith("explanations: 6 of 6 latents, ") and lines[1].endswith(", 0 s left")
    shown = said([("explanations", 2, 6)] * 3, force_terminal=True)
    assert "6 of 6 latents" in shown
