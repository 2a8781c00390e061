"""Looking into safetensors and npz files, honest ones and hostile ones."""

import io
import json
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from jsaeval.errors import InputError
from jsaeval.sae.formats.contents import look, peek
from tests.sae.formats.torch_file import bfloat16


A = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)


def test_kinds_are_told_by_content(tmp_path):
    save_file({"a": A, "half": bfloat16(A)}, tmp_path / "weights.bin", metadata={"who": "me"})
    np.savez_compressed(tmp_path / "weights.dat.npz", a=A, half=A.astype(np.float16))
    for name, kind in (("weights.bin", "safetensors"), ("weights.dat.npz", "npz")):
        contents = look((tmp_path / name).rename(tmp_path / f"{kind}-under-another-name"))
        assert contents.kind == kind and contents.has("a", "half", only=True) and not contents.has("a", only=True)
        assert {name: tensor.shape for name, tensor in contents.tensors.items()} == {"a": (3, 5), "half": (3, 5)}
        read = contents.read()
        assert {tensor.dtype for tensor in read.values()} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(read["a"], A)
        np.testing.assert_allclose(read["half"], A, rtol=0.01)
    assert look(tmp_path / "safetensors-under-another-name").metadata == {"who": "me"}
    (tmp_path / "notes.txt").write_text("no tensors")
    assert peek(tmp_path / "notes.txt") is None and peek(tmp_path) is None and peek(tmp_path / "missing") is None


def test_a_file_that_changes_is_looked_at_again(tmp_path):
    for n in (1, 2):
        save_file({"a": A[:n]}, tmp_path / "a.safetensors")
        assert look(tmp_path / "a.safetensors").read()["a"].shape == (n, 5)


def header(entries: dict, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
LIES = {
    "longer than the file": header({"a": F32 | {"data_offsets": [0, 10**12]}}),
    "shape and bytes differ": header({"a": F32 | {"shape": [10**9]}}, bytes(16)),
    "overlapping": header({"a": F32, "b": F32}, bytes(16)),
    "a gap": header({"a": F32 | {"data_offsets": [8, 24]}}, bytes(24)),
    "a huge header": (2**62).to_bytes(8, "little") + b"{",
    "negative": header({"a": F32 | {"shape": [-4]}}, bytes(16)),
    "no header": b"{}" * 20,
    "no bytes": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_safetensors_whose_header_lies(lie, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(LIES[lie])
    tracemalloc.start()
    with pytest.raises(InputError, match="not a whole safetensors file"):
        look(path).read()
    assert tracemalloc.get_traced_memory()[1] < 2**20 and peek(path) is None
    tracemalloc.stop()


def npy(shape: str = "(4,)", descr: str = "'<f4'", data: bytes = bytes(16)) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def npz(path, *members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def objects() -> bytes:
    class Bomb:
        def __reduce__(self):
            return (open, ("canary", "w"))

    stream = io.BytesIO()
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    stream.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + pickle.dumps(Bomb()))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy("(10**9,)"), "not a whole npz"),
        (npy("(1000000000000,)"), "its header asks for 4,000,000,000,1"),
        (npy("(5,)"), "has 144 bytes, its header asks for 148"),
        (npy("(-4,)"), "its header asks for"),
        (npy(descr="'|O'"), "is of dtype object; only numbers"),
        (npy(descr="'<U4'"), "only numbers are read"),
        (npy(descr="[('a', '<f4')]"), "only numbers are read"),
        (objects(), "is of dtype object; only numbers"),
        (b"\x93NUMPY\x09\x00", "version"),
        (npy()[:40], "not a whole npz"),
        (b"nothing", "not a whole npz"),
    ],
)
def test_npz_whose_members_lie(member, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = npz(tmp_path / "a.npz", ("a.npy", member))
    tracemalloc.start()
    with pytest.raises(InputError, match=message):
        look(path).read()
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert not (tmp_path / "canary").exists()


def test_npz_bombs_and_names_that_leave(tmp_path):
    zeros = npy(f"({2**23},)", data=bytes(2**25))
    assert npz(tmp_path / "bomb.npz", ("a.npy", zeros)).stat().st_size < 2**17
    with pytest.raises(InputError, match="would grow from"):
        look(tmp_path / "bomb.npz")
    with pytest.raises(InputError, match="leaves it"):
        look(npz(tmp_path / "away.npz", ("../a.npy", npy())))
    np.testing.assert_array_equal(look(npz(tmp_path / "fine.npz", ("a.npy", npy()))).read()["a"], np.zeros(4))


def test_truncated_npz(tmp_path):
    np.savez(tmp_path / "whole.npz", a=A)
    whole = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(whole), 29):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(InputError):
            look(tmp_path / "cut.npz").read()
