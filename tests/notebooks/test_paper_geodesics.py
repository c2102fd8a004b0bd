"""Chapter 7 in world="paper": your model, your GAN, your folders of images, at the models' sizes."""

from __future__ import annotations

import papermill
import pytest

import gan_files as files
from difftools import book
from tiny import save_pictures


@pytest.fixture()
def paper(place):
    """A pipeline of 32 px, an imported StyleGAN2 of 16 px and two folders of pictures."""
    for seed, domain in enumerate(("faces", "drawings")):
        save_pictures(place / "pictures" / domain, 14, seed)
    return {"profile": "smoke", "world": "paper", "model": str(place / "pipeline"),
            "gan": files.imported(place), "images": str(place / "pictures"), "own": "faces"}


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
