import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.corpus.masks import make_masks


TOKENS = np.array(
    [
        [1, 5, 6, 2, 7, 8],  # EOS inside
        [5, 5, 6, 0, 0, 0],  # padded at the end
        [1, 0, 6, 7, 2, 0],  # a pad token inside is not padding, the last one is
    ],
    np.int32,
)


@pytest.mark.parametrize("traced", [False, True])
def test_masks(traced):
    make = lambda t: make_masks(t, (0, 1, 2), 0)  # noqa: E731
    masks = jax.jit(make)(jnp.asarray(TOKENS)) if traced else make(TOKENS)
    np.testing.assert_array_equal(masks.valid, [[1] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(masks.metric, [[0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(masks.splice, masks.metric)


def test_all_and_separate_choices():
    masks = make_masks(TOKENS, (0, 1, 2), 0, metric="all")
    np.testing.assert_array_equal(masks.metric, masks.valid)
    masks = make_masks(TOKENS, (0, 1, 2), 0, metric="no-special", splice="all")
    np.testing.assert_array_equal(masks.splice, masks.valid)
    assert masks.metric.sum() < masks.splice.sum()


def test_without_a_tokenizer_only_position_0_is_left_out():
    masks = make_masks(TOKENS)
    assert masks.valid.all()
    np.testing.assert_array_equal(masks.metric, np.arange(6)[None] + np.zeros((3, 1)) > 0)
