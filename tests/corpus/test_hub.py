"""Data sets of `datasets`: saved folders, and the hub with its two calls replaced by a local copy."""

from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from huggingface_hub import errors

from jsaeval.corpus.documents import open_corpus
from jsaeval.errors import InputError


TEXTS = ["one two", "three", "four five six"]


@pytest.fixture
def data():
    return datasets.Dataset.from_dict({"label": [0, 1, 2], "text": TEXTS})


def test_a_saved_data_set(tmp_path, data):
    data.save_to_disk(tmp_path / "one")
    assert list(open_corpus(str(tmp_path / "one")).read()) == TEXTS
    both = datasets.DatasetDict({"test": data.select([0]), "train": data.select([1, 2])})
    both.save_to_disk(tmp_path / "both")
    assert list(open_corpus(str(tmp_path / "both")).read()) == TEXTS[1:]
    datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "test")
    assert list(open_corpus(str(tmp_path / "test")).read()) == TEXTS
    datasets.DatasetDict({"a": data, "b": data}).save_to_disk(tmp_path / "ab")
    with pytest.raises(InputError, match="no split 'train'"):
        list(open_corpus(str(tmp_path / "ab")).read())
    assert list(open_corpus(f"{tmp_path / 'both'}@test").read()) == TEXTS[:1]
    identities = {open_corpus(str(tmp_path / name)).identity for name in ("both", "both@test", "both@train")}
    assert len(identities) == 3
    with pytest.raises(InputError, match="no split 'test'; this data set was saved without splits"):
        list(open_corpus(f"{tmp_path / 'one'}@test").read())
    identity = open_corpus(str(tmp_path / "one")).identity
    data.select([1]).save_to_disk(tmp_path / "other")
    assert open_corpus(str(tmp_path / "other")).identity != identity


def test_a_damaged_data_set(tmp_path, data):
    data.save_to_disk(tmp_path / "one")
    for path in (tmp_path / "one").glob("*.arrow"):
        path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read as a saved data set"):
        list(open_corpus(str(tmp_path / "one")).read())


@pytest.fixture
def online(monkeypatch, data):
    """A hub with one data set; what was asked of it."""
    asked = []

    def info(self, name, timeout):
        if name != "someone/texts":
            raise error(errors.RepositoryNotFoundError)
        return SimpleNamespace(sha="abc")

    def load(path, **options):
        asked.append((path, options))
        return datasets.IterableDatasetDict({"train": data.to_iterable_dataset(), "test": data.select([0])})

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def error(kind):
    return kind("no", response=SimpleNamespace(headers={}, request=None, status_code=404))


def test_the_hub_is_streamed_at_a_fixed_revision(online):
    corpus = open_corpus("someone/texts")
    assert list(corpus.read()) == TEXTS and "abc" in corpus.identity
    assert list(open_corpus("someone/texts:english@test").read()) == TEXTS[:1]
    (_, first), (name, second) = online
    assert first == {"name": None, "streaming": True, "revision": "abc"}
    assert (name, second["name"], second["revision"]) == ("someone/texts", "english", "abc")
    with pytest.raises(InputError, match="no split 'tset'; did you mean 'test'"):
        list(open_corpus("someone/texts@tset").read())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.RepositoryNotFoundError, "no such data set on the hub"),
        (errors.GatedRepoError, "access must be asked for on the hub"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, kind, message):
    def refuse(self, name, timeout):
        raise error(kind)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(InputError, match=message):
        open_corpus("someone/nothing")


def test_without_a_network(monkeypatch):
    def fail(self, name, timeout):
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    with pytest.raises(InputError, match=r"cannot be reached \(Name or service not known\); a local copy works"):
        open_corpus("someone/texts")


def test_a_path_that_is_missing_is_not_asked_of_the_hub(online):
    with pytest.raises(InputError, match="no such file"):
        open_corpus("folder/texts.jsonl")
    with pytest.raises(InputError, match="no such file"):
        open_corpus("a/b/c")
    assert not online
