"""Tasks from data sets of `datasets`: saved folders, and the hub with its two calls replaced by a local copy."""

from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from jsaeval.corpus import task_tables
from jsaeval.corpus.tasks import open_tasks
from jsaeval.errors import InputError


def data(classes=("neg", "pos"), n=60, unlabelled=0):
    labels = [i % len(classes) for i in range(n)] + [-1] * unlabelled
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(classes))})
    return datasets.Dataset.from_dict(
        {"text": [f"text {i}" for i in range(n + unlabelled)], "label": labels}, features=features
    )


@pytest.fixture
def online(monkeypatch):
    """A hub with one data set of two splits; what was asked of it."""
    asked = []

    def load(path, **options):
        asked.append((path, options))
        splits = {"train": data(), "test": data(("a", "b", "c"), 30, unlabelled=5)}
        return datasets.IterableDatasetDict({name: split.to_iterable_dataset() for name, split in splits.items()})

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: SimpleNamespace(sha="abc"))
    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_data_set_of_the_hub(online):
    (task,) = open_tasks(["someone/opinions"])
    assert task.name == "someone/opinions" and task.meaning == "label is pos (else neg)"
    assert task.labels.tolist() == [False, True] * 30 and task.texts[1] == "text 1"
    assert online == [("someone/opinions", {"name": None, "streaming": True, "revision": "abc"})]


def test_a_split_of_more_classes_some_rows_without_a_label(online):
    tasks = open_tasks(["someone/opinions@test"])
    assert [task.name for task in tasks] == [f"someone/opinions@test:{label}" for label in "abc"]
    assert all(task.labels.sum() == 10 and task.left_out == {"no label": 5} for task in tasks)


def test_no_more_than_the_first_rows_are_read(online, monkeypatch):
    monkeypatch.setattr(task_tables, "MOST_ROWS", 40)
    (task,) = open_tasks(["someone/opinions"])
    assert len(task.texts) == 40 and task.meaning == "label is pos (else neg); its first 40 rows"


def test_a_saved_data_set(tmp_path):
    data().rename_column("text", "review").save_to_disk(tmp_path / "films")
    (task,) = open_tasks([str(tmp_path / "films")], text_column="review")
    assert task.name == "films" and task.labels.sum() == 30
    with pytest.raises(InputError, match="--text-column may be review, label"):
        open_tasks([str(tmp_path / "films")])


def test_a_split_of_a_saved_data_set(tmp_path):
    splits = {"train": data(), "test": data(("a", "b"), 30)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "two")
    tasks = open_tasks([str(tmp_path / "two"), f"{tmp_path / 'two'}@test"])
    assert [(task.name, len(task.texts)) for task in tasks] == [("two", 60), ("two@test", 30)]
    with pytest.raises(InputError, match="no split 'tset'; did you mean 'test'"):
        open_tasks([f"{tmp_path / 'two'}@tset"])
    splits["train"].save_to_disk(tmp_path / "odd@name")  # a folder is taken as it is called, first
    assert open_tasks([str(tmp_path / "odd@name")])[0].name == "odd@name"


def test_what_is_no_task(online, monkeypatch):
    with pytest.raises(InputError, match="no split 'tset'; did you mean 'test'"):
        open_tasks(["someone/opinions@tset"])
    with pytest.raises(InputError, match=r"no such task.* or OWNER/NAME"):
        open_tasks(["opinions"])

    def fail(self, name, timeout):
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    with pytest.raises(InputError, match=r"^--tasks 'someone/opinions': no such file.*cannot be reached"):
        open_tasks(["someone/opinions"])


def test_a_stream_that_breaks(online, monkeypatch):
    def rows():
        yield {"text": "one", "label": 1}
        raise OSError("connection reset")

    stream = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    with pytest.raises(InputError, match=r"cannot be read \(connection reset\)"):
        open_tasks(["someone/opinions"])
