"""Training: recipes differ in one thing, an interrupted run equals an uninterrupted one, shipping
loses little.
"""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from difftools import data, gaussians, zoo
from difftools.diffusion.schedule import linear
from difftools.images import to_float
from difftools.nets.unet import GAIN_NODES, VEHICLES32, GaussianPreconditioned, unet
from difftools.train import ddpm, ship

TINY = ddpm.Recipe(images=96, batch=8, warmup=2, rank=4)


@pytest.fixture
def pixels(monkeypatch):
    """Sixteen vehicles and a network of a few thousand weights."""
    monkeypatch.setattr(
        ddpm,
        "VEHICLES32",
        {"channels": (8, 16), "layers": 1, "attention": (), "groups": 4, "head_dim": 8},
    )
    return data.load("vehicles")[:16]


@pytest.fixture
def gaussian(pixels):
    return gaussians.fit(to_float(pixels).flatten(1), TINY.rank)


def test_the_two_recipes_differ_in_the_preconditioning_alone():
    a, b = (asdict(ddpm.RECIPES[k]) for k in ("ddpm", "ddpm-eps"))
    assert {k for k in a if a[k] != b[k]} == {"precondition"}


@pytest.mark.parametrize("precondition", [True, False])
def test_an_interrupted_run_equals_an_uninterrupted_one(
    pixels, gaussian, tmp_path, monkeypatch, precondition
):
    recipe = replace(TINY, precondition=precondition)
    whole, _ = ddpm.train(recipe, pixels, gaussian, tmp_path / "whole", save_every=6)
    steps = {"n": 0}
    real = ddpm.loss_of

    def stops(*args, **kwargs):
        steps["n"] += 1
        if steps["n"] == 9:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(ddpm, "loss_of", stops)
    with pytest.raises(KeyboardInterrupt):
        ddpm.train(recipe, pixels, gaussian, tmp_path / "two", save_every=6)
    monkeypatch.setattr(ddpm, "loss_of", real)
    resumed, facts = ddpm.train(recipe, pixels, gaussian, tmp_path / "two", save_every=6)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert [n for n, _ in facts["loss"]] == [48, 96]


def test_a_checkpoint_of_another_recipe_is_refused(pixels, gaussian, tmp_path):
    ddpm.train(TINY, pixels, gaussian, tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        ddpm.train(replace(TINY, seed=1), pixels, gaussian, tmp_path)


def test_the_preconditioned_network_starts_as_the_linear_denoiser(pixels, gaussian):
    module = ddpm.build(TINY, gaussian)
    x = to_float(pixels[:3])
    lam = torch.tensor([-2.0, 0.0, 3.0])
    got = module(x, torch.from_numpy(linear().t_of(lam.numpy())).float(), lam)
    s = torch.exp(-lam)[:, None]
    best = gaussian.to(torch.float32).denoise(x.flatten(1) * (1 + s * s).sqrt(), s).reshape(x.shape)
    torch.testing.assert_close(got, best, rtol=1e-5, atol=1e-5)


def test_gain_is_zero_for_a_useless_residual_and_one_for_a_perfect_one(pixels, gaussian):
    g = gaussian.to(torch.float32)
    x = to_float(pixels)

    class Useless(torch.nn.Module):
        def forward(self, x, t):
            return type(
                "Out",
                (),
                {"sample": torch.randn(x.shape, generator=torch.Generator().manual_seed(0))},
            )

    gain = ship.fit_gain(GaussianPreconditioned(Useless(), g), x, linear())
    assert gain.shape == (GAIN_NODES,) and float(gain.max()) < 0.1


def test_half_precision_keeps_vectors_and_manifest_names_the_file(tmp_path):
    state = ship.half({"w": torch.randn(4, 4), "b": torch.randn(4)})
    assert state["w"].dtype == torch.float16 and state["b"].dtype == torch.float32
    sha = ship.save(tmp_path, "x.safetensors", state)
    import json

    assert json.loads((tmp_path / "manifest.json").read_text()) == {"x.safetensors": sha}
    assert torch.equal(load_file(tmp_path / "x.safetensors")["w"], state["w"])
    assert not list(tmp_path.glob(".*"))


def test_the_shipped_architecture_is_the_recipe_s():
    net = unet(**VEHICLES32)
    assert sum(p.numel() for p in net.parameters()) == zoo.card("ddpm-vehicles32")["parameters"]


def test_training_needs_the_archive_and_says_so(tmp_path, monkeypatch):
    from difftools import train

    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("DIFFTOOLS_OFFLINE", "1")
    monkeypatch.delenv("DIFFTOOLS_ARCHIVES", raising=False)
    with pytest.raises(data.DataError, match="cifar10"):
        train.run("ddpm", tmp_path / "out", tmp_path / "run")
    assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()


def test_noise_levels_cover_the_schedule(pixels):
    gen = torch.Generator().manual_seed(0)
    s = linear()
    t, lam = ddpm.draw(ddpm.RECIPES["ddpm"], 4000, gen, s)
    assert float(lam.min()) < -4.5 and float(lam.max()) > 4 and abs(float(lam.median()) - 0.6) < 0.3
    np.testing.assert_allclose(s.lam_of(t.numpy()), lam.numpy(), atol=2e-2)
    t, lam = ddpm.draw(ddpm.RECIPES["ddpm-eps"], 4000, gen, s)
    assert torch.equal(t, t.round()) and abs(float(t.mean()) - 499.5) < 20
