"""The LM that ships: small, whole, and better than a trigram model by its own record."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsaeval
from jsaeval.lm.load import SHIPPED, load_lm, load_tokenizer
from jsaeval.sae.load import shipped_path


@pytest.fixture(scope="module")
def lm():
    return load_lm("tiny")


def test_size(lm):
    assert sum(w.size for w in jax.tree.leaves(lm)) < 2_000_000
    folder = Path(jsaeval.__file__).parent / "lm" / "shipped" / SHIPPED["tiny"]
    size = sum(path.stat().st_size for path in folder.iterdir()) + shipped_path("tiny").stat().st_size
    assert size < 5_000_000


def test_it_has_learned_the_language(lm):
    """Its loss on a sentence is far below that on the same tokens in random order, and its record says by how much."""
    tokenizer = load_tokenizer(lm)
    text = "The president said on Tuesday that the company would not be able to pay its workers until next year."
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text and tokenizer.bos == tokenizer.eos == 0

    def loss(ids):
        tokens = jnp.asarray([[0, *ids]], jnp.int32)
        final = lm.final(lm.run(lm.embed(tokens), 0, lm.n_blocks)[0])
        log_p = jax.nn.log_softmax(final[0, :-1] @ lm.unembedding.T)
        return -float(jnp.take_along_axis(log_p, tokens[0, 1:, None], axis=1).mean())

    shuffled = np.random.default_rng(0).permutation(ids)
    assert loss(ids) < 4.5 and loss(ids) < loss(shuffled) - 2
    folder = Path(lm.card.source)
    made = json.loads((folder / "training.json").read_text())
    for name, value in made["loss"].items():
        assert value < made["trigram"][name], name
