"""Chapters that put GANs on trial walk their world="paper" path with a tiny official checkpoint."""

from __future__ import annotations

import pytest

import gan_files as files
from difftools import book
from tiny import save_pictures


@pytest.fixture()
def paper(place):
    """A pipeline, an imported StyleGAN2 of 16 px and a folder of pictures, as a reader has them."""
    for seed, domain in enumerate(("in-domain", "drawings", "toys")):
        save_pictures(place / "pictures" / domain, 4, seed)
    return {"world": "paper", "model": str(place / "pipeline"), "gan": files.imported(place),
            "gan_images": str(place / "pictures")}


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
