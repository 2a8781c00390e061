"""delphi's cache: what is written comes back, and files that delphi cannot have written are named."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jsaeval.autointerp.delphi import read_delphi, write_delphi
from jsaeval.autointerp.sparse import SparseLatents
from jsaeval.corpus.rows import Rows
from jsaeval.errors import InputError
from tests.autointerp.test_sampling import N_LATENTS, dense, table
from tests.autointerp.test_windows import corpus


@pytest.fixture
def made(tmp_path):
    rows, masks = corpus(n_rows=5)
    own = table(dense(rows, masks), masks)
    write_delphi(tmp_path / "hook", own, rows, N_LATENTS, "some/lm", shards=4)
    return tmp_path / "hook", own, rows


def test_round_trip(made):
    folder, own, rows = made
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{name}.safetensors" for name in ("0_0", "1_2", "3_3", "4_5")), "config.json"]
    )
    back, text = read_delphi(folder)
    for name in ("latents", "offsets", "row", "position"):
        np.testing.assert_array_equal(getattr(back, name), getattr(own, name))
    np.testing.assert_array_equal(back.value, own.value.astype(np.float16))
    np.testing.assert_array_equal(text.tokens, rows.tokens)
    assert back.n_tokens == rows.tokens.size and text.documents is None
    assert json.loads((folder / "config.json").read_text())["model_name"] == "some/lm"


def test_shards_are_as_delphi_writes_them(made):
    folder, own, rows = made
    shard = load_file(folder / "4_5.safetensors")
    assert {name: array.dtype.name for name, array in shard.items()} == {
        "locations": "uint16",
        "activations": "float16",
        "tokens": "int64",
    }
    latent = np.repeat(own.latents, own.fires)
    expected = np.stack([own.row, own.position, latent - 4], axis=1)[latent >= 4]
    expected = expected[np.lexsort(expected.T[::-1])]
    np.testing.assert_array_equal(shard["locations"], expected)
    assert shard["tokens"].shape == rows.tokens.shape


def test_small_and_large_activations(tmp_path):
    rows = Rows("test", np.ones((2, 3), np.int32), None, None)
    row, position = np.array([0, 1], np.int32), np.array([2, 0], np.int32)

    def of(*values):
        return SparseLatents(np.array([70_000], np.int32), np.array([0, 2]), row, position, np.float32(values), 6)

    write_delphi(tmp_path, of(1.5, 9e-6), rows, 70_001, "lm", shards=1)
    assert load_file(tmp_path / "0_70000.safetensors")["locations"].dtype == np.uint32
    back, _ = read_delphi(tmp_path)
    assert (back.of(70_000).row.tolist(), back.of(70_000).value.tolist()) == ([0], [1.5])
    with pytest.raises(InputError, match="70000 is too large"):
        write_delphi(tmp_path, of(1.5, 7e4), rows, 70_001, "lm")
    with pytest.raises(InputError, match="9 shards of 3 latents"):
        write_delphi(tmp_path, of(1.5, 2), rows, 3, "lm", shards=9)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"locations": None}, "no locations in it"),
        ({"tokens": None}, "no tokens in it"),
        ({"locations": np.array([[0, 0, 2]], np.uint16)}, r"at \(0, 0, 2\), outside \(5, 90, 2\)"),
        ({"locations": np.array([[0, 90, 0]], np.uint16)}, r"at \(0, 90, 0\), outside"),
        ({"locations": np.array([[-1, 0, 0]], np.int64)}, r"at \(-1, 0, 0\), outside"),
        ({"activations": np.array([np.nan], np.float16)}, "entry 0 is nan"),
        ({"activations": np.ones(2, np.float16)}, "expected: "),
        ({"activations": np.ones(1, np.int32)}, "activations int32"),
        ({"locations": np.zeros((1, 3), np.float32)}, "locations float32"),
        ({"tokens": np.full((5, 90), -1)}, "token ids from -1 to -1"),
        ({"tokens": np.zeros((5, 90), np.int64)}, "its tokens are not those of 0_0.safetensors"),
        ({"locations": np.zeros((2, 3), np.uint16), "activations": np.ones(2, np.float16)}, "twice"),
    ],
)
def test_harmed_shards(made, change, line):
    folder, _, rows = made
    whole = {
        "locations": np.zeros((1, 3), np.uint16),
        "activations": np.ones(1, np.float16),
        "tokens": rows.tokens.astype(np.int64),
    }
    save_file({name: x for name, x in (whole | change).items() if x is not None}, folder / "4_5.safetensors")
    with pytest.raises(InputError, match=line) as error:
        read_delphi(folder)
    assert "4_5" in str(error.value) and "\n" not in str(error.value)


def test_harmed_folders(made, tmp_path):
    folder, _, _ = made
    with pytest.raises(InputError, match="no such folder"):
        read_delphi(tmp_path / "none")
    with pytest.raises(InputError, match="the folder of one hook was expected, such as hook"):
        read_delphi(tmp_path)
    (folder / "3_3.safetensors").rename(folder / "3_9999999999.safetensors")
    with pytest.raises(InputError, match="named after their latents"):
        read_delphi(folder)
    (folder / "3_9999999999.safetensors").unlink()
    with pytest.raises(InputError, match="its latents should begin at 3"):
        read_delphi(folder)
    (folder / "3_3.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match="not a safetensors file of numbers"):
        read_delphi(folder)
