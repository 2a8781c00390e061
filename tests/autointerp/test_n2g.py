"""N2G on latents whose rule is known, beside the traps of the released algorithm."""

import dataclasses

import numpy as np
import pytest

from jsaeval.autointerp.keeping import least_rate, token_patterns
from jsaeval.autointerp.n2g import N2G
from jsaeval.autointerp.trie import Pattern
from tests.autointerp.made_up import (
    VOCAB,
    activate,
    documents,
    either,
    evidence_of,
    first,
    following,
    precision_and_recall,
    shifted,
)
from tests.autointerp.released_n2g import released_n2g


def near(text):
    """Fires at 13 where 12 is one of the two tokens before."""
    behind = np.any([shifted(text, by) == 12 for by in (1, 2)], axis=0)
    return np.where((text == 13) & behind, 3.0, 0.0)


def erratic(text):
    """Depends on every token of the document; fires late in it."""
    late = np.arange(len(text)) > 8
    return np.where((np.cumsum(text * (np.arange(len(text)) + 1)) % 23 == 0) & late, 1.0, 0.0)


RULES = {
    "token": following(5),
    "two tokens": either(following(5, value=3.0), following(6, value=1.0)),
    "bigram": following(7, 8),
    "two bigrams": either(following(7, 8), following(9, 8, value=5.0)),
    "token after any after token": following(9, None, 10),
    "any token after token": following(11, None),
    "any token two after token": following(11, None, None),
    "two contexts of one token": either(following(2, 3), following(4, None, 3)),
    "first of a text": first,
    "third of a text": lambda text: np.where(np.arange(len(text)) == 2, 4.0, 0.0),
    "token first of a text": lambda text: np.where(text < 4, first(text), 0.0),
    "one of two distances": near,
}


@pytest.fixture(scope="module")
def corpus():
    return documents(1000)


def name_of(token):
    return f" w{token}"


def explained(rules, corpus, **kwargs):
    evidence = [evidence_of(latent, rule, corpus) for latent, rule in rules.items()]
    return N2G(activate(rules), name_of, **kwargs).explain(evidence)


@pytest.fixture(scope="module")
def found(corpus):
    return dict(zip(RULES, explained(dict(enumerate(RULES.values())), corpus), strict=True))


@pytest.mark.parametrize("name", RULES)
def test_known_rules_are_recovered(name, found):
    precision, recall = precision_and_recall(found[name].rule, RULES[name], documents(300, seed=1))
    assert precision >= 0.98 and recall >= 0.98, (precision, recall, found[name].text)


def test_what_the_texts_say(found):
    assert found["token"].text == 'fires on "␣w5"'
    assert found["two tokens"].text in ('fires on "␣w5", "␣w6"', 'fires on "␣w6", "␣w5"')
    assert found["bigram"].text == 'fires on "␣w8" after "␣w7"'
    assert found["token after any after token"].text == 'fires on "␣w10" after "␣w9"*'
    assert found["any token after token"].text == 'fires on * after "␣w11"'
    assert found["first of a text"].text == "fires on * first in a text"


def test_values_are_activations(found):
    predicted = found["two tokens"].rule.predict(np.zeros(0, np.int32), np.array([5, 6, 7], np.int32))
    np.testing.assert_allclose(predicted, [3, 1, 0])


def test_activations_of_one_pattern_are_averaged(corpus):
    """The released one keeps the last that it saw."""

    def rule(text):  # stronger in longer documents
        return following(7, 8, value=1.0 + len(text) % 2)(text)

    whole = activate({0: rule})
    (explanation,) = explained({0: rule}, corpus)
    (pattern,) = explanation.rule.patterns
    assert pattern.tokens == (7, 8) and 1.1 < pattern.value < 1.9
    contexts = [(0, np.array([3, 7, 8], np.int32), 2.0), (0, np.array([7, 8], np.int32), 1.0)]
    released = released_n2g(contexts, whole, name_of, pad=0)[0]
    assert released.predict(np.zeros(0), np.array([7, 8]))[-1] == 1


