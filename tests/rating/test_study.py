"""A study and its key survive the disk; damaged ones are refused; the study says nothing of what items are."""

import json
import stat

import pytest

from jsaeval.errors import InputError
from jsaeval.rating.study import KEY, STUDY, read_key, read_study, write_key, write_study
from tests.rating.made import made_study


@pytest.fixture
def folder(tmp_path):
    study, key = made_study()
    sha256 = write_study(tmp_path, study)
    write_key(tmp_path, type(key)(**vars(key) | {"study_sha256": sha256}))
    return tmp_path


def test_there_and_back(folder):
    study, key = made_study()
    assert read_study(folder) == study
    back = read_key(folder, study)
    assert back.items == key.items and back.saes == key.saes and back.settings == key.settings


def test_the_key_is_for_its_owner(folder):
    assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600


def test_the_study_does_not_say_what_items_are(folder):
    _, key = made_study()
    text = (folder / STUDY).read_text()
    content = json.loads(text)
    assert [own["id"] for own in content["items"]] == sorted(key.items)
    assert {tuple(own) for own in content["items"]} == {("id", "intervals", "rated", "promoted", "suppressed")}
    for word in ("random_sae", "neurons", "random_directions", "latent", "density", *(sae["name"] for sae in key.saes)):
        assert f'"{word}' not in text


def change(folder, name, **values):
    path = folder / name
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: v for key, v in (content | values).items() if v is not None}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schema": 2}, "schema 2, but this version reads schema 1"),
        ({"items": None}, "damaged"),
        ({"items": []}, "no items"),
        ({"items": [{"id": "x", "intervals": [], "rated": [], "promoted": [], "suppressed": []}]}, "11 intervals"),
        ({"items": 3}, "damaged"),
        ({"rubric": "id = 3"}, "study.json: rubric: "),
        ({"rubric": 3}, "damaged"),
    ],
)
def test_damaged_studies(folder, values, message):
    change(folder, STUDY, **values)
    with pytest.raises(InputError, match=message):
        read_study(folder)


def test_files_that_are_not_there_or_no_json(folder):
    study = read_study(folder)
    (folder / STUDY).write_text("[" * 100_000)
    with pytest.raises(InputError, match="damaged"):
        read_study(folder)
    (folder / STUDY).unlink()
    with pytest.raises(InputError, match="no such file; jsaeval rate prepare writes it"):
        read_study(folder)
    (folder / KEY).unlink()
    with pytest.raises(InputError, match=r"key\.json: no such file; it says which items are latents"):
        read_key(folder, study)


def test_keys_of_other_studies(folder):
    study = read_study(folder)
    before = (folder / KEY).read_text()
    change(folder, KEY, study="another")
    with pytest.raises(InputError, match="the key of another study"):
        read_key(folder, study)
    (folder / KEY).write_text(before)
    change(folder, KEY, items={})
    with pytest.raises(InputError, match=r"is in one of study\.json and key\.json only"):
        read_key(folder, study)
    items = json.loads(before)["items"]
    next(iter(items.values()))["group"] = "cats"
    change(folder, KEY, items=items)
    with pytest.raises(InputError, match="group 'cats', one of latent, random_sae"):
        read_key(folder, study)
    (folder / KEY).write_text(before)
    change(folder, STUDY, title="another")
    with pytest.raises(InputError, match="was changed or replaced after it was made"):
        read_key(folder, study)
