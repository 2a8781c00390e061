"""Records of latents on disk: what is no record, or would be written elsewhere, is refused in a line."""

import gzip

import pytest

from jsaeval.errors import InputError
from jsaeval.report.latent_records import read_records, write_latents, write_records
from jsaeval.run.folder import RECORDS
from tests.report.latents import make


REPORT = {
    "lm": {"name": "tiny"},
    "explanations": {
        "settings": {"corpus": "text", "rows": 4, "positions": 32},
        "saes": [{"sae": "none", "latents": []}, {"sae": "an SAE", "latents": [{}]}],
    },
}


def named(latent, **changes):
    return make(latent, **changes) | {"sae": "an SAE"}


def test_they_come_back(tmp_path):
    records = [named(3), named(3, floor="neurons")]
    write_records(tmp_path, records)
    assert read_records(tmp_path) == records


def test_pages_lie_where_the_report_says_and_those_of_before_go(tmp_path):
    write_latents(tmp_path, [named(3)], REPORT)
    write_latents(tmp_path, [named(5)], REPORT)
    # The first SAE of the report has no latent; its place stays its own.
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")) == [
        "latents/2/5.html",
        "latents/2/index.html",
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"latent": "../../escaped"}, "line 2: latent '../../escaped', a number from 0 was expected"),
        ({"latent": -1}, "latent -1"),
        ({"latent": True}, "latent True"),
        ({"floor": "../up"}, "floor '../up', one of random_sae, neurons or null was expected"),
    ],
)
def test_places_elsewhere_are_refused(tmp_path, change, line):
    write_records(tmp_path, [named(3), named(4) | change])
    with pytest.raises(InputError, match=line):
        read_records(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[]\n", b"nonsense\n", b"[" * 200_000])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / RECORDS).write_bytes(gzip.compress(content))
    if not content:
        assert read_records(tmp_path) == []
        return
    with pytest.raises(InputError, match=RECORDS):
        read_records(tmp_path)
    (tmp_path / RECORDS).write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_records(tmp_path)
    (tmp_path / RECORDS).unlink()
    with pytest.raises(InputError, match="jsaeval explain"):
        read_records(tmp_path)