def test_no_pattern_that_matches_everywhere(corpus):
    """Where a replacement makes the latent fire too, the released one makes the last token a wildcard."""

    def rule(text):
        return np.where(text >= VOCAB // 2, 2.0, 0.0)

    released = released_n2g([(0, np.array([3, 15], np.int32), 2.0)], activate({0: rule}), name_of, pad=16)[0]
    assert (released.predict(np.zeros(0), np.arange(VOCAB)) > 0).all()
    (explanation,) = explained({0: rule}, corpus)
    assert precision_and_recall(explanation.rule, rule, documents(100, seed=1)) == (1.0, 1.0)


def test_what_happens_only_without_bos_is_not_learnt(corpus):
    """Behind no BOS the latent is large at position 0, whatever stands there; in real text it never is."""
    bigram = following(7, 8)

    def bare(texts, latents):
        return np.array([9.0 if len(text) == 1 else bigram(text)[-1] for text in texts], np.float32)

    released = released_n2g([(0, np.array([7, 8], np.int32), 2.0)], bare, name_of, pad=0)[0]
    assert released.predict(np.zeros(0), np.array([3, 4])).tolist() == [9, 0]
    (explanation,) = explained({0: bigram}, corpus)
    assert explanation.rule.predict(np.zeros(0, np.int32), np.array([3, 4], np.int32)).tolist() == [0, 0]


def test_what_happens_at_the_head_of_a_row_is_not_the_start_of_a_document(corpus):
    """The latent fires at the first token of a text; the evidence is of rows in which documents go on."""
    evidence = evidence_of(0, first, corpus)
    going_on = [dataclasses.replace(own, begins=False) for own in evidence.of("explain")]
    evidence = dataclasses.replace(evidence, examples=evidence.examples | {"explain": tuple(going_on)})
    (explanation,) = N2G(activate({0: first}), name_of).explain([evidence])
    assert explanation.rule is None


def test_calls_do_not_grow_with_latents(corpus):
    def calls(rules):
        count, whole = [], activate(rules)

        def counted(texts, latents):
            count.append(len(texts))
            return whole(texts, latents)

        N2G(counted, name_of).explain([evidence_of(latent, rule, corpus) for latent, rule in rules.items()])
        return len(count)

    few, many = {0: RULES["bigram"]}, {i: following(i, i + 1) for i in range(5)}
    assert calls(many) <= calls(few) + 2 < 25


def test_a_latent_does_not_depend_on_the_others(corpus, found):
    rule = RULES["two contexts of one token"]
    latent = list(RULES).index("two contexts of one token")
    (alone,) = explained({latent: rule}, corpus)
    assert alone.rule.patterns == found["two contexts of one token"].rule.patterns


def test_what_cannot_be_explained_is_said(corpus):
    rules = {0: following(5), 1: following(6), 2: erratic}
    evidence = [evidence_of(latent, rule, corpus) for latent, rule in rules.items()]
    evidence[0] = dataclasses.replace(evidence[0], problem="dead")
    dead, fine, nothing = N2G(activate(rules), name_of).explain(evidence)
    assert (dead.error, dead.text, dead.rule) == ("dead", "", None)
    assert fine.error is None and fine.text == 'fires on "␣w6"'
    assert nothing.error == "no pattern of tokens makes it fire reliably" and nothing.rule is None


def test_rare_patterns_are_dropped_by_their_precision(corpus):
    """A token that fires once in a hundred is not a rule; one that fires in half of its places is."""
    evidence = evidence_of(0, either(following(5), following(3, 6)), corpus)
    assert [own.tokens for own in token_patterns(evidence)] == [(5,)]
    assert isinstance(token_patterns(evidence)[0], Pattern) and 0.3 < least_rate(evidence) <= 0.5
