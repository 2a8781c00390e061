"""Rubrics: the two that ship, the highest score by enumeration, and files that are wrong."""

import itertools

import pytest

from jsaeval.errors import InputError
from jsaeval.rating.rubric import BUILT_IN, Question, load_rubric, parse_rubric


def whole(**changes):
    """A small rubric as TOML; a value of None leaves the line out."""
    top = {"id": '"mine"', "title": '"t"', "source": '"me"', "unit": '"interval"', "intro": '"read"'} | changes
    lines = [f"{key} = {value}" for key, value in top.items() if value is not None]
    return "\n".join([*lines, "", '[[question]]\nid = "sure"\nprompt = "?"\nanswers = ["no", "", "yes"]\n'])


def every_score(rubric, logits):
    """The scores of all combinations of answers, those to questions that do not apply left out."""
    questions = rubric.asked(logits)
    for answers in itertools.product(*(range(own.highest + 1) for own in questions)):
        yield rubric.score(dict(zip((own.id for own in questions), answers, strict=True)), logits)


def test_bricken_is_as_published():
    rubric = load_rubric("bricken2023")
    ranges = {own.id: own.highest for own in rubric.questions}
    assert ranges == {
        "confidence": 3,
        "activation_consistency": 5,
        "logit_consistency": 3,
        "effect_size_gap": 1,
        "specificity": 3,
    }
    assert sum(ranges.values()) == 15 and rubric.maximum() == 14 and rubric.unit == "interval"
    full = {own: highest for own, highest in ranges.items() if own != "effect_size_gap"}
    assert rubric.score(full) == 14 and rubric.score(full | {"effect_size_gap": 1}) == 14
    assert rubric.score(full | {"logit_consistency": 2}) is None  # the gap is asked now
    assert rubric.score(full | {"logit_consistency": 2, "effect_size_gap": 1}) == 14
    assert rubric.score(full | {"logit_consistency": 2, "effect_size_gap": 0}) == 13
    # Without logits to look at, two questions are not asked.
    assert [own.id for own in rubric.asked(False)] == ["confidence", "activation_consistency", "specificity"]


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_maximum_is_that_of_all_answers(name, logits):
    rubric = load_rubric(name)
    scores = list(every_score(rubric, logits))
    assert None not in scores
    assert max(scores) == rubric.maximum(logits) and min(scores) == 0


def test_several_that_depend_on_one():
    toml = whole() + (
        '[[question]]\nid = "b"\nprompt = "?"\nanswers = ["", "", "", ""]\nonly_if = { question = "sure", below = 2 }\n'
        '[[question]]\nid = "c"\nprompt = "?"\nanswers = ["", ""]\nonly_if = { question = "sure", below = 1 }\n'
        '[[question]]\nid = "d"\nprompt = "?"\nanswers = ["", "", ""]\n'
    )
    rubric = parse_rubric(toml, "it")
    assert rubric.maximum() == max(own for own in every_score(rubric, True) if own is not None) == 1 + 3 + 2
    assert rubric.score({"sure": 2, "d": 0}) == 2 and rubric.score({"sure": 0, "b": 0, "d": 0}) is None
    # What was answered before a condition failed adds nothing.
    assert rubric.score({"sure": 2, "b": 3, "c": 1, "d": 0}) == 2


def test_many_conditions_take_no_time():
    entry = '[[question]]\nid = "{0}{1}"\nprompt = "?"\nanswers = ["", "", "", "", "", "", "", "", "", ""]\n{2}'
    toml = whole().split("[[")[0] + "".join(
        entry.format(name, i, "" if name == "a" else f'only_if = {{ question = "a{i}", below = 5 }}\n')
        for i in range(10)
        for name in "ab"
    )
    assert parse_rubric(toml, "it").maximum() == 10 * (4 + 9)


def test_a_condition_on_a_question_that_is_not_asked():
    toml = whole().replace("answers", 'needs = "logits"\nanswers') + (
        '[[question]]\nid = "b"\nprompt = "?"\nanswers = ["", ""]\nonly_if = { question = "sure", below = 2 }\n'
        '[[question]]\nid = "c"\nprompt = "?"\nanswers = ["", ""]\n'
    )
    assert [own.id for own in parse_rubric(toml, "it").asked(False)] == ["c"]


