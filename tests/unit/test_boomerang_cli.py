"""`difftools boomerang` as a user meets it: what it writes and refuses, nothing half-written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import command_line
from command_line import photos_in
from difftools import boomerang, boomerang_files, images, zoo
from difftools.images import to_uint8


def call(capsys, *argv):
    """(exit status, stdout, stderr) of `difftools boomerang ARGV`."""
    return command_line.call(capsys, "boomerang", *argv)


@pytest.fixture
def photos(tmp_path):
    return photos_in(tmp_path / "photos", 2)


def test_help_teaches(capsys):
    status, out, _ = call(capsys, "--help")
    assert status == 0 and "Share of the noise schedule" in out and "photo.png --t 0.4 -n 8" in out


def test_it_writes_sheets_latents_and_a_report(capsys, photos, tmp_path):
    out = tmp_path / "out"
    how = ("--steps", 3, "-n", 3, "--seed", 4, "--json")
    status, text, _ = call(capsys, photos, "--out", out, *how)
    shown = json.loads(text)
    assert status == 0 and shown == json.loads((out / "report.json").read_text())
    assert [r["image"] for r in shown["images"]] == ["animal0.png", "animal1.png"]
    assert shown["level"]["time"] == pytest.approx(399.6) and shown["evaluations"] == 4
    m, x = zoo.load("ddpm-vehicles32"), images.read(photos)
    back = boomerang.runs(m, x, 0.4, 3, 4, steps=3)
    written = [np.asarray(Image.open(p)) for p in sorted((out / "returned").iterdir())]
    np.testing.assert_array_equal(
        np.stack(written), to_uint8(back.transpose(0, 1).flatten(0, 1).clamp(-1, 1)))
    assert shown["images"][1]["distance"] == pytest.approx(
        float((back[:, 1] - x[1]).square().mean()), abs=1e-5)
    error = boomerang.denoised_error(m, x, 0.4, [4, 5])
    assert [r["twice_error"] for r in shown["images"]] == pytest.approx(2 * error, abs=1e-5)
    assert {*shown["columns"], "image"} == set(shown["images"][0])
    saved = load_file(out / "latents.safetensors")
    assert saved["noised"].shape == (3, 2, 3, 32, 32) and saved["seeds"].tolist()[2] == [8, 9]
    nodes = boomerang.way_down(m.denoiser.schedule, 0.4, 3)
    states = m.forward_noise(x, [8, 9], nodes[0])
    torch.testing.assert_close(saved["noised"][2], states)
    assert Image.open(out / "sheet.png").size == (4 * 129 - 1, 2 * 129 - 1)


def test_it_says_what_t_means(capsys, photos, tmp_path):
    how = ("--steps", 2, "-n", 1, "--t", 0.5)
    status, text, _ = call(capsys, photos, "--out", tmp_path / "a", *how)
    assert status == 0 and "log-SNR -1.23" in text and "animal0.png" in text
    assert "between_runs" in text and (tmp_path / "a" / "sheet.png").is_file()


@pytest.mark.parametrize("model, parts", [
    ("dae-vehicles32", {"noised": (1, 2, 3, 32, 32), "semantic": (2, 64)}),
    ("ldm-vehicles32", {"noised": (1, 2, 3, 16, 16)}),
])
def test_every_system_leaves_its_own_latents(capsys, photos, tmp_path, model, parts):
    out = tmp_path / "out"
    argv = ("--out", out, "--model", model, "--steps", 2, "-n", 1)
    assert call(capsys, photos, *argv)[0] == 0
    saved = load_file(out / "latents.safetensors")
    assert {k: tuple(v.shape) for k, v in saved.items() if k != "seeds"} == parts
    rows = json.loads((out / "report.json").read_text())["images"]
    assert all(("twice_error" in r) == (model == "dae-vehicles32") for r in rows)


@pytest.mark.parametrize("argv, says", [
    (["--t", "0"], "above 0 and at most 1, got 0: t = 0 is the image itself"), (["--t", "1.5"], "got 1.5"),
    (["--eta", "2"], "2.0 is not in the range"), (["-n", "0"], "0 is not in the range"),
    (["--model", "stylegan2-vehicles32"], "is no diffusion model"),
    (["--model", "ddpm-vehicles"], "known: ddpm-vehicles32"),
    (["--model", ".", "--prompt", "cat"], "is no folder of Stable Diffusion"),
])
def test_bad_settings_are_one_clear_line_and_status_2(capsys, photos, tmp_path, argv, says):
    status, _, err = call(capsys, photos, "--out", tmp_path / "out", *argv)
    assert status == 2 and says in err and "Traceback" not in err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_bad_images_are_refused_before_anything_is_written(capsys, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    status, _, err = call(capsys, tmp_path / "notes.png", "--out", tmp_path / "out")
    assert status == 2 and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_it_never_overwrites(capsys, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    status, _, err = call(capsys, photos, "--out", tmp_path / "out")
    assert status == 2 and "not an empty folder" in err
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_a_failure_on_the_way_leaves_nothing(photos, tmp_path, monkeypatch):
    def full(*given):
        raise OSError("no space left")

    monkeypatch.setattr(boomerang_files, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        boomerang_files.boomerang_files(photos, tmp_path / "out", "ddpm-vehicles32", n=1, steps=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]
