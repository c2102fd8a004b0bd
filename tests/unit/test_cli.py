"""The command line as a user meets it: help that teaches, tables and JSON, one clear line on bad
input.
"""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import gan_files
import official_files
from command_line import call, photos_in

from difftools import zoo
from difftools.images import to_uint8


@pytest.fixture
def photos(tmp_path):
    return photos_in(tmp_path / "photos", 2)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["zoo"],
        ["data"],
        ["data", "list"],
        ["data", "fetch"],
        ["data", "import"],
        ["data", "verify"],
        ["train"],
        ["run"],
        ["claims"],
        ["bench"],
        ["invert"],
        ["boomerang"],
    ],
)
def test_every_command_has_help_that_says_more_than_its_name(capsys, command):
    status, out, _ = call(capsys, *command, "--help")
    assert status == 0 and "Usage: difftools" in out and len(out) > 150


@pytest.mark.parametrize(
    "command, key", [(["zoo"], "model"), (["data", "list"], "name"), (["claims"], "id")]
)
def test_tables_are_also_json(capsys, command, key):
    status, out, _ = call(capsys, *command, "--json")
    rows = json.loads(out)
    assert status == 0 and len(rows) > 3 and key in rows[0]
    status, out, _ = call(capsys, *command)
    assert status == 0 and str(rows[0][key]) in out


def test_claims_lists_every_claim_with_a_verdict_in_each_world(capsys):
    rows = json.loads(call(capsys, "claims", "--json")[1])
    names = {r["id"] for r in rows}
    assert {
        "R-PAD",
        "R-INV",
        "R-L1",
        "R-L2.1",
        "R-FEW",
        "Z-RECON",
        "Z-BAND",
        "B-LOCAL",
        "B-OOD",
    } <= names and len(names) >= 40
    assert all(r["verdicts"] and all(r["verdicts"].values()) for r in rows)


def test_invert_writes_latents_that_reconstruct(capsys, photos, tmp_path):
    out = tmp_path / "out"
    status, text, _ = call(capsys, "invert", photos, "--out", out, "--steps", 6, "--json")
    shown = json.loads(text)
    assert [r["image"] for r in shown["images"]] == ["animal0.png", "animal1.png"] and status == 0
    saved = load_file(out / "latents.safetensors")
    assert saved["noise"].shape == (2, 3, 32, 32) and saved["noise"].dtype == torch.float64
    m = zoo.load("ddpm-vehicles32", steps=6)
    from difftools.code import Code

    back = m.decode(
        Code({"noise": saved["noise"]}, {"noise": "sphere"}, tuple(saved["seeds"].tolist()))
    )
    written = np.stack(
        [np.asarray(Image.open(p)) for p in sorted((out / "reconstruction").iterdir())]
    )
    np.testing.assert_array_equal(to_uint8(back), written)
    report = json.loads((out / "report.json").read_text())
    assert report == shown and set(report["white_noise_95"]) == {"norm", "kurtosis", "lag1"}
    assert Image.open(out / "sheet.png").size[0] > 90


def test_invert_lists_the_steppers_that_there_are(capsys):
    from difftools.diffusion.steppers import STEPPERS

    _, text, _ = call(capsys, "invert", "--help")
    assert all(name in text for name in STEPPERS)


def test_train_lists_the_recipes_that_there_are(capsys):
    from difftools.train import NAMES

    _, text, _ = call(capsys, "train", "--help")
    assert all(f"    {name} " in text or f"  {name} " in text for name in NAMES)


@pytest.mark.parametrize("model", ["dae-vehicles32", "ldm-vehicles32", "d2c-vehicles32"])
def test_invert_writes_every_part_of_a_code(capsys, photos, tmp_path, model):
    status, _, _ = call(
        capsys, "invert", photos, "--out", tmp_path / "out", "--model", model, "--steps", 3
    )
    saved = load_file(tmp_path / "out" / "latents.safetensors")
    parts = {"noise", "seeds"} | ({"semantic"} if model.startswith("dae") else set())
    assert status == 0 and set(saved) == parts


@pytest.fixture
def tiny_gan(monkeypatch):
    """A GAN of 8 px in the zoo."""
    from difftools.gan.generator import styled
    from difftools.gan.model import GAN
    from difftools.nets.stylegan2 import StyleGAN2

    def model(module, config):
        net = StyleGAN2((8, 6), z=8, w=8, layers=2)
        return GAN(styled(gan_files.shake(net)))

    monkeypatch.setitem(zoo.MODELS, "tiny-gan", zoo.Entry("StyleGAN2", "E", "tiny", model))
    zoo.model.cache_clear()
    yield "tiny-gan"
    zoo.model.cache_clear()


def test_invert_takes_a_gan(capsys, photos, tmp_path, tiny_gan):
    out = tmp_path / "out"
    given = ["--model", tiny_gan, "--recipe", "w_plus_noise", "--steps", 5, "--json"]
    status, text, _ = call(capsys, "invert", photos, "--out", out, *given)
    report = json.loads(text)
    assert status == 0 and report == json.loads((out / "report.json").read_text())
    assert (report["recipe"], report["steps"]) == ("w_plus_noise", 5)
    assert "stepper" not in report and "white_noise_95" not in report
    row = report["images"][1]
    assert set(row) == {"image", "psnr_db", "ssim", "dof_per_value", "seconds", "evaluations"}
    assert row["dof_per_value"] == round((4 * 8 + 16 + 2 * 64) / 192, 4)
    assert row["evaluations"] == 6 + 5 + 1  # forward, backward, and the reconstruction
    saved = load_file(out / "latents.safetensors")
    seeds = saved.pop("seeds")
    assert set(saved) == {"w_plus", "noise_0", "noise_1", "noise_2"} and seeds.tolist() == [0, 1]
    m = zoo.load(tiny_gan)
    written = [np.asarray(Image.open(p)) for p in sorted((out / "reconstruction").iterdir())]
    np.testing.assert_array_equal(to_uint8(m.decode(m.code(saved))), np.stack(written))
    assert Image.open(out / "sheet.png").size == (4 * (2 * 8 + 1) - 3, 4 * (2 * 8 + 1) - 3)