def test_what_is_not_answered_yet_does_not_apply():
    question = Question("b", "?", ("", ""), only_if=("a", 3))
    assert not question.applies({}) and question.applies({"a": 2}) and not question.applies({"a": 3})


def test_the_version_changes_with_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(whole(), encoding="utf-8")
    one = load_rubric(str(path))
    path.write_text(whole(title='"u"'), encoding="utf-8")
    assert one.version != load_rubric(str(path)).version and one == parse_rubric(whole(), "it")


ENTRY = '[[question]]\nid = "b"\nprompt = "?"\n'


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("id = ", "not valid TOML"),
        ("[" * 5000, "not valid TOML"),
        (whole(unit='"row"'), "line 4: unit: 'interval' or 'item' was expected"),
        (whole(titel='"x"', title=None), "title: a text was expected; line 5: 'titel': no such key; did you mean"),
        (whole(intro='""'), "line 5: intro: a text was expected"),
        (whole(intro=f'"{"x" * 4001}"'), "intro: 4001 characters, at most 4000"),
        (whole(question="1").split("\n\n")[0], r"line 6: question: \[\[question\]\] was expected"),
        (whole().split("\n\n")[0], r"no \[\[question\]\]: at least one is needed"),
        (whole() + '[[text]]\nid = "sure"\nprompt = "?"\n', "line 7: id 'sure' is there twice"),
        (whole() + '[[text]]\nid = "t"\nprompt = "?"\nrequired = 1\n', "line 11: required: true or false"),
        (whole() + ENTRY, "line 11: answers: a list of texts was expected"),
        (whole() + ENTRY + 'answers = ["x"]\n', "line 11: answers: 1, but 2 to 10 are possible"),
        (whole() + ENTRY + f"answers = {['x'] * 11}\n", "line 11: answers: 11, but 2 to 10"),
        (whole() + ENTRY.replace('"b"', '"A b"') + 'answers = ["x", "y"]\n', "line 11: id 'A b': small letters"),
        (whole() + ENTRY + 'answers = ["x", "y"]\nneeds = "time"\n', "needs: 'logits' was expected"),
        (whole() + ENTRY + 'answers = ["x", "y"]\nonly_if = "a"\n', "only_if: { question"),
        (whole() + ENTRY + 'answers = ["x", "y"]\nonly_if = { question = "z", below = 1 }\n', "'z' is no question"),
        (whole() + ENTRY + 'answers = ["x", "y"]\nonly_if = { question = "sure", below = 3 }\n', "below 3, 1 to 2"),
        (
            whole()
            + ENTRY
            + 'answers = ["x", "y"]\nonly_if = { question = "sure", below = 1 }\n'
            + ENTRY.replace('"b"', '"c"')
            + 'answers = ["x", "y"]\nonly_if = { question = "b", below = 1 }\n',
            "line 16: only_if: 'b' is no question before this one that is always asked",
        ),
        (whole() + ENTRY.replace('"b"', '"note"') + 'answers = ["x", "y"]\n', "id 'note' is that of the note"),
        (whole() + ENTRY + 'answers = ["x", "y"]\nonly_if = { question = "sure", below = true }\n', "below True"),
        (whole() + (ENTRY + 'answers = ["x", "y"]\n') * 20, "21 .* at most 20"),
    ],
)
def test_wrong_files_are_explained(toml, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_rubric(toml, "mine.toml")
    assert str(caught.value).startswith("mine.toml: ") and "\n" not in str(caught.value)


def test_every_line_that_is_wrong_is_named():
    with pytest.raises(InputError, match=r"line 4: unit: .*; line 7: answers: .*; line 7: needs: "):
        parse_rubric(whole(unit="3").replace('answers = ["no", "", "yes"]', 'answers = "x"\nneeds = 1'), "it")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="--rubric briken2023: no such file; did you mean 'bricken2023'"):
        load_rubric("briken2023")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "x.toml", tmp_path):
        with pytest.raises(InputError, match="cannot be read as text"):
            load_rubric(str(path))
