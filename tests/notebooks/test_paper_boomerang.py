"""Chapter 12 in world="paper": your model, your folder of classes, at the model's size, your prompt."""

from __future__ import annotations

import os

import papermill
import pytest

from difftools import book
from tiny import save_pictures, save_stable_diffusion

READER = """
import types
import torch


class CLIPTokenizer:
    model_max_length = 5

    @classmethod
    def from_pretrained(cls, path):
        return cls()

    def __call__(self, texts, **how):
        return types.SimpleNamespace(input_ids=torch.tensor([[len(t)] * 5 for t in texts]))


class CLIPTextModel(CLIPTokenizer):
    def eval(self):
        return self

    def __call__(self, ids):
        return (torch.sin(ids[..., None] * torch.arange(1.0, 13)),)
"""


@pytest.fixture()
def paper(place):
    """A pipeline of 32 px and two classes of pictures."""
    for seed, name in enumerate(("faces", "drawings")):
        save_pictures(place / "pictures" / name, 10, seed)
    return {"profile": "smoke", "world": "paper", "model": str(place / "pipeline"),
            "images": str(place / "pictures")}


def test_your_classes_are_flown_released_and_trained_on(paper, tmp_path, monkeypatch):
    """The whole chapter on a tiny Stable Diffusion that is told a prompt, with a stand-in of the
    package that reads prompts.
    """
    (tmp_path / "packages" / "transformers").mkdir(parents=True)
    (tmp_path / "packages" / "transformers" / "__init__.py").write_text(READER)
    places = [str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in places if p))
    paper["model"] = str(save_stable_diffusion(tmp_path / "sd"))
    few = {"n_images": 4, "n_sets": 8, "n_each": 4, "n_seeds": 2, "train_steps": 2, "draws": 9}
    entries = book.run("boomerang", **paper | few, prompt="a person")
    pieces = {e["piece"] for e in entries if e["kind"] == "evidence" and e["world"] == "P"}
    assert {"B-LOCAL/law", "B-PRIVACY/found", "B-AUG/small", "B-SR/psnr"} <= pieces
    verdicts = {e["claim"] for e in entries if e["kind"] == "verdict" and e["world"] == "P"}
    assert verdicts == {"B-LOCAL", "B-DIVERSE", "B-PLUG", "B-PRIVACY", "B-AUG", "B-SR"}
    results = tmp_path / "cache" / "results" / "paper"
    assert (results / "boomerang_trained.csv").is_file()
    assert "sd, 'a person', guidance 7.5, " in (results / "boomerang_closeness.json").read_text()


def test_a_folder_with_one_class_is_refused(paper, tmp_path):
    alone = paper | {"images": str(tmp_path / "pictures" / "faces")}
    with pytest.raises(papermill.PapermillExecutionError, match="two sub-folders or more"):
        book.run("boomerang", tmp_path / "out.ipynb", **alone)
