"""N2G beside the algorithm released with Gao et al. 2024, on the same activations of the same latents.

    python experiments/compare_n2g.py --rows 256

A minute and a half on 2 cores. Expected: F1 0.474 against 0.226, difference +0.248 [0.199, 0.296], 0.58 against 0.83 s
a latent.

Both see the same activations of the split `explain`, as many tokens of context, and the same LM. Ours also reads what
that split says of single tokens, and its random windows; the released one has no use for them. What is compared is F1
of firing (rule > 0 against activation > 0) on all counted tokens of the split `score`. `tokens` is the table of single
tokens alone, the floor; `found` leaves out the tokens of ours that no activation was shown of.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

import jsaeval
from jsaeval.autointerp.activations import sparse_activations
from jsaeval.autointerp.choice import choose_latents
from jsaeval.autointerp.evidence import SPLITS, Evidence
from jsaeval.autointerp.explanation import Rule
from jsaeval.autointerp.function import LatentFunction
from jsaeval.autointerp.keeping import token_patterns
from jsaeval.autointerp.n2g import CONTEXT, N2G, shown
from jsaeval.autointerp.sampling import evidence
from jsaeval.autointerp.trie import TrieRule
from jsaeval.autointerp.windows import split_of
from jsaeval.corpus.masks import make_masks
from jsaeval.corpus.rows import text_rows
from jsaeval.hooks import parse_hook
from jsaeval.lm.load import load_tokenizer
from jsaeval.stats.bootstrap import interval, row_counts
from tests.autointerp.released_n2g import released_n2g


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare N2G with the released algorithm."""

    lm: str = "smollm2-135m"
    corpus: str = "ag-news"
    rows: int = 480
    context: int = 128
    latents: str = "50"
    pad: str = " _"
    """What the released algorithm replaces tokens by; its last token."""
    seed: int = 0
    out: Path | None = None


# The tokens of a document in one row, the activations, and whether only BOS stands before them.
Document = tuple[np.ndarray, np.ndarray, bool]


def f1(rule: Rule | None, documents: Sequence[Document]) -> float:
    nothing = np.zeros(0, np.int32)
    said = np.concatenate([rule.predict(nothing, own[0], own[2]) > 0 if rule else own[1] < 0 for own in documents])
    true = np.concatenate([activations > 0 for _, activations, _ in documents])
    return float(2 * (said & true).sum() / max(1, said.sum() + true.sum()))


def main(config: Config) -> None:
    lm, sae = jsaeval.load_lm(config.lm), jsaeval.load_sae(config.lm)
    tokenizer, mesh = load_tokenizer(lm), jsaeval.make_mesh()
    assert tokenizer is not None and sae.card.hook is not None
    hook, rows = parse_hook(sae.card.hook), text_rows(config.corpus, tokenizer, config.rows, config.context)
    masks = make_masks(np.asarray(rows.tokens), lm.card.special_ids, rows.pad)
    (sparse,) = sparse_activations(lm, [sae], hook, rows, masks, mesh=mesh)
    chosen = choose_latents(config.latents, sparse.density, config.seed)
    known = [own for own in evidence(sparse, rows, masks, chosen, config.seed) if own.problem is None]
    function = LatentFunction(lm, sae, hook, mesh=mesh)

    start = time.perf_counter()
    ours = N2G(function, tokenizer.token, seed=config.seed).explain(known)
    middle = time.perf_counter()
    contexts = [
        (own.latent, text[-CONTEXT:], float(example.activations[example.focus]))
        for own in known
        for example, text in shown(own)
    ]
    released = released_n2g(contexts, function.exactly, tokenizer.token, tokenizer.encode([config.pad])[0][-1])
    seconds = {"ours": middle - start, "released": time.perf_counter() - middle}

    documents = _documents(rows, config.seed)
    lines = []
    for own, explanation in zip(known, ours, strict=True):
        entries, dense = sparse.of(own.latent), np.zeros(rows.tokens.shape, np.float32)
        dense[entries.row, entries.position] = entries.value
        held = [
            (np.asarray(rows.tokens[row, a:b], np.int32), dense[row, a:b], begins) for row, a, b, begins in documents
        ]
        found = {
            "ours": explanation.rule,
            "released": released.get(own.latent),
            "tokens": TrieRule(token_patterns(own)),
            "found": _only_shown(explanation.rule, own),
        }
        lines.append({name: f1(rule, held) for name, rule in found.items()} | {"latent": own.latent})
        print(own.latent, {name: round(lines[-1][name], 3) for name in found}, explanation.text or explanation.error)

    counts = row_counts(len(lines), config.seed) / len(lines)
    summary: dict[str, object] = {"seconds a latent": {name: own / len(known) for name, own in seconds.items()}}
    for name in ("ours", "released", "tokens", "found"):
        difference = np.array([line[name] - line["released"] for line in lines])
        summary[name] = {
            "f1": float(np.mean([line[name] for line in lines])),
            "minus released": float(difference.mean()),
            "interval": interval(counts @ difference),
        }
    print(json.dumps(summary, indent=1))
    if config.out is not None:
        config.out.write_text(json.dumps({"summary": summary, "latents": lines}, indent=1))


def _documents(rows, seed: int) -> list[tuple[int, int, int, bool]]:
    """(row, first, end) of every stretch of a document of the split `score`, and whether only BOS stands before it."""
    out = []
    for row, documents in enumerate(np.asarray(rows.documents)):
        edges = [0, *(np.flatnonzero(np.diff(documents)) + 1), len(documents)]
        for a, b in itertools.pairwise(edges):
            if documents[a] >= 0 and SPLITS[split_of(documents[a : a + 1], seed)[0]] == "score":
                out.append((row, int(a), int(b), not (documents[:a] >= 0).any()))
    return out


def _only_shown(rule: Rule | None, evidence: Evidence) -> TrieRule:
    tokens = {int(text[-1]) for _, text in shown(evidence)}
    patterns = rule.patterns if isinstance(rule, TrieRule) else ()
    return TrieRule([own for own in patterns if len(own.tokens) > 1 or own.at_start or set(own.tokens) <= tokens])


if __name__ == "__main__":
    main(tyro.cli(Config))
