import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def optimised():
    """These tests compare with oracles to the last digits that float32 has; programs that users run have them."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
