"""Training text out of the `sae-probes` wheel, kept apart from the text that anything is judged on.

Held out are the default evaluation corpus (AG News) and, of the mixture itself, every document whose hash says so. A
training document that shares 13 words in a row with any of them is dropped.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jsaeval.cache import SAE_PROBES
from jsaeval.corpus.documents import Documents, ag_news, probe_task


# Tasks of the wheel whose texts are English prose, and how many characters to take of each.
PROSE = {
    "97_news_class": 2_000_000,
    "100_news_fake": 1_800_000,
    "45_context_ans": 700_000,
    "48_cm_correct": 700_000,
    "94_ai_gen": 700_000,
    "56_wikidatasex_or_gender": 700_000,
    "111_yelp_data": 500_000,
    "98_cancer_cat": 300_000,
}
MORE_PROSE = {
    "97_news_class": 4_000_000,
    "100_news_fake": 6_000_000,
    "45_context_ans": 8_000_000,
    "94_ai_gen": 10_000_000,
    "48_cm_correct": 4_000_000,
    "49_cm_isshort": 3_000_000,
    "111_yelp_data": 4_000_000,
    "101_disease_class": 2_000_000,
    "98_cancer_cat": 1_000_000,
    "56_wikidatasex_or_gender": 2_000_000,
    "57_wikidatais_alive": 2_000_000,
    "59_wikidata_occupation_isjournalist": 1_000_000,
    "60_wikidata_occupation_isathlete": 1_000_000,
    "157_amazon_5star": 1_500_000,
}
SHINGLE = 13
# One document in so many of the mixture is held out.
HELD_OUT = 50


@dataclass(frozen=True)
class Split:
    """Documents to train on, and documents of the same kind that no training document overlaps."""

    train: Documents
    held_out: Documents


def split(mixture: Mapping[str, int], seed: int = 0) -> Split:
    """The two parts of a mixture; nothing is read yet.

    Args:
        mixture: task → characters to take of it.
        seed: of the choice and the order of the documents.
    """
    identity = f"{SAE_PROBES.sha256}/training-text-1/{seed}/{sorted(mixture.items())}/{SHINGLE}/{HELD_OUT}"
    return Split(
        Documents("training text", f"{identity}/train", lambda: _documents(mixture, seed, held_out=False)),
        Documents("held-out text", f"{identity}/held-out", lambda: _documents(mixture, seed, held_out=True)),
    )


def _documents(mixture: Mapping[str, int], seed: int, held_out: bool) -> Iterator[str]:
    chosen, judged = {}, {}
    for task, budget in mixture.items():
        texts = probe_task(task)["prompt"].astype(str).drop_duplicates().tolist()
        random.Random(seed).shuffle(texts)
        for text in texts:
            if budget <= 0:
                break
            (judged if _is_held_out(text) else chosen).setdefault(text)
            budget -= len(text)
    if not held_out:
        forbidden = {shingle for text in (*ag_news(), *judged) for shingle in shingles(text)}
        judged = {text: None for text in chosen if forbidden.isdisjoint(shingles(text))}
        print(f"{len(judged)} training documents; {len(chosen) - len(judged)} left out: they overlap held-out text")
    texts = list(judged)
    random.Random(seed).shuffle(texts)
    return iter(texts)


def _is_held_out(text: str) -> bool:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % HELD_OUT == 0


def shingles(text: str) -> set[tuple[str, ...]]:
    """All runs of `SHINGLE` words, or the whole text where it is shorter."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
