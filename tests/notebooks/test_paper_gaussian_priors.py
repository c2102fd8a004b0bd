"""Chapter 11 in world="paper": your folder of images must have the model's domain."""

from __future__ import annotations

import papermill
import pytest

from difftools import book
from tiny import save_pictures, save_pipeline


def test_a_folder_without_the_models_domain_is_refused(tmp_path):
    for seed, domain in enumerate(("faces", "drawings")):
        save_pictures(tmp_path / "pictures" / domain, 8, seed)
    save_pipeline(tmp_path / "pipeline")
    given = {"profile": "smoke", "world": "paper", "model": str(tmp_path / "pipeline"),
             "images": str(tmp_path / "pictures"), "own": "cars"}
    with pytest.raises(papermill.PapermillExecutionError, match="expected sub-folders 'cars'"):
        book.run("gaussian_priors", tmp_path / "out.ipynb", **given)
