"""What tests of servers share."""

import pytest

from jsaeval.autointerp.server.client import Server
from jsaeval.lm.load import load_lm, load_tokenizer
from tests.autointerp.server.fake_server import running


SECRET = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A key that must not be seen anywhere, and no proxy."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def fake():
    with running() as server:
        yield server


@pytest.fixture
def connect(tmp_path):
    """Makes a `Server` that waits for nothing and keeps its answers in the folder of the test."""

    def make(fake, **how):
        return Server(fake.url, **({"model": "small", "backoff": 0.001, "folder": tmp_path / "answers"} | how))

    return make


@pytest.fixture(scope="session")
def tokenizer():
    """Of the LM `tiny`."""
    return load_tokenizer(load_lm("tiny"))
