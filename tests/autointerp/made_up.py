"""Latents that are rules somebody wrote down, in random text: what an explainer should find is known."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from jsaeval.autointerp.evidence import INTERVALS, SPLITS, WINDOW, Evidence, Example, Statistics, TokenTable


VOCAB = 20
# Activations at all tokens of a document, which comes without BOS.
Rule = Callable[[np.ndarray], np.ndarray]


def documents(n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, rng.integers(10, WINDOW + 1)).astype(np.int32) for _ in range(n)]


def in_rows(texts: Sequence[np.ndarray]) -> list[tuple[int, slice]]:
    """(number of the document, its tokens) of each stretch in a row: every tenth document goes on in a second row."""
    out = []
    for i, text in enumerate(texts):
        ends = [0, len(text) // 2, len(text)] if i % 10 == 0 else [0, len(text)]
        out += [(i, slice(*both)) for both in itertools.pairwise(ends)]
    return out


def shifted(text: np.ndarray, by: int) -> np.ndarray:
    """The token that stands so many places before; -1 where the document has none."""
    return np.concatenate([np.full(min(by, len(text)), -1), text])[: len(text)]


def following(*tokens: int | None, value: float = 2.0) -> Rule:
    """Fires at the last of these tokens where the others stand before it; None: any token."""

    def rule(text: np.ndarray) -> np.ndarray:
        fires = np.ones(len(text), bool)
        for back, token in enumerate(reversed(tokens)):
            before = shifted(text, back)
            fires &= before >= 0 if token is None else before == token
        return np.where(fires, value, 0.0)

    return rule


def either(*rules: Rule) -> Rule:
    return lambda text: np.max([rule(text) for rule in rules], axis=0)


def first(text: np.ndarray) -> np.ndarray:
    """Fires at the first token of a document."""
    return np.where(np.arange(len(text)) == 0, 4.0, 0.0)


def activate(rules: dict[int, Rule]):
    """The latents as functions of text, as `jsaeval.autointerp.function.Activate`."""

    def at_last(texts: Sequence[np.ndarray], latents: Sequence[int]) -> np.ndarray:
        return np.array([rules[latent](text)[-1] for text, latent in zip(texts, latents, strict=True)], np.float32)

    return at_last


def evidence_of(latent: int, rule: Rule, texts: Sequence[np.ndarray], per_kind: int = 16, seed: int = 0) -> Evidence:
    """Evidence from documents split by their number; each stretch in a row is one window."""
    rng = np.random.default_rng((seed, latent))
    rows = in_rows(texts)
    found = [rule(texts[document])[span] for document, span in rows]
    largest = max(own.max() for own in found)
    examples, strata = {}, {}
    for k, split in enumerate(SPLITS):
        own = [i for i, (n, _) in enumerate(rows) if (n % 4 in (0, 3)) == (k == 0) and (k == 0 or n % 4 == k)]
        interval = {i: int(np.ceil(found[i].max() / largest * INTERVALS)) if largest > 0 else 0 for i in own}
        strata[split] = np.bincount(list(interval.values()), minlength=INTERVALS + 1)

        def example(kind, i, focus=None, interval=interval):
            focus = int(found[i].argmax()) if focus is None else focus
            a, (document, span) = found[i].astype(np.float32), rows[i]
            nothing, begins = np.zeros(0, np.int32), span.start == 0
            return Example(kind, interval[i], document, i, 1, nothing, texts[document][span], a, focus, begins)

        firing = [i for i in own if interval[i]]
        top = sorted(firing, key=lambda i: -found[i].max())[:per_kind]
        active = [(i, int(rng.choice(np.flatnonzero(found[i])))) for i in rng.permutation(firing)[:per_kind]]
        random = rng.permutation(own)[: 2 * per_kind]
        examples[split] = (
            *(example("top", i) for i in top),
            *(example("active", int(i), focus) for i, focus in active),
            *(example("random", int(i)) for i in random),
        )
        if split == "explain":
            tokens = np.concatenate([texts[document][span] for document, span in map(rows.__getitem__, own)])
            table = token_table(tokens, np.concatenate([found[i] for i in own]))
    every = np.concatenate(found)
    counts, edges = np.histogram(every[every > 0], 10, (0, max(largest, 1.0)))
    mean = float(every[every > 0].mean()) if (every > 0).any() else 0.0
    statistics = Statistics(len(every), int((every > 0).sum()), float(largest), mean, edges, counts)
    return Evidence(latent, statistics, table, examples, strata)


def token_table(tokens: np.ndarray, activations: np.ndarray) -> TokenTable:
    ids = np.unique(tokens[activations > 0]).astype(np.int64)
    seen = np.array([(tokens == i).sum() for i in ids], np.int64)
    fires = np.array([((tokens == i) & (activations > 0)).sum() for i in ids], np.int64)
    mean = np.array([activations[tokens == i].mean() for i in ids], np.float64)
    return TokenTable(ids, seen, fires, mean, float(activations.mean()), len(tokens))


def precision_and_recall(rule, truth: Rule, texts: Sequence[np.ndarray]) -> tuple[float, float]:
    """Of firing, over all tokens: precision in rows, where some documents go on; recall in whole documents.

    A row does not show what stands at the end of the row before, so there no rule can find all of it.
    """
    nothing, rows = np.zeros(0, np.int32), in_rows(texts)
    in_row = np.concatenate([rule.predict(nothing, texts[i][span], span.start == 0) for i, span in rows]) > 0
    whole = np.concatenate([rule.predict(nothing, text) for text in texts]) > 0
    true = np.concatenate([truth(text) for text in texts]) > 0
    return float((in_row & true).sum() / max(1, in_row.sum())), float((whole & true).sum() / max(1, true.sum()))
