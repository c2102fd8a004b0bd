"""The built book. These tests read _build/html: run `make book` first, as `make test` does."""

from pathlib import Path

import pytest

HTML = Path(__file__).parents[2] / "_build" / "html"


def built_pages() -> list[str]:
    """Every page of the book, as a path below _build/html."""
    pages = (file.relative_to(HTML) for file in HTML.rglob("*.html"))
    return sorted(page.as_posix() for page in pages if page.parts[0] != "_static")


def pytest_generate_tests(metafunc):
    """A test that asks for `page` runs for every page; without a book it runs once and fails."""
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", built_pages() or ["index.html"])


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book."""
    if not (HTML / "index.html").is_file():
        pytest.fail("there is no book in _build/html: run `make book` first", pytrace=False)
    return HTML


@pytest.fixture(scope="session")
def chapters(html) -> list[str]:
    """The pages made of notebooks."""
    pages = [page for page in built_pages() if page.startswith("notebooks/")]
    assert pages, "the book has no chapters"
    return pages
