"""The README tells the truth: its Python runs, its metric table is the declarations, its commands parse."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import jsaeval
from jsaeval.cli import parse
from jsaeval.report.markdown import metric_table
from jsaeval.sae.load import FORMATS


README = (Path(jsaeval.__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_lines_run():
    (code,) = re.findall(r"<!-- run by tests/test_readme.py -->\n```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    code += "\nassert 0.7 < results.saes[0]['explained_variance'] < 1 and 0 < loss < 1"
    code += "\nassert abs(metrics['downstream_loss'].value / results.saes[0]['downstream_loss'] - 1) < 1e-4"
    code += "\nassert all(bool(jax.numpy.isfinite(g).all()) for g in jax.tree.leaves(gradient))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_metric_table_is_the_declarations():
    assert metric_table() in README


def test_every_command_parses():
    blocks = re.findall(r"```\n(.*?)```", README, re.DOTALL)
    commands = [line.split("#")[0] for block in blocks for line in block.splitlines() if line.startswith("jsaeval ")]
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command)[1:]
        if "--config" not in words:
            parse(words)


def test_make_commands_exist():
    makefile = (Path(jsaeval.__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_code_that_is_shown_is_that_of_the_file():
    blocks = re.findall(r"<!-- from (\S+) -->\n```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for name, code in blocks:
        assert code in (Path(jsaeval.__file__).parents[1] / name).read_text(encoding="utf-8")


def test_the_table_of_formats_has_every_reader():
    for name in FORMATS:
        assert re.search(rf"^\|.*`{name}`.*\|.*\|", README, re.MULTILINE), name
