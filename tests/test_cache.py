"""What the package keeps between runs: whole files only, and compiled programs where the user has chosen no folder."""

import hashlib
import subprocess
import sys
import zipfile

import jax
import pytest

from jsaeval.cache import Wheel, atomic, cache_dir, joined_members, keep_programs, sha256_of
from jsaeval.errors import InputError


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


def put_wheel(name, content):
    """A wheel with one member, where one that was fetched lies."""
    made = cache_dir() / f"{name}.whl"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("data/part", content)
    wheel = Wheel(f"{name}==1", made.name, sha256_of(made), "MIT")
    made.replace(cache_dir("wheels", wheel.sha256[:16]) / made.name)
    return wheel, "data/part"


def test_a_file_in_parts_is_joined_and_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("JSAEVAL_CACHE", str(tmp_path))
    parts, whole = [put_wheel("one", b"abc"), put_wheel("two", b"de")], hashlib.sha256(b"abcde").hexdigest()
    path = joined_members(parts, whole, "file")
    assert path.read_bytes() == b"abcde"
    for wheel, _ in parts:
        (tmp_path / "wheels" / wheel.sha256[:16] / wheel.filename).unlink()
    assert joined_members(parts, whole, "file") == path  # once joined, the wheels are not needed


def test_parts_that_do_not_make_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("JSAEVAL_CACHE", str(tmp_path))
    parts, whole = [put_wheel("one", b"abc"), put_wheel("two", b"de")], hashlib.sha256(b"abcde").hexdigest()
    with pytest.raises(InputError, match=f"its 2 parts make a file .*, expected {whole}"):
        joined_members(parts[::-1], whole, "file")
    altered = tmp_path / "wheels" / parts[1][0].sha256[:16] / "two.whl"
    altered.write_bytes(altered.read_bytes() + b"x")
    with pytest.raises(InputError, match=f"expected {parts[1][0].sha256}; delete the file"):
        joined_members(parts, whole, "file")
    assert not list((tmp_path / "wheels" / whole[:16]).iterdir())


def test_a_wheel_that_cannot_be_fetched_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("JSAEVAL_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = Wheel("no-such-wheel-of-jsaeval==1", "no_such-1-py3-none-any.whl", "0" * 64, "MIT")
    with pytest.raises(InputError, match=r"could not fetch it .*; download no_such-1-py3-none-any\.whl yourself"):
        joined_members([(wheel, "data/part")], "0" * 64, "file")
