"""Models by name: what ships loads and is what its card says, and what is damaged is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from difftools import data, zoo
from difftools.diffusion.denoiser import Denoiser, accelerated
from difftools.diffusion.inversion import error_ratio, round_trip
from difftools.diffusion.latent import LatentDiffusion
from difftools.diffusion.model import PixelDiffusion
from difftools.diffusion.schedule import linear
from difftools.metrics import psnr
from tiny import save_pipeline

EMBEDDED = [n for n, e in zoo.MODELS.items() if e.module and not e.source]
GANS = [n for n in EMBEDDED if "family" in zoo.MODELS[n].config]
DIFFUSION = [n for n in EMBEDDED if n not in GANS]


@pytest.mark.parametrize("name", EMBEDDED)
def test_shipped_weights_are_those_of_the_card(name):
    card = zoo.card(name)
    assert (
        card["sha256"]
        == json.loads((zoo.WEIGHTS / "manifest.json").read_text())[f"{name}.safetensors"]
    )
    assert card["parameters"] == zoo.measure(name)[0] < 3_000_000
    assert (zoo.WEIGHTS / f"{name}.png").is_file()


def test_the_embedded_model_passes_its_floor_and_the_twin_does_not():
    assert zoo.card("ddpm-vehicles32")["floor"]["passed"] is True
    assert zoo.card("ddpm-eps-vehicles32")["floor"]["below_linear"] is False


def test_the_card_s_error_ratio_can_be_recomputed():
    """On a part of the held-out slice, against the rank-256 Gaussian that ships (the card's is full
    rank).
    """
    card = zoo.card("ddpm-vehicles32")
    lam = np.array([-3.0, -1.0, 0.0])  # at these levels 256 eigenpairs are as good as all
    errors = error_ratio(
        zoo.denoiser("ddpm-vehicles32"), zoo.gaussian_vehicles32(), data.domain("vehicles", 48), lam
    ).mean(1)
    ratio = errors[:, 0] / errors[:, 1]
    recorded = np.interp(lam, card["lam"], card["error_ratio"])
    np.testing.assert_allclose(ratio, recorded, rtol=0.05)


@pytest.mark.parametrize("name", [*DIFFUSION, "untrained"])
def test_a_batch_of_eight_equals_eight_batches_of_one(name):
    """Tolerance: one float32 U-Net evaluation differs by 1e-5 between batch sizes; ten steps add
    up.
    """
    m, x = zoo.load(name, steps=5), data.domain("animals", 8)
    whole = m.encode(x)
    single = [m.encode(x[i : i + 1], seeds=[i]) for i in range(8)]
    for part in whole.tensors:
        each = torch.cat([c[part] for c in single])
        torch.testing.assert_close(whole[part], each, rtol=0, atol=5e-4)


@pytest.mark.parametrize("name", DIFFUSION)
def test_two_runs_are_identical_and_another_seed_is_not(name):
    m, x = zoo.load(name, steps=4), data.domain("animals", 2)
    a, b = round_trip(m, x), round_trip(m, x)
    assert torch.equal(a["code"]["noise"], b["code"]["noise"]) and torch.equal(
        a["images"], b["images"]
    )
    assert not torch.equal(a["code"]["noise"], m.encode(x, seeds=[7, 8])["noise"])


@pytest.mark.parametrize("name", GANS)
def test_a_gan_s_inversion_depends_on_the_seed_alone(name):
    """Adam divides by the size of a gradient, so rounding grows with the steps: few steps, and the
    pictures are compared.
    """
    m, x = zoo.load(name, steps=5), data.domain("animals", 3)
    a, b = m.encode(x), m.encode(x)
    assert all(torch.equal(a[k], b[k]) for k in a.tensors)
    single = torch.cat([m.decode(m.encode(x[i : i + 1], seeds=[i])) for i in range(3)])
    assert float(psnr(m.decode(a), single).min()) > 40
    drawn = m.with_(recipe="biggan" if "biggan" in name else "z", steps=1)
    assert not torch.equal(drawn.encode(x)["z"], drawn.encode(x, seeds=[7, 8, 9])["z"])


@pytest.mark.parametrize("dtype, floor", [(torch.float32, 80), (torch.float64, 100)])
@pytest.mark.parametrize("name", DIFFUSION)
def test_reversible_heun_is_exact_around_every_network(name, dtype, floor):
    """Exact for the diffusion; what an autoencoder loses before it stays lost."""
    m = zoo.load(name, steps=8, stepper="reversible_heun", dtype=dtype)
    x = data.domain("animals", 2)
    code = m.encode(x)
    back = m.decode(code)
    assert code["noise"].dtype == back.dtype == dtype
    if isinstance(m, LatentDiffusion):
        x, back = m.latents(x), m.diffusion.decode(code)
    assert float(psnr(x, back).min()) > floor


@pytest.mark.parametrize("name", DIFFUSION)
def test_bf16_moves_the_latents_a_little_and_the_state_not_at_all(name):
    x = data.domain("animals", 2)
    plain, fast = (zoo.load(name, steps=5, fast=f).encode(x)["noise"] for f in ("", "bf16"))
    assert fast.dtype == torch.float64
    difference = float(((plain - fast) ** 2).mean().sqrt())
    assert 1e-5 < difference < 0.05


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiling_changes_rounding_alone():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.SiLU())
    net.append(torch.nn.Conv2d(4, 3, 3, padding=1)).requires_grad_(False)
    plain = Denoiser(lambda x, t, lam: net(x), linear(), (3, 8, 8))
    fast = accelerated(plain, "compile")
    x = torch.rand(2, 3, 8, 8) - 0.5
    a, b = (PixelDiffusion(d, steps=3).encode(x)["noise"] for d in (plain, fast))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_an_unknown_speed_is_refused():
    with pytest.raises(ValueError, match="bf16.*compile"):
        zoo.load("ddpm-vehicles32", fast="warp")


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_model_says_its_degrees_of_freedom(name):
    m = zoo.load(name, steps=2)
    values = sum(v[0].numel() for v in m.encode(data.domain("animals", 1)).tensors.values())
    assert m.dof_per_value == pytest.approx(values / 3072)
    row = next(r for r in zoo.rows() if r["model"] == name)
    assert row["dof_per_value"] == pytest.approx(m.dof_per_value, abs=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", DIFFUSION)
def test_a_gpu_gives_the_same_latents(name):
    x = data.domain("animals", 2)
    a, b = (zoo.load(name, device=d, steps=4).encode(x)["noise"] for d in ("cpu", "cuda"))
    torch.testing.assert_close(a, b, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", [n for n in EMBEDDED if n != "ddpm-eps-vehicles32"])
def test_samples_have_the_range_of_images(name):
    m = zoo.load(name, steps=8)
    x = m.decode(m.prior(4))
    assert 0.2 < float(x.std()) < 0.9 and float(x.abs().max()) < 3


def test_loading_a_model_leaves_the_callers_generator_alone():
    zoo.model.cache_clear()
    torch.manual_seed(3)
    a = torch.rand(2)
    torch.manual_seed(3)
    zoo.load("untrained")
    assert torch.equal(a, torch.rand(2))


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the weights folder that a test may damage."""
    folder = tmp_path / "weights"
    shutil.copytree(zoo.WEIGHTS, folder)
    monkeypatch.setattr(zoo, "WEIGHTS", folder)
    monkeypatch.setattr(data, "ROOT", tmp_path)
    zoo.model.cache_clear(), zoo.gaussian_vehicles32.cache_clear()
    yield folder
    zoo.model.cache_clear(), zoo.gaussian_vehicles32.cache_clear()


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize(
    "damage",
    [flip, truncate, lambda f: f.write_bytes(b""), lambda f: f.unlink()],
    ids=["flipped bit", "truncated", "empty", "missing"],
)
def test_damaged_weights_are_refused_by_name(copy, damage):
    damage(copy / "ddpm-vehicles32.safetensors")
    with pytest.raises(zoo.ModelError, match="ddpm-vehicles32.safetensors"):
        zoo.load("ddpm-vehicles32")


