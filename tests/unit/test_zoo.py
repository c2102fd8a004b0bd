"""Models by name: what ships loads and is what its card says, and what is damaged is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from difftools import data, zoo
from difftools.diffusion.inversion import error_ratio, round_trip
from difftools.metrics import psnr
from tiny import save_pipeline

EMBEDDED = [n for n, e in zoo.MODELS.items() if e.weights and e.system == "DDPM"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_shipped_weights_are_those_of_the_card(name):
    card = zoo.card(name)
    assert (
        card["sha256"]
        == json.loads((zoo.WEIGHTS / "manifest.json").read_text())[f"{name}.safetensors"]
    )
    assert 2_500_000 < card["parameters"] <= zoo.parameters(name) < 3_000_000
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


@pytest.mark.parametrize("name", ["ddpm-vehicles32", "ddpm-eps-vehicles32", "untrained"])
def test_a_batch_of_eight_equals_eight_batches_of_one(name):
    """Tolerance: one float32 U-Net evaluation differs by 1e-5 between batch sizes; ten steps add
    up.
    """
    m, x = zoo.load(name, steps=5), data.domain("animals", 8)
    whole = m.encode(x)["noise"]
    single = torch.cat([m.encode(x[i : i + 1], seeds=[i])["noise"] for i in range(8)])
    torch.testing.assert_close(whole, single, rtol=0, atol=5e-4)


def test_two_runs_are_identical():
    m, x = zoo.load("ddpm-vehicles32", steps=4), data.domain("animals", 2)
    a, b = round_trip(m, x), round_trip(m, x)
    assert torch.equal(a["code"]["noise"], b["code"]["noise"]) and torch.equal(
        a["images"], b["images"]
    )


@pytest.mark.parametrize("dtype, floor", [(torch.float32, 80), (torch.float64, 100)])
def test_reversible_heun_is_exact_around_the_real_network(dtype, floor):
    m, x = (
        zoo.load("ddpm-vehicles32", steps=8, stepper="reversible_heun", dtype=dtype),
        data.domain("animals", 2),
    )
    assert float(psnr(x, m.decode(m.encode(x))).min()) > floor


def test_samples_have_the_range_of_images():
    m = zoo.load("ddpm-vehicles32", steps=8)
    x = m.decode(m.prior(4))
    assert 0.2 < float(x.std()) < 0.9 and float(x.abs().max()) < 3


def test_loading_a_model_leaves_the_callers_generator_alone():
    zoo.denoiser.cache_clear()
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
    zoo.denoiser.cache_clear(), zoo.gaussian_vehicles32.cache_clear()
    yield folder
    zoo.denoiser.cache_clear(), zoo.gaussian_vehicles32.cache_clear()


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


def test_rows_say_which_weights_are_present():
    rows = {r["model"]: r for r in zoo.rows()}
    assert rows["ddpm-vehicles32"]["weights"] and rows["ddpm-vehicles32"]["dof_per_value"] == 1.0
    assert rows["zero"]["parameters"] is None
