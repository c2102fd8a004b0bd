"""Every chapter's ``world="paper"`` path, walked with a tiny pipeline in the official layout.

Only size, not code, separates this run from one with an official checkpoint.
"""

from __future__ import annotations

import pytest

from difftools import book
from tiny import save_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder as `hf download google/ddpm-cifar10-32` leaves it, with a few thousand weights."""
    folder = tmp_path_factory.mktemp("pipeline")
    save_pipeline(folder)
    return folder


@pytest.mark.parametrize("chapter", book.chapters() or ["no chapter"])
def test_the_paper_path_runs_and_judges_in_world_p(chapter, pipeline):
    entries = book.run(chapter, profile="smoke", world="paper", model=str(pipeline))
    worlds = {e["world"] for e in entries if e["kind"] == "evidence"}
    assert "P" in worlds and "E" not in worlds
    assert any(e["kind"] == "verdict" for e in entries)
