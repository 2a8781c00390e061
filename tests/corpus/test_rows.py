import json

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from jsaeval.corpus import rows as rows_module
from jsaeval.corpus.documents import Documents, open_corpus
from jsaeval.corpus.rows import Rows, check_tokens, text_rows, token_rows
from jsaeval.errors import InputError
from jsaeval.lm.tokenizer import TextTokenizer


WORDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "\n\n": 3} | {f"w{i}": 4 + i for i in range(40)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JSAEVAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tokenizer():
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return TextTokenizer(backend, bos=1, eos=2, pad=0, sha256="words")


def words(*numbers):
    return " ".join(f"w{i}" for i in numbers)


def corpus(*texts):
    return Documents("test", repr(texts), lambda: iter(texts))


def test_rows_are_bos_and_documents_joined_by_blank_lines(tokenizer):
    rows = text_rows(corpus(words(0, 1, 2), "  ", words(3, 4), words(5)), tokenizer, rows=9, context=4)
    np.testing.assert_array_equal(rows.tokens, [[1, 4, 5, 6], [1, 3, 7, 8], [1, 3, 9, 0]])
    np.testing.assert_array_equal(rows.documents, [[-1, 0, 0, 0], [-1, 0, 1, 1], [-1, 1, 2, -1]])
    assert rows.pad == 0 and rows.tokens.dtype == rows.documents.dtype == np.int32


def test_only_the_leading_rows_are_read(tokenizer):
    def endless():
        number = 0
        while True:
            yield words(number % 40)
            number += 1

    rows = text_rows(Documents("endless", "endless", endless), tokenizer, rows=3, context=5)
    assert rows.tokens.shape == (3, 5)


def test_tokenised_once(tokenizer, monkeypatch):
    first = text_rows(corpus(words(1, 2)), tokenizer, 1, 4)
    assert isinstance(first.tokens, np.memmap)
    monkeypatch.setattr(rows_module, "_pack", None)
    again = text_rows(corpus(words(1, 2)), tokenizer, 1, 4)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert first.sha256() == again.sha256()
    with pytest.raises(TypeError):  # another corpus is tokenised
        text_rows(corpus(words(1, 3)), tokenizer, 1, 4)


def test_without_bos_rows_begin_with_eos(tokenizer):
    no_bos = TextTokenizer(tokenizer.backend, None, 2, None, "x")
    assert text_rows(corpus(words(1)), no_bos, 1, 2).tokens[0, 0] == 2
    with pytest.raises(InputError, match="neither BOS nor EOS"):
        text_rows(corpus(words(1)), TextTokenizer(tokenizer.backend, None, None, None, "x"), 1, 2)


def test_files_and_folders(tmp_path, tokenizer):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(words(1))
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"label": i, "body": words(i)}) for i in (2, 3)))
    pd.DataFrame({"text": [words(4)], "title": ["t"]}).to_parquet(folder / "c.parquet")
    assert list(open_corpus(str(folder)).read()) == [words(1), words(2), words(3), words(4)]
    rows = text_rows(str(folder), tokenizer, 1, 8)
    np.testing.assert_array_equal(rows.tokens, [[1, 5, 3, 6, 3, 7, 3, 8]])
    (folder / "a.txt").write_text(words(9))  # a changed file is read again
    assert text_rows(str(folder), tokenizer, 1, 8).tokens[0, 1] == 13


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", b'{"text": 3}', "no column 'text' with strings; its columns are text"),
        ("a.jsonl", b'{"a": "x", "b": "y"}', "its columns are a, b"),
        ("a.jsonl", b'{"text"', "cannot be read as .jsonl"),
        ("a.parquet", b"PAR1", "cannot be read as .parquet"),
        ("a.txt", b" \n ", "holds no text"),
        ("a.csv", b"x", "were expected"),
    ],
)
def test_corpora_that_are_refused(tmp_path, tokenizer, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        text_rows(str(tmp_path / name), tokenizer, 1, 8)


def test_unknown_corpora(tmp_path):
    with pytest.raises(InputError, match="did you mean 'ag-news'"):
        open_corpus("agnews")
    with pytest.raises(InputError, match="were expected"):
        open_corpus(str(tmp_path))


def test_token_arrays(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.arange(12, dtype=np.uint16).reshape(3, 4))
    assert token_rows(path, rows=2).tokens.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert token_rows(path).tokens.shape == (3, 4)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3)), "float64, integers were expected"),
        (np.zeros(3, int), r"\(rows, positions\) was expected"),
        (np.zeros((0, 3), int), "holds no tokens"),
        (np.array([{"a": 1}], dtype=object), "not a .npy array of numbers"),
    ],
)
def test_token_arrays_that_are_refused(tmp_path, array, message):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(InputError, match=message):
        token_rows(tmp_path / "t.npy")


def test_files_that_are_no_token_arrays(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        token_rows(tmp_path / "t.npy")
    (tmp_path / "t.npy").write_bytes(b"not numpy")
    with pytest.raises(InputError, match=r"not a \.npy array"):
        token_rows(tmp_path / "t.npy")
    np.savez(tmp_path / "t.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="an archive"):
        token_rows(tmp_path / "t.npz")


def test_tokens_are_checked_against_the_lm():
    tokens = np.zeros((2, 4), np.int32)
    tokens[1, 2] = 50
    with pytest.raises(InputError, match="token id 50 at row 1, position 2 is outside the LM's vocabulary of 50"):
        check_tokens(Rows("t", tokens, None, None), vocab=50, context=8)
    with pytest.raises(InputError, match="rows of 4 positions, but the LM's context is 3"):
        check_tokens(Rows("t", tokens, None, None), vocab=99, context=3)
    check_tokens(Rows("t", tokens, None, None), vocab=51, context=4)
