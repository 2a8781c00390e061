"""Names and patterns → SAEs, each once."""

import pytest

from jsaeval.errors import InputError
from jsaeval.sae.find import find_saes, short_names
from jsaeval.sae.load import save_sae
from tests.tiny import tiny_sae


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").mkdir()
    for name in ("b", "a"):
        save_sae(tiny_sae(), tmp_path / "s" / f"{name}.safetensors")
    save_sae(tiny_sae(), tmp_path / "s" / "c", format="saelens")
    (tmp_path / "s" / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "s" / "log.jsonl").write_text("{}")
    return tmp_path


def test_a_pattern_is_sorted_and_leaves_out_what_is_no_sae(sweep):
    found = find_saes(["s/*"])
    assert found.names == ("s/a.safetensors", "s/b.safetensors", "s/broken.safetensors", "s/c")
    assert found.skipped == ("s/log.jsonl",)
    assert set(find_saes(["**/*"]).names) == set(found.names)  # not the weights inside the folder c
    assert find_saes(["s/[ab]*.safetensors"]).names == found.names[:3]


def test_numbers_are_sorted_as_numbers(sweep):
    for k in (16, 8, 128):
        save_sae(tiny_sae(), sweep / f"topk-{k}.safetensors")
    assert find_saes(["topk-*"]).names == ("topk-8.safetensors", "topk-16.safetensors", "topk-128.safetensors")


def test_each_sae_once_in_the_order_given(sweep):
    assert find_saes(["s/c", "s/*", "./s/a.safetensors"]).names == ("s/c", *find_saes(["s/*"]).names[:3])
    assert find_saes(["smollm2-135m", "no-such-file"]).names == ("smollm2-135m", "no-such-file")


def test_a_file_whose_name_looks_like_a_pattern(sweep):
    save_sae(tiny_sae(), sweep / "k[8].safetensors")
    assert find_saes(["k[8].safetensors"]).names == ("k[8].safetensors",)


@pytest.mark.parametrize(
    "pattern, message", [("t/*", "matches nothing"), ("s/*.jsonl", r"log\.jsonl, \.\.\.\) is no SAE")]
)
def test_a_pattern_without_saes(sweep, pattern, message):
    with pytest.raises(InputError, match=message):
        find_saes([pattern])


def test_short_names():
    assert short_names(["runs/x/a.safetensors", "runs/x/b.safetensors"]) == ["a", "b"]
    assert short_names(["runs/x/a", "runs/y/a"]) == ["x/a", "y/a"]
    assert short_names(["x/a", "x/a.safetensors"]) == ["a", "a.safetensors"]
    assert short_names(["tiny", "x/a.safetensors"]) == ["tiny", "x/a"]
    assert short_names(["/abs/q/a", "/abs/q/b"]) == ["a", "b"]
