"""Every chapter runs with other parameters than the recorded ones, and says so."""

import pytest

from difftools import book
from difftools.claims import line

CHAPTERS = book.chapters()


def test_there_are_chapters():
    assert CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_smoke_profile_with_another_seed_reports_and_does_not_crash(chapter, tmp_path):
    seed = book.settings(chapter)["seed"] + 1
    given = book.run(chapter, tmp_path / "out.ipynb", profile="smoke", seed=seed)
    lines = [line(record) for record in given if record["kind"] == "check"]
    assert lines and all("not compared (parameters differ" in text for text in lines)
    assert given[-1]["kind"] == "trial" and given[-1]["parameters"]["seed"] == seed


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_an_unknown_parameter_is_refused_before_anything_runs(chapter, tmp_path):
    with pytest.raises(ValueError, match="has no parameter 'sede'; it has .*seed"):
        book.run(chapter, tmp_path / "out.ipynb", sede=1)
    assert not list(tmp_path.iterdir())
