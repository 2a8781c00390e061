"""Texts of different lengths in batches of few shapes: few programs are compiled, and little of a batch is padding."""

from jax.sharding import Mesh

from jsaeval.mesh import DATA
from jsaeval.run.batches import default_batch


def padded_length(length: int) -> int:
    """The next of 8, 12, 16, 24, 32, 48, ...: at most a third of a row is padding."""
    size = 8
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def rows_at_once(width: int, mesh: Mesh) -> int:
    """Texts of a batch: as many tokens as suit the machine, and the same number for every device."""
    share = mesh.shape[DATA]
    return -(-default_batch(width, mesh) // share) * share
