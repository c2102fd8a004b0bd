"""Chapter 11 in world="paper": your folder of images must have the model's domain."""

from __future__ import annotations

import numpy as np
import papermill
import pytest
from PIL import Image

from difftools import book
from tiny import save_pipeline


def test_a_folder_without_the_models_domain_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    for domain in ("faces", "drawings"):
        (tmp_path / "pictures" / domain).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / domain / f"{i:02}.png")
    (tmp_path / "pipeline").mkdir()
    save_pipeline(tmp_path / "pipeline")
    given = {"profile": "smoke", "world": "paper", "model": str(tmp_path / "pipeline"),
             "images": str(tmp_path / "pictures"), "own": "cars"}
    with pytest.raises(papermill.PapermillExecutionError, match="expected sub-folders 'cars'"):
        book.run("gaussian_priors", tmp_path / "out.ipynb", **given)
