"""Torch files: what is read, and what is refused. A refused file runs nothing and takes no memory."""

import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from jsaeval.errors import InputError
from jsaeval.sae.formats.contents import look, peek
from jsaeval.sae.formats.torch_pickle import Record
from jsaeval.sae.formats.torch_zip import load_torch
from jsaeval.sae.load import load_sae
from tests.sae.formats.torch_file import Call, Global, Object, Tensor, bfloat16, pickled, write_legacy, write_torch


RNG = np.random.default_rng(0)
A = RNG.standard_normal((3, 5))
WRITERS = [write_torch, write_legacy]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_every_dtype(write, dtype, tmp_path):
    array = (A * 10).astype(dtype)
    found = load_torch(write(tmp_path / "a.pt", {"a": array}))["a"].numpy()
    np.testing.assert_array_equal(found, array.astype(np.float32))
    assert found.dtype == np.float32


@pytest.mark.parametrize("write", WRITERS)
def test_what_a_file_can_hold(write, tmp_path):
    """bfloat16, a parameter, a transposed and a cut view of one storage, an empty tensor, and what is no tensor."""
    b = A.astype(np.float32)
    tree = {
        "half": bfloat16(A),
        "parameter": Tensor(b, parameter=True),
        "transposed": Tensor(b, shape=(5, 3), strides=(1, 5), key="shared"),
        "cut": Tensor(b, offset=6, shape=(2, 3), strides=(5, 1), key="shared"),
        "scalar": Tensor(np.float32([7.0]), shape=(), strides=()),
        "empty": np.zeros((0, 4), np.float32),
        "inner": {"k": 32, "names": ["a", ("b", None)], "rate": 0.5, "on": True, "big": 2**40, "text": "é"},
        "dtype": Global("torch", "bfloat16"),
        "size": Call(Global("torch", "Size"), ((3, 5),)),
        "device": Call(Global("torch", "device"), ("cuda", 0)),
        "ordered": Call(Global("collections", "OrderedDict"), ()),
    }
    found = load_torch(write(tmp_path / "a.pt", tree))
    np.testing.assert_array_equal(found["half"].numpy(), bfloat16(A).astype(np.float32))
    np.testing.assert_array_equal(found["parameter"].numpy(), b)
    np.testing.assert_array_equal(found["transposed"].numpy(), b.T)
    np.testing.assert_array_equal(found["cut"].numpy(), b[1:, 1:4])
    assert found["scalar"].numpy() == 7 and found["empty"].shape == (0,)
    assert found["inner"] == tree["inner"] and found["ordered"] == {}
    assert (found["dtype"], found["size"], found["device"]) == ("bfloat16", (3, 5), "cuda:0")


def test_looking_inside_reads_no_numbers(tmp_path):
    path = write_torch(tmp_path / "a.pt", {"sae": {"W": A.astype(np.float32), "k": 3}, "step": 7})
    contents = look(path)
    assert {name: tensor.shape for name, tensor in contents.tensors.items()} == {"sae/W": (3, 5)}
    assert contents.rest == {"sae/k": 3, "step": 7} and contents.kind == "torch"
    np.testing.assert_array_equal(contents.read({"sae/W": "W"})["W"], A.astype(np.float32))


def test_objects_of_trainers_are_records_without_behaviour(tmp_path):
    cfg = Object(Global("sae_training.config", "RunnerConfig"), {"d_in": 5, "__class__": "x", "__reduce__": 1})
    cfg.attributes["call"] = Call(Global("sae_lens.training", "Popen"), ("touch",))
    found = load_torch(write_torch(tmp_path / "a.pt", {"cfg": cfg}))["cfg"]
    assert type(found) is Record and found.name == "sae_training.config.RunnerConfig"
    assert found.attributes == cfg.attributes | {"call": Record("sae_lens.training.Popen")}


