"""Whether a folder may be claimed with other flags than it was begun with."""

import tomllib

import pytest

from jsaeval.errors import InputError
from jsaeval.run.folder import EXPLANATIONS, PROBES, REPORT, to_text
from jsaeval.run.section_folder import SectionFolder


RUN = {"schema": 1, "lm": {}, "saes": [], "provenance": {}, "corpus": {}, "masks": {}, "controls": {}}


@pytest.fixture(params=[PROBES, EXPLANATIONS], ids=lambda section: section.name)
def section(request):
    return request.param


def claim(section, path, resume=False, **flags):
    return SectionFolder.claim(section, str(path), {"lm": "tiny"} | flags, resume)


@pytest.mark.parametrize("resume", [False, True])
def test_other_flags_where_nothing_was_done(section, tmp_path, resume):
    claim(section, tmp_path, seed=0).begin()
    (tmp_path / section.parts).mkdir()
    (tmp_path / REPORT).write_text(to_text(RUN))
    claim(section, tmp_path, resume, seed=1).begin()
    assert tomllib.loads((tmp_path / section.plan).read_text()) == {"lm": "tiny", "seed": 1}


def test_other_flags_where_something_was_done(section, tmp_path):
    claim(section, tmp_path, seed=0).begin()
    (tmp_path / section.parts).mkdir()
    (tmp_path / section.parts / "one").touch()
    with pytest.raises(InputError, match="did not end; --resume goes on"):
        claim(section, tmp_path, seed=0)
    with pytest.raises(InputError, match=f"holds other {section.name}.*seed was 0, now 1"):
        claim(section, tmp_path, resume=True, seed=1)
    assert claim(section, tmp_path, resume=True, seed=0).before is None


def test_other_flags_where_there_is_a_result(section, tmp_path):
    claim(section, tmp_path, seed=0).begin()
    (tmp_path / REPORT).write_text(to_text(RUN | {key: [] for key in section.keys}))
    with pytest.raises(InputError, match=f"holds other {section.name}.*seed was 0, now 1"):
        claim(section, tmp_path, seed=1)
    assert claim(section, tmp_path, seed=0).before is not None


def test_a_plan_that_is_none_is_not_replaced(section, tmp_path):
    (tmp_path / section.plan).write_text("my notes")
    with pytest.raises(InputError, match="cannot be read; choose another folder"):
        claim(section, tmp_path)
