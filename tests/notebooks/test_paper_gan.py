"""Chapters that put GANs on trial walk their world="paper" path with a tiny official checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import gan_files as files
from difftools import book, zoo
from tiny import save_pipeline


@pytest.fixture()
def paper(tmp_path, monkeypatch):
    """A pipeline, an imported StyleGAN2 of 16 px and a folder of pictures, as a reader has them."""
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    config = {"family": "stylegan2", "g": files.TINY, "d": files.CRITIC}
    gan = zoo.import_official(
        "stylegan2", files.nvidia(tmp_path / "a.pkl", files.generator(1)), "stylegan2-ffhq256",
        config)
    rng = np.random.default_rng(0)
    for domain in ("in-domain", "drawings", "toys"):
        (tmp_path / "pictures" / domain).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / domain / f"{i}.png")
    (tmp_path / "pipeline").mkdir()
    save_pipeline(tmp_path / "pipeline")
    yield {"world": "paper", "model": str(tmp_path / "pipeline"), "gan": gan,
           "gan_images": str(tmp_path / "pictures")}
    zoo.model.cache_clear()


def test_holes_of_your_own_gan_are_judged_in_world_p(paper, tmp_path):
    entries = book.run("prior_holes", profile="smoke", **paper)
    given = [e for e in entries if e.get("piece") == "R-HOLE/gan-certificate"]
    assert [e["world"] for e in given] == ["P"]
    table = tmp_path / "cache" / "results" / "prior_holes.csv"
    assert table.is_file() and "drawings" in table.read_text()
    assert any(e["kind"] == "verdict" and e["claim"] == "R-HOLE" for e in entries)


def test_without_a_gan_the_chapter_says_that_it_is_not_run(paper, tmp_path):
    paper |= {"gan": "", "gan_images": ""}
    out = tmp_path / "out.ipynb"
    entries = book.run("prior_holes", out, profile="smoke", **paper)
    assert not [e for e in entries if e.get("piece") == "R-HOLE/gan-certificate"]
    verdict = next(e for e in entries if e["kind"] == "verdict" and e["claim"] == "R-HOLE")
    assert verdict["verdict"] in ("inconclusive", "pending")
    assert "GANs are not run" in out.read_text()
