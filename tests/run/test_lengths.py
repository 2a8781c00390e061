"""Lengths and sizes of batches of texts."""

from jsaeval.mesh import make_mesh
from jsaeval.run.lengths import padded_length, rows_at_once


def test_lengths_and_batches():
    sizes = sorted({padded_length(n) for n in range(1, 200)})
    assert sizes == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert all(n <= padded_length(n) for n in range(1, 999))
    assert rows_at_once(64, make_mesh(1)) == 16 and rows_at_once(64, make_mesh(3)) == 18
