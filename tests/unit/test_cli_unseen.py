"""`difftools unseen` as a user meets it."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from command_line import call, photos_in
from difftools import metrics, unseen, zoo
from difftools.code import Code, noise
from difftools.images import to_uint8
from difftools.unseen_files import _drawn, _judged, _words, unseen_files


@pytest.fixture
def photos(tmp_path):
    return photos_in(tmp_path / "photos", 8)


EXACT = ("--model", "gaussian-vehicles32", "--steps", 6)


def test_unseen_has_help_that_teaches(capsys):
    status, out, _ = call(capsys, "unseen", "--help")
    assert status == 0 and "Usage: difftools" in out and len(out) > 600
    assert all(kind in out for kind in unseen.KINDS)


def test_unseen_writes_samples_that_its_latents_decode_to(capsys, photos, tmp_path):
    out = tmp_path / "out"
    status, text, _ = call(capsys, "unseen", photos, "-n", 3, *EXACT, "--out", out, "--json")
    report = json.loads(text)
    assert status == 0 and report == json.loads((out / "report.json").read_text())
    assert report["images"] == 8 and report["samples"] == 3 and report["kid to your images"] > -1
    assert "draws of the same Gaussian in pixels" in report["in words"]
    saved = load_file(out / "latents.safetensors")["noise"]
    m = zoo.load("gaussian-vehicles32")
    back = unseen.decode(m, Code({"noise": saved}, {"noise": "sphere"}), report["rung"], 6)
    written = [np.asarray(Image.open(p)) for p in sorted((out / "samples").iterdir())]
    np.testing.assert_array_equal(to_uint8(back.clamp(-1, 1)), np.stack(written))
    assert Image.open(out / "sheet.png").size[0] > 8 * 4 * 32
    assert not list(tmp_path.glob(".out*"))


def test_unseen_prints_a_table(capsys, photos, tmp_path):
    argv = ("unseen", photos, "-n", 2, *EXACT, "--fit", "scalar", "--out", tmp_path / "out")
    status, text, _ = call(capsys, *argv)
    assert status == 0 and "draws with the distance of latents" in text and "written to" in text
    assert "the samples: too few images or samples to say" in text and "…" not in text
    assert "NaN" not in (tmp_path / "out" / "report.json").read_text()  # of 2 samples no KID


def test_unseen_says_when_too_few_draws_pass(capsys, photos, tmp_path):
    argv = ("unseen", photos, "-n", 2, *EXACT, "--reject", "--out", tmp_path / "out")
    status, _, err = call(capsys, *argv)
    assert status == 2 and "of 40 draws pass all three properties, 2 were asked for" in err
    assert not (tmp_path / "out").exists()


def test_what_is_kept_has_the_three_properties():
    code = Code({"noise": noise(range(40), (3, 8, 8), "data", torch.float64)},
                {"noise": "sphere"}, tuple(range(40)))
    drawn, report = _drawn(code, 4, "scalar", True, 0)
    z = code["noise"]
    bounds = unseen.windows(unseen.properties(z[20:], z[:10]))
    assert unseen.passes(unseen.properties(drawn["noise"], z[:10]), bounds).all()
    free, more = _drawn(code, 4, "scalar", False, 0)
    assert len(drawn) == len(free) == 4 and report["rejected"] and not more["rejected"]


def test_unseen_is_the_same_again_whatever_the_batch(photos, tmp_path):
    one = unseen_files(photos, tmp_path / "a", "gaussian-vehicles32", 3, steps=6, batch=2)
    two = unseen_files(photos, tmp_path / "b", "gaussian-vehicles32", 3, steps=6, batch=16)
    assert one == pytest.approx(two, abs=1e-3)


def test_the_order_of_files_does_not_make_two_halves():
    x = torch.cat([-torch.ones(12, 3, 32, 32), torch.ones(12, 3, 32, 32)])
    x = x + 0.1 * noise(range(24), (3, 32, 32), "data", torch.float32)
    report = _judged(x[:6].clamp(-1, 1), x[6:12].clamp(-1, 1), x.clamp(-1, 1))
    apart = metrics.kid(*(metrics.features(v.clamp(-1, 1)) for v in x.split(12)))[0]
    assert report["kid between halves of your images"] < apart / 4


def test_a_report_says_in_words_what_its_intervals_say():
    assert _words((0.1, 0.2), (0.3, 0.4)).startswith("nearer")
    assert _words((0.5, 0.6), (0.3, 0.4)).startswith("farther")
    assert _words((0.2, 0.35), (0.3, 0.4)).startswith("not shown")
    assert _words((math.nan, math.nan), (0.3, 0.4)).startswith("too few")


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--model", "ddpm-vehicles"], "known: ddpm-vehicles32"),
        (["--model", "stylegan2-vehicles32"], "has no diffusion inside"),
        (["--fit", "full"], "known: scalar"),
        (["--eta", "2"], "eta must lie in [0, 1]"),
        (["--t-m", "2000"], "t_m must lie in 1 .. 999"),
        (["-n", "0"], "0 is not in the range"),
    ],
)
def test_unseen_refuses_bad_settings(capsys, photos, tmp_path, argv, says):
    status, _, err = call(capsys, "unseen", photos, "--out", tmp_path / "out", *argv)
    assert status == 2 and says in err and "Traceback" not in err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_unseen_refuses_too_few_unreadable_and_missing_images(capsys, photos, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    (photos / "animal0.png").rename(few / "a.png")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "bad.png").write_text("not an image")
    for folder, says in ((few, "a fit needs 4 images or more"), (bad, "bad.png"),
                         (tmp_path / "none", "none")):
        status, _, err = call(capsys, "unseen", folder, "--out", tmp_path / "out")
        assert status == 2 and says in err and len(err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_unseen_never_overwrites(capsys, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    status, _, err = call(capsys, "unseen", photos, *EXACT, "--out", tmp_path / "out")
    assert status == 2 and "not an empty folder" in err
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"
