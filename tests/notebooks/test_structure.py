"""Every committed chapter obeys every rule of `structure`."""

import pytest

from difftools import book
from difftools.provenance import ROOT
from notebooks import structure


def test_the_book_has_notebooks_and_a_current_scoreboard():
    assert not structure.book_problems(ROOT)


def test_the_front_page_shows_the_recorded_figure():
    chapter, name, place = book.FRONT
    assert (ROOT / place).read_bytes() == book.figure(book.read(chapter), name)


@pytest.mark.parametrize("rule", structure.RULES)
@pytest.mark.parametrize("chapter", book.chapters())
def test_chapter(chapter, rule):
    assert not structure.RULES[rule](ROOT, chapter, book.read(chapter))