def test_keys_that_do_not_fit_are_named():
    net = torch.nn.Linear(2, 2)
    with pytest.raises(
        zoo.ModelError, match="extra c.*missing bias.*weight is \\(3, 2\\), expected \\(2, 2\\)"
    ):
        zoo.load_state(net, {"weight": torch.zeros(3, 2), "c": torch.zeros(1)}, "x.safetensors")


def test_unknown_models_list_the_known_ones():
    with pytest.raises(zoo.ModelError, match="ddpm-vehicles32"):
        zoo.load("ddpm-vehicle32")


@pytest.mark.parametrize(
    "kind, predicts", [("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")]
)
def test_a_diffusers_folder_is_a_model(tmp_path, kind, predicts):
    unet = save_pipeline(tmp_path / "pipe", kind)
    m = zoo.load(str(tmp_path / "pipe"), steps=4, stepper="reversible_heun")
    assert m.denoiser.predicts == predicts and m.denoiser.shape == (3, 32, 32)
    x = data.domain("animals", 2)
    at = m.nodes[2]
    p = unet.eval()(x, torch.tensor(at.t)).sample
    x0 = {"eps": (x - at.sigma * p) / at.alpha, "x0": p, "v": at.alpha * x - at.sigma * p}[predicts]
    torch.testing.assert_close(
        m.denoiser.x0_eps(x.double(), at)[0].float(), x0.detach(), rtol=1e-3, atol=1e-3
    )
    assert float(psnr(x, m.decode(m.encode(x))).min()) > 60


