"""Texts from outside, in one line that every file and terminal can hold."""

import unicodedata

import pytest

from jsaeval.autointerp.texts import one_line_of


def test_by_hand():
    assert one_line_of(" a\n<text>\tb\x1e user \ud800") == "a <text> b user \\ud800"
    assert one_line_of("a\u200bb\x07") == "a\\u200bb\\x07"
    assert one_line_of("\x1b[2J\U000e0001é犬") == "\\x1b[2J\\U000e0001é犬"


@pytest.mark.parametrize("first", range(0, 0x110000, 0x11000))
def test_no_character_gets_through_that_cannot_be_seen(first):
    line = one_line_of("".join(map(chr, range(first, first + 0x11000))))
    assert not {unicodedata.category(own) for own in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(line.encode().splitlines()) <= 1


def test_length():
    assert one_line_of("abcdef", 6) == "abcdef" and one_line_of("abcdefg", 6) == "abcde…"
    assert len(one_line_of("\x1b" * 1000, 100)) == 100
