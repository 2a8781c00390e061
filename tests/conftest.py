"""Strict JAX for every test: eight fake devices, no implicit dtype or rank promotion. Warnings are errors."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_lm, tiny_sae


jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the suite's time is compilation. Programs as users get them run in the tests that start a process.
jax.config.update("jax_disable_most_optimizations", True)
# Programs compiled so and read back from the disk gave wrong numbers, or crashed (jax 0.10.2, CPU). The folder is named
# all the same, so that nothing that a test calls chooses another.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "programs"))
jax.config.update("jax_enable_compilation_cache", False)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """What a file compiled is dropped at its end. Kept, it slows down garbage collection, and gigabytes pile up."""
    yield
    jax.clear_caches()


@pytest.fixture
def plain_pictures(monkeypatch):
    """Figures of reports are not drawn, which takes seconds: for tests that look at something else."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, buffer, **_: buffer.write('<svg viewBox="0 0 1 1"></svg>'))


@pytest.fixture(scope="session")
def lm():
    """A random decoder of 3 blocks."""
    return tiny_lm()


@pytest.fixture(scope="session")
def sae():
    """A random relu SAE at block 1 of `lm`."""
    return tiny_sae()


@pytest.fixture(scope="session")
def tokens():
    """Six rows of 20 tokens that begin with BOS (1) and hold no other special token."""
    rows = np.random.default_rng(0).integers(3, 50, (6, 20)).astype(np.int32)
    rows[:, 0] = 1
    return jnp.asarray(rows)
