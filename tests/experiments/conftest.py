"""Experiments are written as users write: with JAX's own promotion rules."""

import jax
import pytest


@pytest.fixture(autouse=True)
def usual_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
