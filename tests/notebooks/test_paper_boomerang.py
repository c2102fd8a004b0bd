"""Chapter 12 in world="paper": your model, your folder of classes, at the model's size."""

from __future__ import annotations

import numpy as np
import papermill
import pytest
from PIL import Image

from difftools import book, zoo
from tiny import save_pipeline


@pytest.fixture()
def paper(tmp_path, monkeypatch):
    """A pipeline of 32 px and two classes of pictures."""
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    rng = np.random.default_rng(0)
    for name in ("faces", "drawings"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i:02}.png")
    (tmp_path / "pipeline").mkdir()
    save_pipeline(tmp_path / "pipeline")
    yield {"profile": "smoke", "world": "paper", "model": str(tmp_path / "pipeline"),
           "images": str(tmp_path / "pictures")}
    zoo.model.cache_clear()


def test_your_classes_are_flown_released_and_trained_on(paper, tmp_path):
    entries = book.run("boomerang", **paper)
    pieces = {e["piece"] for e in entries if e["kind"] == "evidence" and e["world"] == "P"}
    assert {"B-LOCAL/law", "B-PRIVACY/found", "B-AUG/small", "B-SR/psnr"} <= pieces
    verdicts = {e["claim"] for e in entries if e["kind"] == "verdict" and e["world"] == "P"}
    assert verdicts == {"B-LOCAL", "B-DIVERSE", "B-PLUG", "B-PRIVACY", "B-AUG", "B-SR"}
    assert (tmp_path / "cache" / "results" / "paper" / "boomerang_trained.csv").is_file()


def test_a_folder_with_one_class_is_refused(paper, tmp_path):
    alone = paper | {"images": str(tmp_path / "pictures" / "faces")}
    with pytest.raises(papermill.PapermillExecutionError, match="two sub-folders or more"):
        book.run("boomerang", tmp_path / "out.ipynb", **alone)
