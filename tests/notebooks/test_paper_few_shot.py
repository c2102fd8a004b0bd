"""Chapter 10 in world="paper": your model, your GAN for the rivals, your folders of images."""

from __future__ import annotations

import numpy as np
import papermill
import pytest
from PIL import Image

import gan_files as files
from difftools import book, zoo
from tiny import save_pipeline


@pytest.fixture()
def paper(tmp_path, monkeypatch):
    """A pipeline of 32 px, an imported StyleGAN2 of 16 px and a folder of one target."""
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    config = {"family": "stylegan2", "g": files.TINY, "d": files.CRITIC}
    gan = zoo.import_official(
        "stylegan2", files.nvidia(tmp_path / "a.pkl", files.generator(1)), "stylegan2-ffhq256",
        config)
    rng = np.random.default_rng(0)
    (tmp_path / "pictures" / "drawings").mkdir(parents=True)
    for i in range(32):
        pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / "drawings" / f"{i:02}.png")
    (tmp_path / "pipeline").mkdir()
    save_pipeline(tmp_path / "pipeline")
    yield {"profile": "smoke", "world": "paper", "model": str(tmp_path / "pipeline"), "gan": gan,
           "images": str(tmp_path / "pictures"), "gan_steps": 1, "learner_iterations": 1}
    zoo.model.cache_clear()


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
