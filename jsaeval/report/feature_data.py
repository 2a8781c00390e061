"""What formats of feature data have in common: which examples they hold, and in which groups."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jsaeval.autointerp.evidence import INTERVALS, SPLITS


def set_of(record: Mapping[str, Any]) -> str:
    """The name under which the latents of a record's dictionary go."""
    return record["sae"] if record["floor"] is None else f"{record['sae']}-{record['floor']}"


def grouped(record: Mapping[str, Any]) -> Iterator[tuple[int | None, Mapping[str, Any]]]:
    """Examples that feature data has: those with the largest activations (None), then by interval from the highest.

    Within each the largest activation comes first.
    """
    every = [own for split in SPLITS for own in record["examples"].get(split, ())]
    every.sort(key=lambda own: -max(own["activations"], default=0.0))
    yield from ((None, own) for own in every if own["kind"] == "top")
    for interval in range(INTERVALS, 0, -1):
        yield from ((interval, own) for own in every if own["kind"] == "interval" and own["interval"] == interval)


def ends_of(record: Mapping[str, Any], interval: int) -> tuple[float, float, float]:
    """Where an interval begins and ends, and the share of all tokens whose activation lies in it."""
    low, high = (record["largest"] * i / INTERVALS for i in (interval - 1, interval))
    values, counts = np.array(middles(record["histogram"]["edges"])), np.array(record["histogram"]["counts"])
    inside = int(counts[(values > low) & (values <= high)].sum())
    return float(low), float(high), inside / record["n_tokens"]


def whole_text(text: str) -> str:
    """A text without halves of surrogate pairs, which no other program could read."""
    return "".join("�" if "\ud800" <= own <= "\udfff" else own for own in text)


def middles(edges: Sequence[float]) -> list[float]:
    """The middle of each bin."""
    return [(low + high) / 2 for low, high in itertools.pairwise(edges)]
