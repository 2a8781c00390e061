import numpy as np
import pandas as pd
import pytest

from jsaeval.corpus.tasks import DEFAULT, catalogue, make_task, open_tasks, split
from jsaeval.errors import InputError


def own_task(n=200, seed=0):
    labels = np.random.default_rng(seed).random(n) < 0.3
    return make_task("own", "own", "yes", [f"text {i}" for i in range(n)], labels)


def test_the_catalogue_is_the_wheel():
    """Every task's rows, texts and positive label, of three that are read."""
    known = catalogue()
    assert len(known) == 113 and sum(listed.rows for listed in known.values()) == 334_092
    assert len({listed.group for listed in known.values()}) == 14 and set(DEFAULT) <= set(known)
    for name in ("157_amazon_5star", "49_cm_isshort", "59_wikidata_occupation_isjournalist"):
        (task,) = open_tasks([name])
        left = task.left_out.get("doubled", 0) + task.left_out.get("contradicting", 0)
        assert len(task.texts) + left == known[name].rows
        assert len(task.texts) + task.left_out.get("contradicting", 0) == known[name].distinct
        assert 0.4 < task.labels.mean() < 0.6 and len(set(task.texts)) == len(task.texts)


def test_what_cannot_be_used_is_left_out_and_counted():
    texts = [*(f"text {i}" for i in range(30)), "text 3", "text 4", "", "  ", None, float("nan")]
    labels = np.array([i % 2 == 0 for i in range(30)] + [False, False] + [True] * 4)
    task = make_task("a", "own", "even", texts, labels)
    assert task.left_out == {"empty": 4, "doubled": 2, "contradicting": 1}  # text 4 is even
    assert len(task.texts) == 29 and "text 4" not in task.texts and "text 3" in task.texts
    assert [bool(label) for label in task.labels[:3]] == [True, False, True]


def test_a_split_is_disjoint_stratified_and_seeded():
    task = own_task()
    parts = split(task)
    together = np.concatenate(parts)
    assert sorted(together) == list(range(200))
    assert [len(part) for part in parts] == [
        pytest.approx(100, abs=1),
        pytest.approx(25, abs=1),
        pytest.approx(75, abs=2),
    ]
    for part in parts:
        assert task.labels[part].mean() == pytest.approx(task.labels.mean(), abs=0.03)
    assert all(np.array_equal(a, b) for a, b in zip(parts, split(task), strict=True))
    assert not np.array_equal(parts.train, split(task, seed=1).train)
    fewer = split(task, examples=80)
    assert sum(map(len, fewer)) == pytest.approx(80, abs=2)
    assert set(fewer.train) <= set(together)


def test_a_split_does_not_depend_on_the_order_of_the_rows():
    task = own_task()
    turned = make_task("own", "own", "yes", task.texts[::-1], task.labels[::-1])
    for part, other in zip(split(task), split(turned), strict=True):
        assert {task.texts[i] for i in part} == {turned.texts[i] for i in other}
    assert task.identity != turned.identity == make_task("b", "c", "d", turned.texts, turned.labels).identity


def frame(classes, n=60):
    return pd.DataFrame(
        {"text": [f"text {i}" for i in range(n)], "label": [classes[i % len(classes)] for i in range(n)]}
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tasks_of_files(tmp_path, suffix):
    table, path = frame(["no", "yes"]), tmp_path / f"mine{suffix}"
    write = {
        ".csv": lambda: table.to_csv(path, index=False),
        ".tsv": lambda: table.to_csv(path, index=False, sep="\t"),
        ".jsonl": lambda: table.to_json(path, orient="records", lines=True),
        ".parquet": lambda: table.to_parquet(path),
    }
    write[suffix]()
    (task,) = open_tasks([str(path)])
    assert task.name == "mine" and task.meaning == "label is yes (else no)"
    assert task.labels.tolist() == [False, True] * 30


def test_whole_numbers_stay_so_beside_missing_ones(tmp_path):
    labels = pd.array([i % 2 for i in range(59)] + [None], dtype="Int64")
    pd.DataFrame({"text": [f"text {i}" for i in range(60)], "label": labels}).to_parquet(tmp_path / "n.parquet")
    (task,) = open_tasks([str(tmp_path / "n.parquet")])
    assert task.meaning == "label is 1 (else 0)" and task.left_out == {"no label": 1}


def test_more_labels_are_one_task_each(tmp_path):
    frame(["cat", "dog", "emu"]).rename(columns={"label": "animal"}).to_csv(tmp_path / "pets.csv", index=False)
    tasks = open_tasks([str(tmp_path / "pets.csv")], label_column="animal")
    assert [task.name for task in tasks] == ["pets:cat", "pets:dog", "pets:emu"]
    assert [task.labels.sum() for task in tasks] == [20] * 3 and tasks[0].labels.tolist() == [True, False, False] * 20


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (frame(["yes"]), "1 different labels"),
        (frame(["yes", "no"], 12), "12 different examples; at least 20"),
        (frame(list(range(60))), "60 different labels"),
        (frame(["yes", "no"]).rename(columns={"text": "prompt"}), "--text-column may be prompt, label"),
        (frame(["yes", "no"]).rename(columns={"label": "y"}), "--label-column may be text, y"),
        (frame(["yes", "no"]).assign(text="the same"), "0 different examples"),
    ],
)
def test_files_that_hold_no_task(tmp_path, table, line):
    table.to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(InputError) as caught:
        open_tasks([str(tmp_path / "bad.csv")])
    assert line in str(caught.value)


def test_names_that_are_none(tmp_path):
    for name, line in (
        ("159_code_Pyton", "did you mean '159_code_Python'"),
        ("sentimnt", "did you mean 'sentiment'"),
        (str(tmp_path / "none.csv"), "no such file"),
    ):
        with pytest.raises(InputError) as caught:
            open_tasks([name])
        assert line in str(caught.value)


def test_a_rare_class_is_in_every_part():
    labels = np.zeros(100, bool)
    labels[:4] = True
    parts = split(make_task("rare", "own", "yes", [f"t{i}" for i in range(100)], labels), examples=50)
    assert all(labels[part].any() for part in parts)