CANARY = "canary"
HOSTILE = {
    "os.system": Call(Global("os", "system"), (f"touch {CANARY}",)),
    "posix.system": Call(Global("posix", "system"), (f"touch {CANARY}",)),
    "builtins.eval": Call(Global("builtins", "eval"), (f"open('{CANARY}', 'w')",)),
    "builtins.getattr": Call(Call(Global("builtins", "getattr"), (Global("os", "x"), "system")), (f"touch {CANARY}",)),
    "collections.os.system": Call(Global("collections", "os.system"), (f"touch {CANARY}",)),
    "torch._utils.os.system": Call(Global("torch._utils", "os.system"), (f"touch {CANARY}",)),
    "torch.storage._load_from_bytes": Call(Global("torch.storage", "_load_from_bytes"), (b"x",)),
    "numpy.core.multiarray.scalar": Call(Global("numpy.core.multiarray", "scalar"), (1,)),
    "sae_trainingx.A": Object(Global("sae_trainingx", "A")),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_run(write, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.pt", {"a": HOSTILE[name]})
    with pytest.raises(InputError, match=f"names '{name}'; only tensors are read, nothing is run"):
        load_torch(path)
    assert peek(path) is None and not (tmp_path / CANARY).exists()


def test_a_pickle_of_pythons_own(tmp_path, monkeypatch):
    """Protocol 4, with names on the stack; and instructions that torch never writes."""
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        path = write_torch(tmp_path / "a.pt", None, content=pickle.dumps(pytest.raises, protocol))
        with pytest.raises(InputError, match=r"_pytest|uses"):
            load_torch(path)
    inst = b"(S'touch canary'\nios\nsystem\n."
    with pytest.raises(InputError, match="uses STRING, which no torch file needs"):
        load_torch(write_torch(tmp_path / "a.pt", None, content=inst))
    for extension in (b"\x80\x02\x82\x01.", b"\x80\x02\x83\x01\x00."):
        with pytest.raises(InputError, match="uses EXT"):
            load_torch(write_torch(tmp_path / "a.pt", None, content=extension))
    assert not (tmp_path / CANARY).exists()


F = np.ones(12, np.float32)
LIES = {
    "too many numbers": (Tensor(F, n=10**12), "does not agree with itself"),
    "fewer numbers": (Tensor(F, n=4), "does not agree with itself"),
    "negative count": (Tensor(F, n=-12), "not described as torch does"),
    "past the end": (Tensor(F, offset=1), "does not fit into its storage"),
    "too large": (Tensor(F, shape=(10**6, 10**6), strides=(10**6, 1)), "does not fit into its storage"),
    "expanded": (Tensor(F, shape=(10**9, 12), strides=(0, 1)), "overlaps itself"),
    "overlapping": (Tensor(F, shape=(4, 4), strides=(1, 2)), "overlaps itself"),
    "negative stride": (Tensor(F, offset=11, shape=(12,), strides=(-1,)), "it is not read"),
    "negative offset": (Tensor(F, offset=-4, shape=(4,), strides=(1,)), "it is not read"),
    "negative shape": (Tensor(F, shape=(-3, -4), strides=(1, 1)), "it is not read"),
    "many axes": (Tensor(F, shape=(1,) * 200, strides=(1,) * 200), "it is not read"),
    "text in the shape": (Tensor(F, shape=("12",), strides=(1,)), "not described as torch does"),
    "no shape": (Tensor(F, shape=5, strides=5), "damaged"),
    "another place": (Tensor(F, key="../../secret"), "leaves it"),
}


@pytest.mark.parametrize("lie", LIES)
def test_tensors_that_do_not_agree_with_the_file(lie, tmp_path):
    tensor, message = LIES[lie]
    path = write_torch(tmp_path / "a.pt", {"a": tensor})
    tracemalloc.start()
    with pytest.raises(InputError, match=message):
        load_torch(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "lie", ["past the end", "too large", "expanded", "overlapping", "negative stride", "too many numbers"]
)
def test_the_same_lies_in_the_older_kind(lie, tmp_path):
    path = write_legacy(tmp_path / "a.pt", {"a": LIES[lie][0]})
    with pytest.raises(InputError, match=r"overlaps|fit|not read|not whole"):
        load_torch(path)


def test_one_storage_of_two_dtypes(tmp_path):
    tree = {"a": Tensor(np.ones(4, np.float32), key="0"), "b": Tensor(np.ones(2, np.float64), key="0")}
    for write in WRITERS:
        with pytest.raises(InputError, match="of two"):
            load_torch(write(tmp_path / "a.pt", tree | {"c": tree["a"]}))


def test_bombs(tmp_path):
    """Compressed members, members that overlap, pickles that ask for memory or time."""
    zeros = np.zeros(2**24, np.float32)
    path = write_torch(tmp_path / "zip.pt", {"a": zeros}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**18
    laughs = b"\x80\x02)" + b"2\x86" * 200 + b"."  # a tuple of the tuple and the tuple, 200 times
    keys = b"\x80\x02})" + b"q\x00h\x00\x86" * 40 + b"Ns."
    cases = {
        path: "is compressed, which torch never does",
        write_torch(tmp_path / "dup.pt", None, content=laughs): "uses DUP",
        write_torch(tmp_path / "keys.pt", None, content=keys): "a key in its pickle is a tuple",
        write_torch(tmp_path / "long.pt", None, content=b"\x80\x02\x8b\xff\xff\xff\x7f."): "damaged",
        write_torch(tmp_path / "text.pt", None, content=b"\x80\x02X\xff\xff\xff\xff."): "damaged",
        write_torch(tmp_path / "large.pt", None, content=b"\x80\x02" + b"]" * 2**22 + b"."): "larger than 4 MiB",
    }
    for file, message in cases.items():
        tracemalloc.start()
        with pytest.raises(InputError, match=message):
            load_torch(file)
        assert tracemalloc.get_traced_memory()[1] < 2**23, file
        tracemalloc.stop()
    # A place in the memo is not an array of that size.
    sparse = b"\x80\x02}r\xff\xff\xff\x7f."
    assert load_torch(write_torch(tmp_path / "memo.pt", None, content=sparse)) == {}


# A tuple of the tuple before, twice, and so on: printing, comparing or hashing it takes 2 ** 60 steps.
LAUGHS = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60


@pytest.mark.parametrize(
    "content",
    [
        b"}X\x01\x00\x00\x00a" + LAUGHS + b"s.",
        b"}X\x0a\x00\x00\x00activation" + LAUGHS + b"s.",
        b"ctorch\ndevice\n" + LAUGHS + b"\x85R.",
        b"csae_lens.a\nB\n)\x81}X\x01\x00\x00\x00a" + LAUGHS + b"sb.",
        LAUGHS + b"Q.",
        LAUGHS + b"X\x01\x00\x00\x00a\x93.",
    ],
)
def test_nothing_is_printed_or_hashed_that_takes_for_ever(content, tmp_path):
    path = write_torch(tmp_path / "a.pt", None, content=b"\x80\x02" + content)
    contents = peek(path)
    assert contents is None or not contents.rest
    with pytest.raises(InputError):
        load_sae(path)


def test_members_that_overlap(tmp_path):
    """Two names for the same bytes of the file, as in a bomb of overlapping members."""
    path = write_torch(tmp_path / "a.pt", {"a": np.zeros(4000, np.float32), "b": np.zeros(4000, np.float32)})
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first = archive.getinfo("archive/data/0").header_offset
    entry = content.rindex(b"archive/data/1") - 46  # in the directory of the zip
    struct.pack_into("<I", content, entry + 42, first)
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a whole torch file"):
        load_torch(path)["b"].numpy()
    # The same, with a directory that claims more than the file has.
    for key in (b"archive/data/0", b"archive/data/1"):
        entry = content.rindex(key) - 46
        struct.pack_into("<II", content, entry + 20, 40_000, 40_000)
    path.write_bytes(content)
    with pytest.raises(InputError, match="larger than the file"):
        load_torch(path)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "archive/../../evil", "a\\b"])
def test_members_that_leave_the_file(name, tmp_path):
    path = write_torch(tmp_path / "a.pt", {"a": F}, extra=[(name, b"x")])
    with pytest.raises(InputError, match="leaves it"):
        load_torch(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("write", WRITERS)
def test_truncated_files(write, tmp_path):
    whole = write(tmp_path / "whole.pt", {"a": A.astype(np.float32)}).read_bytes()
    for length in (*range(0, len(whole), 37), len(whole) - 1):
        path = tmp_path / f"{length}.pt"
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            load_torch(path)


@pytest.mark.parametrize("write", WRITERS)
def test_flipped_bits_are_errors_of_input_or_other_numbers(write, tmp_path):
    whole = write(tmp_path / "whole.pt", {"a": A.astype(np.float32)}).read_bytes()
    path = tmp_path / "flipped.pt"
    for i in RNG.integers(0, len(whole), 150):
        content = bytearray(whole)
        content[i] ^= 1 << int(RNG.integers(8))
        path.write_bytes(content)
        try:
            tree = load_torch(path)
            if isinstance(tree, dict) and hasattr(tree.get("a"), "numpy"):
                assert tree["a"].numpy().size <= 15
        except InputError:
            pass


def test_what_is_no_torch_file(tmp_path):
    for content in (b"", b"PK\x03\x04", pickled({"a": 1}), b"x" * 100):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(InputError):
            load_torch(tmp_path / "a.pt")
        assert peek(tmp_path / "a.pt") is None
