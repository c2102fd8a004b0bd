"""Chapter 8 in world="paper": your pictures in place of the book's, and what to download."""

from __future__ import annotations

import numpy as np
import papermill
import pytest
from PIL import Image

from difftools import book
from tiny import save_pipeline


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """A pipeline and a folder of eight pictures, as a reader has them."""
    place, rng = tmp_path_factory.mktemp("paper"), np.random.default_rng(0)
    (place / "pictures").mkdir()
    for i in range(8):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "pictures" / f"{i}.png")
    save_pipeline(place / "pipeline")
    return {"profile": "smoke", "world": "paper", "model": str(place / "pipeline"),
            "images": str(place / "pictures")}


def test_your_pictures_are_edited_and_judged_in_world_p(paper, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    entries = book.run("parallelism", **paper)
    pieces = {e["piece"] for e in entries if e["kind"] == "evidence" and e["world"] == "P"}
    assert {"R-PAR/as-printed", "R-GLOBAL/every-edit", "R-LINEAR/graded",
            "R-LINEAR/reached", "R-LINEAR/graded-true-shift"} <= pieces
    table = (tmp_path / "cache" / "results" / "own" / "parallelism_angles.csv").read_text()
    assert "the given model" in table and "sunglasses" not in table


def test_a_checkpoint_that_is_missing_is_named(paper, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    with pytest.raises(papermill.PapermillExecutionError, match="not on this machine. Get"):
        book.run("parallelism", **paper | {"model": "dae-ffhq256"})
