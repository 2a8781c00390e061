"""What the package keeps between runs: whole files only, and compiled programs where the user has chosen no folder."""

import subprocess
import sys

import jax
import pytest

from jsaeval.cache import atomic, keep_programs


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(KeyError), atomic(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())
    with atomic(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_the_users_folder_for_programs_is_left_alone(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    assert before is not None  # tests/conftest.py
    monkeypatch.setenv("JSAEVAL_CACHE", str(tmp_path))
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == before and not (tmp_path / "programs").exists()


def test_programs_are_kept(tmp_path):
    code = """
import jax
from jsaeval.cache import keep_programs
keep_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x @ x)(jax.numpy.ones((64, 64)))
"""
    environment = {"JSAEVAL_CACHE": str(tmp_path), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list((tmp_path / "programs").rglob("*-cache"))
