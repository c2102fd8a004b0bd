"""Chapter 10 in world="paper": your model, your GAN for the rivals, your folders of images."""

from __future__ import annotations

import papermill
import pytest

import gan_files as files
from difftools import book
from tiny import save_pictures


@pytest.fixture()
def paper(place):
    """A pipeline of 32 px, an imported StyleGAN2 of 16 px and a folder of one target."""
    save_pictures(place / "pictures" / "drawings", 32)
    return {"profile": "smoke", "world": "paper", "model": str(place / "pipeline"),
            "gan": files.imported(place), "images": str(place / "pictures"), "gan_steps": 1,
            "learner_iterations": 1}


def test_your_ten_images_and_the_rivals_are_judged_in_world_p(paper, tmp_path):
    entries = book.run("few_shot", **paper)
    pieces = {e["piece"] for e in entries if e["kind"] == "evidence" and e["world"] == "P"}
    assert {"R-FEW/near", "R-FEW/above", "R-FEW/gap-noise", "R-FEW/over-copies", "R-FEW/new",
            "R-DIVERSE/diverse", "R-DIVERSE/fade-quality"} <= pieces
    verdicts = {(e["claim"], e["world"]) for e in entries if e["kind"] == "verdict"}
    assert verdicts == {("R-FEW", "P"), ("R-DIVERSE", "P")}
    table = tmp_path / "cache" / "results" / "paper" / "few_shot.csv"
    assert table.is_file() and "drawings" in table.read_text()


def test_a_gan_that_is_not_here_is_named(paper, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="biggan-deep|is not on this|Get "):
        book.run("few_shot", tmp_path / "out.ipynb", **paper | {"gan": "stylegan2-config-f256"})
