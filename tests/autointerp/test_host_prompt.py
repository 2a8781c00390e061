"""Prompts of the host simulator: every level follows its tab, whatever the tokenizer would have merged."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from jsaeval.autointerp.host_prompt import HostPrompt
from jsaeval.errors import InputError
from jsaeval.lm.load import NAMED, SHIPPED, _folder_tokenizer, _gguf_tokenizer, _resolve
from jsaeval.lm.tokenizer import TextTokenizer


def byte_level(*merges, bos=None):
    """A token for each byte, and for pairs of tokens that are merged."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*letters, *(a + b for a, b in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return TextTokenizer(backend, bos, None, None, str(merges))


def tiny():
    return _folder_tokenizer(_resolve(SHIPPED["tiny"]))


def ids(tokenizer, text):
    return np.array(tokenizer.encode([text])[0])


@pytest.mark.parametrize("tokenizer", [tiny(), byte_level(("1", "0"), bos=3), byte_level(("a", "ĉ"), ("Ċ", "ĉ"))])
def test_each_token_has_a_line(tokenizer):
    """The last two would merge a token with the tab, and the tab with the end of the line."""
    prompt, text = HostPrompt.of(tokenizer), "a cat was\nnot\there a"
    tokens = ids(tokenizer, text)
    whole, at = prompt("things that are not there", tokens)
    assert len(at) == len(tokens) and (np.diff(at) > 0).all()
    (tab,) = prompt.tab
    assert (whole[at] == tab).all()
    assert tuple(whole[: len(prompt.head)]) == prompt.head
    lines = [tokenizer.decode(part.tolist()) for part in np.split(whole, at + 1)]
    lines[0] = lines[0][lines[0].index("Neuron 4") :]
    assert lines[0].startswith("Neuron 4\nExplanation: things that are not there\nText:\n")
    shown = [lines[0].rsplit("\n", 1)[1], *(line.removeprefix("unknown\n") for line in lines[1:-1])]
    expected = [tokenizer.token(i).replace("\n", "\\n").replace("\t", "\\t") + "\t" for i in tokens.tolist()]
    assert shown == expected and lines[-1] == "unknown\n"


def test_whole_prompt_as_text():
    tokenizer = tiny()
    prompt = HostPrompt.of(tokenizer)
    whole, _ = prompt("", ids(tokenizer, " It rained"))
    text = tokenizer.decode(whole.tolist())
    assert whole[0] == tokenizer.bos and "from 0 (not at all) to 9 (as" in text
    assert " red\t9\n car\t0\n" in text and " not\tunknown\n" in text and " wait\t2\n" in text
    assert "Neuron 4\nExplanation: \nText:\n It\tunknown\n" in text


def test_levels_are_one_token_each():
    """Eleven levels where "10" is a token, else ten."""
    eleven = HostPrompt.of(byte_level(("1", "0")))
    assert len(eleven.levels) == 11 and len(HostPrompt.of(byte_level()).levels) == 10
    text = eleven.tokenizer.decode(list(eleven.head))
    assert " red\t10\n" in text and "to 10 (as" in text and " green\t8\n" in text
    for prompt in (eleven, HostPrompt.of(tiny())):
        assert [prompt.tokenizer.token(level) for level in prompt.levels] == [str(i) for i in range(len(prompt.levels))]


def test_smollm2_splits_ten():
    name = "smollm2-135m"
    tokenizer = _gguf_tokenizer(_resolve(name), NAMED[name][1])
    assert len(tokenizer.encode(["10"])[0]) == 2
    prompt = HostPrompt.of(tokenizer)
    assert [tokenizer.token(level) for level in prompt.levels] == list("0123456789")
    whole, at = prompt("numbers", tokens := ids(tokenizer, " In 1987 it was 10 degrees"))
    assert len(at) == len(tokens) and (whole[at] == prompt.tab[0]).all()
    assert tokenizer.decode(whole.tolist()).endswith(" \tunknown\n1\tunknown\n0\tunknown\n degrees\tunknown\n")


def test_tokens_of_another_tokenizer_are_written_out():
    """One line for a token of the subject, however many tokens of the simulator it takes."""
    subject, own = tiny(), byte_level()
    tokens = ids(subject, " the house")
    assert len(tokens) == 2
    whole, at = HostPrompt.of(own, subject)("", tokens)
    assert len(at) == 2 and own.decode(whole.tolist()).endswith(" the\tunknown\n house\tunknown\n")


def test_special_tokens_are_written_as_text():
    """BOS inside of a prompt would begin another text."""
    tokenizer = tiny()
    whole, at = HostPrompt.of(tokenizer)("", np.array([tokenizer.bos, 300]))
    assert (whole[1:] != tokenizer.bos).all() and len(at) == 2
    assert f"{tokenizer.token(tokenizer.bos)}\tunknown\n" in tokenizer.decode(whole.tolist())


def test_an_explanation_is_one_line():
    tokenizer = tiny()
    whole, _ = HostPrompt.of(tokenizer)(" a\nNeuron 5\tb ", ids(tokenizer, " It"))
    assert "Explanation: a Neuron 5 b\nText:\n" in tokenizer.decode(whole.tolist())


def test_a_tokenizer_without_digits():
    letters = byte_level()
    vocab = {token: i for token, i in letters.backend.get_vocab().items() if token not in "0123456789"}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="!"))
    backend.pre_tokenizer, backend.decoder = letters.backend.pre_tokenizer, letters.backend.decoder
    backend.model.unk_token = "!"
    with pytest.raises(InputError, match="no token for 0 alone"):
        HostPrompt.of(TextTokenizer(backend, None, None, None, "letters"))
