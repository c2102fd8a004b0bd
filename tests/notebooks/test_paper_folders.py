"""Chapter 4 in world="paper": your folders in place of the book's sets, at the model's size."""

from __future__ import annotations

import numpy as np
import papermill
import pytest
from PIL import Image

from difftools import book
from tiny import save_pipeline


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """A pipeline, a folder of the model's own domain and two of others, as a reader has them."""
    place, rng = tmp_path_factory.mktemp("paper"), np.random.default_rng(0)
    for name, low, count in (("faces", 0, 40), ("drawings", 128, 20), ("toys", 64, 20)):
        (place / name).mkdir()
        for i in range(count):
            pixels = rng.integers(low, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{i}.png")
    save_pipeline(place / "pipeline")
    return {"profile": "smoke", "world": "paper", "model": str(place / "pipeline"),
            "in_domain": str(place / "faces"), "far": str(place / "toys"),
            "unseen": [str(place / "drawings"), str(place / "toys")]}


def test_out_of_distribution_judges_your_folders_in_world_p(paper, tmp_path):
    entries = book.run("out_of_distribution", tmp_path / "out.ipynb", **paper)
    pieces = {e["piece"] for e in entries if e["kind"] == "evidence" and e["world"] == "P"}
    assert {"R-PAD/unseen", "R-PAD/same-set", "R-PAD/invisible", "R-PAD/classifier"} <= pieces
    verdicts = {(e["claim"], e["world"]) for e in entries if e["kind"] == "verdict"}
    assert ("R-PAD", "P") in verdicts
    assert "drawings" in (tmp_path / "out.ipynb").read_text()


def test_out_of_distribution_says_what_to_download(paper, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="Download .*ffhq-dataset"):
        book.run("out_of_distribution", tmp_path / "out.ipynb", **paper | {"in_domain": "ffhq"})
    assert not (tmp_path / "out.ipynb").exists()