def test_a_gan_takes_its_recipe_s_steps_up_to_a_thousand(tiny_gan):
    from difftools.invert import settled

    none = dict.fromkeys(("steps", "stepper", "refine", "recipe"))
    steps = {
        r: settled(zoo.load(tiny_gan), "", none | {"recipe": r})[1]["steps"]
        for r in ("pulse", "sphinx")
    }
    assert steps == {"pulse": 100, "sphinx": 1000}
    settings = settled(zoo.load("zero"), "", none)[1]
    assert settings == {"steps": 20, "stepper": "pec", "refine": 0}


def test_invert_lists_the_recipes_that_there_are(capsys):
    from difftools.gan.recipes import RECIPES

    _, text, _ = call(capsys, "invert", "--help")
    named = re.findall(r"\w+", text[text.index("--recipe") :])
    assert set(RECIPES) <= set(named)


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--stepper", "ddim"], "tiny-gan is a GAN, inverted by optimisation: it takes no --step"),
        (["--refine", "1"], "it takes no --refine"),
        (["--recipe", "sphynx"], "unknown recipe 'sphynx'; known: z, w"),
        (["--recipe", "biggan"], "no space e"),
        (["--model", "zero", "--recipe", "w"], "zero is a diffusion model: it takes no --recipe"),
    ],
)
def test_options_of_another_kind_of_model_are_refused(
    capsys, photos, tmp_path, tiny_gan, argv, says
):
    model = [] if "--model" in argv else ["--model", tiny_gan]
    status, _, err = call(capsys, "invert", photos, "--out", tmp_path / "out", *model, *argv)
    assert status == 2 and says in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_import_converts_an_official_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    official_files.openai(tmp_path / "tiny.pt")
    (tmp_path / "tiny.json").write_text(json.dumps(official_files.ADM))
    given = ["--name", "ddpm-ffhq256", "--config", tmp_path / "tiny.json"]
    status, text, _ = call(capsys, "import", "adm", tmp_path / "tiny.pt", *given)
    assert status == 0 and text.startswith("ddpm-ffhq256: ")
    status, _, error = call(capsys, "import", "adm", tmp_path / "tiny.json")
    assert status == 2 and len(error.splitlines()) == 1


def empty_file(folder):
    (folder / "bad.png").write_bytes(b"")
    return folder / "bad.png"


def text_file(folder):
    (folder / "bad.png").write_text("not an image")
    return folder / "bad.png"


def empty_folder(folder):
    (folder / "none").mkdir()
    return folder / "none"


@pytest.mark.parametrize("make", [empty_file, text_file, empty_folder, lambda f: f / "missing.png"])
def test_invert_refuses_bad_images_and_writes_nothing(capsys, tmp_path, make):
    before = make(tmp_path)
    status, _, err = call(capsys, "invert", before, "--out", tmp_path / "out")
    assert status == 2 and len(err.strip().splitlines()) == 1 and "difftools:" in err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--model", "ddpm-vehicles"], "known: ddpm-vehicles32"),
        (["--stepper", "euler"], "known: ddim"),
        (["--steps", "0"], "0 is not in the range"),
        (["--model", "."], "model_index.json"),
    ],
)
def test_invert_refuses_bad_settings(capsys, photos, tmp_path, argv, says):
    status, _, err = call(capsys, "invert", photos, "--out", tmp_path / "out", *argv)
    assert status == 2 and says in err and not (tmp_path / "out").exists()


def test_invert_never_overwrites(capsys, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    status, _, err = call(capsys, "invert", photos, "--out", tmp_path / "out")
    assert (
        status == 2
        and "not an empty folder" in err
        and (tmp_path / "out" / "mine.txt").read_text() == "keep"
    )


@pytest.mark.parametrize(
    "argv, says",
    [
        (["run", "no-such-chapter"], "no chapter"),
        (["run", "inversion", "-p", "n_image=3"], "n_image"),
        (["run", "inversion", "-p", "n_images"], "NAME=VALUE"),
        (["run", "inversion", "-p", "n_images=many"], "must be int"),
        (["data", "fetch", "cifar-10"], "did you mean"),
        (["data", "import", "no/such/archive.tgz"], "does not exist"),
        (["train", "gan"], "ddpm"),
        (["invrt"], "No such command"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(capsys, argv, says):
    status, _, err = call(capsys, *argv)
    assert status == 2 and says in err and "Traceback" not in err


def test_a_chapter_that_stops_names_its_cell_and_writes_nothing(capsys, tmp_path):
    out = tmp_path / "out.ipynb"
    argv = ("run", "inversion", "--profile", "smoke", "-p", "model=no-such-model", "--out", out)
    status, _, err = call(capsys, *argv)
    assert status == 1 and "inversion stopped in code cell" in err and "no-such-model" in err
    assert "Traceback" not in err and not out.exists()
