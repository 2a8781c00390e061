"""The user's own texts, and each way in which a file of them can be wrong."""

import json

import pytest

from jsaeval.autointerp.from_file import FileExplainer
from jsaeval.errors import InputError
from tests.autointerp.examples import evidence


CONTENTS = {
    "a.json": '{"3": "dogs", "1": "cats,\\n \\"both\\""}',
    "a.jsonl": '{"latent": 3, "text": "dogs"}\n\n{"latent": "1", "text": "cats,\\n \\"both\\"", "by": "me"}\n',
    "a.csv": '\ufefflatent,text\n3,dogs\n1,"cats,\n ""both"""\n',
}


@pytest.mark.parametrize("name", CONTENTS)
def test_forms(tmp_path, name):
    (tmp_path / name).write_text(CONTENTS[name], encoding="utf-8")
    explained = FileExplainer(tmp_path / name, d_sae=4).explain([evidence(1), evidence(2), evidence(3)])
    assert [own.text for own in explained] == ['cats, "both"', "", "dogs"]
    assert [own.error is None for own in explained] == [True, False, True]
    assert explained[1].error == f"{tmp_path / name} has no text for it"
    assert {own.explainer for own in explained} == {"file"}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "dogs", "was expected"),
        ("a.json", '{"1": "dogs"', "not valid JSON"),
        ("a.json", "[" * 200_000, "not valid JSON"),
        ("a.json", json.dumps({"1": "dogs " * 1000}), "latent 1 has 4,999 characters; 4,000 fit"),
        ("a.json", '["dogs"]', "one object"),
        ("a.json", "{}", "holds no texts"),
        ("a.json", '{"one": "dogs"}', "entry 1: 'one' is no index"),
        ("a.json", '{"1": "dogs", "01": "cats"}', "entry 2: latent 1 has a text already"),
        ("a.json", '{"1": "dogs", "1": "cats"}', "entry 2: latent 1 has a text already"),
        ("a.json", '{"9": "dogs"}', "no latent 9; they are 0..8"),
        ("a.json", '{"1": ""}', "latent 1 has no text"),
        ("a.json", '{"1": ["dogs"]}', "latent 1 has no text"),
        ("a.json", '{"-1": "dogs"}', "'-1' is no index"),
        ("a.jsonl", '{"latent": 1, "text": "dogs"}\n{"latent": 2}\n', "line 2"),
        ("a.jsonl", '{"latent": true, "text": "dogs"}\n', "line 1: True is no index"),
        ("a.jsonl", '{"latent": 1, "text": \n', "line 1: not valid JSON"),
        ("a.jsonl", "[" * 200_000, "line 1: not valid JSON"),
        ("a.csv", "1,dogs\n", "must name the columns"),
        ("a.csv", "latent,text\n1,dogs, cats\n", "line 2: too many columns"),
        ("a.csv", 'latent,text\n1,"dogs\n', "not valid CSV"),
        ("a.csv", "latent,text\n1\n", "latent 1 has no text"),
        ("a.csv", "", "must name the columns"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        FileExplainer(path, d_sae=9)
    assert message in str(raised.value) and str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_texts_are_one_line_that_can_be_seen(tmp_path):
    (tmp_path / "a.json").write_text('{"1": "dogs\\n\\ud800\\u001b[2J"}')
    assert FileExplainer(tmp_path / "a.json").texts == {1: "dogs \\ud800\\x1b[2J"}


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        FileExplainer(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b'{"1": "\xff"}')
    with pytest.raises(InputError, match="cannot be read"):
        FileExplainer(str(tmp_path / "b.json"))
    (tmp_path / "c.json").write_text(json.dumps({"12345": "dogs"}))
    assert FileExplainer(tmp_path / "c.json").texts == {12345: "dogs"}
