"""A small study, a rater of it, and Chromium, for the tests that need them."""

import shutil

import pytest

from tests.rating.browser import Person
from tests.rating.studies import make_study, on_disk


@pytest.fixture
def served(tmp_path):
    """A study in a folder, and its store."""
    return on_disk(tmp_path, make_study(6, repeats=0.2, windows=1, length=3))


@pytest.fixture
def person(served):
    """Somebody who has opened a link of it."""
    return Person(served.study, served.store)


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    assert path, "these tests need Chromium"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
