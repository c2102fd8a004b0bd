"""Chapter 7 in world="paper": your model, your GAN, your folders of images, at the models' sizes."""

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
    """A pipeline of 32 px, an imported StyleGAN2 of 16 px and two folders of pictures."""
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    config = {"family": "stylegan2", "g": files.TINY, "d": files.CRITIC}
    gan = zoo.import_official(
        "stylegan2", files.nvidia(tmp_path / "a.pkl", files.generator(1)), "stylegan2-ffhq256",
        config)
    rng = np.random.default_rng(0)
    for domain in ("faces", "drawings"):
        (tmp_path / "pictures" / domain).mkdir(parents=True)
        for i in range(14):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / domain / f"{i:02}.png")
    (tmp_path / "pipeline").mkdir()
    save_pipeline(tmp_path / "pipeline")
    yield {"profile": "smoke", "world": "paper", "model": str(tmp_path / "pipeline"), "gan": gan,
           "images": str(tmp_path / "pictures"), "own": "faces"}
    zoo.model.cache_clear()


def test_roads_of_your_own_systems_are_judged_in_world_p(paper, tmp_path):
    entries = book.run("geodesics", **paper)
    pieces = {e["piece"] for e in entries if e["kind"] == "evidence" and e["world"] == "P"}
    assert {"R-A1/over-lerp", "R-GRAD/monotone", "R-GANPATH/w-loses",
            "R-GANPATH/difference-ood"} <= pieces
    verdicts = {(e["claim"], e["world"]) for e in entries if e["kind"] == "verdict"}
    assert {(c, "P") for c in ("R-A1", "R-GRAD", "R-GANPATH")} <= verdicts
    table = tmp_path / "cache" / "results" / "paper" / "geodesics_pairs.csv"
    assert table.is_file() and "drawings" in table.read_text()


def test_a_folder_without_the_models_domain_is_refused(paper, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="expected sub-folders 'cars'"):
        book.run("geodesics", tmp_path / "out.ipynb", **paper | {"own": "cars"})