def test_a_folder_without_a_pipeline_says_what_it_needs(tmp_path):
    with pytest.raises(zoo.ModelError, match="model_index.json"):
        zoo.load(str(tmp_path))


def test_no_network_says_what_to_download_and_where_to_put_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        zoo.ModelError, match="hf download google/ddpm-cifar10-32 --local-dir ddpm-cifar10-32"
    ):
        zoo.load("google/ddpm-cifar10-32")


OFFICIAL = {  # parameters of the official classes; DAE with its latent network
    "dae-ffhq256": 168_492_291 + 54_109_696,
    "ldm-ffhq256": 274_056_163 + 55_322_782,
    "d2c-ffhq256": 24_767_596 + 45_665_544,
    "ddpm-ffhq256": 93_563_910,
    "adm-imagenet256": 552_814_086,
    "iddpm-cifar10": 52_546_438,
    "iddpm-imagenet64": 121_063_942,
    "iddpm-bedroom256": 113_676_678,
    "stylegan2-ffhq1024": 30_370_060 + 29_012_513,  # generator and critic
    "stylegan2-ffhq256": 24_767_458 + 24_001_089,
    "stylegan2-config-f256": 30_034_338 + 28_864_129,
    "biggan-imagenet128": 70_433_988,
    "biggan-deep-128": 50_388_609,
    "biggan-deep-256": 55_880_833,
    "biggan-deep-512": 56_163_905,
    "styleganxl-imagenet256": 233_375_910,  # as designed; an imported file brings its own layers
}


def test_every_official_configuration_is_counted_exactly():
    rows = {r["model"]: r for r in zoo.rows()}
    assert {k: rows[k]["parameters"] for k in OFFICIAL} == OFFICIAL
    assert set(OFFICIAL) == {k for k, r in rows.items() if r["world"] == "P"}


def test_rows_say_which_weights_are_present():
    rows = {r["model"]: r for r in zoo.rows()}
    assert rows["ddpm-vehicles32"]["weights"] and rows["ddpm-vehicles32"]["dof_per_value"] == 1.0
    assert rows["zero"]["parameters"] is None
