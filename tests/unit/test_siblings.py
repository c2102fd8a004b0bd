"""Training of the siblings, and the parts of their objectives that can be wrong in silence."""

from dataclasses import replace

import pytest
import torch

import official_files as files
from difftools import data, gaussians, metrics, zoo
from difftools.images import to_float
from difftools.nets import configs, nvae
from difftools.nets.unet import vq
from difftools.train import NAMES, ship, siblings

TINY = {
    "DAE_VEHICLES32": files.DAE["net"] | {"size": 32},
    "LATENT_VEHICLES32": files.DAE["latent"],
    "VQ_VEHICLES32": files.LDM["first"] | {"size": 32},
    "LDM_VEHICLES32": files.LDM["net"] | {"size": 16},
    "NVAE_VEHICLES32": files.D2C["first"],
    "D2C_VEHICLES32": files.D2C["net"] | {"size": 8},
    "V_VEHICLES32": {k: v for k, v in files.ADM["net"].items() if k != "out_channels"}
    | {"size": 32},
}
CONFIG = {  # of the zoo's entry, with the tiny networks
    "dae": {"net": "DAE_VEHICLES32", "latent": "LATENT_VEHICLES32", "preconditioned": True},
    "ldm": {"first": "VQ_VEHICLES32", "net": "LDM_VEHICLES32", "latent": (3, 16, 16), "rank": 8},
    "d2c": {
        "first": "NVAE_VEHICLES32",
        "net": "D2C_VEHICLES32",
        "latent": (4, 8, 8),
        "size": 32,
        "rank": 8,
    },
}


@pytest.mark.parametrize("name", ["dae", "ldm", "d2c", "v"])
def test_a_recipe_trains_what_the_zoo_loads(name, monkeypatch, tmp_path):
    for key, value in TINY.items():
        monkeypatch.setattr(configs, key, value)
    for recipe in ("DAE", "LDM_FIRST", "LDM", "D2C_FIRST", "D2C", "V"):
        old = getattr(siblings, recipe)
        small = {"rank": 8} if hasattr(old, "rank") else {}
        monkeypatch.setattr(siblings, recipe, replace(old, batch=8, **small))
    monkeypatch.setattr(siblings, "DAE_LATENT", replace(siblings.DAE_LATENT, batch=8))
    pixels = data.load("vehicles")[:24]
    g = zoo.gaussian_vehicles32()
    module, facts = getattr(siblings, f"train_{name}")(pixels, g, tmp_path, images=16)
    config = {
        k: TINY.get(v, v) if isinstance(v, str) else v for k, v in CONFIG.get(name, {}).items()
    }
    entry = zoo.MODELS[NAMES[name]]
    fresh = entry.module(config or TINY["V_VEHICLES32"])
    loaded = zoo.load_state(
        fresh, {k: v.float() for k, v in ship.half(module.state_dict()).items()}, name
    )
    m = entry.model(loaded, config or TINY["V_VEHICLES32"]).with_(steps=3)
    x = to_float(pixels[:2])
    back = m.decode(m.encode(x))
    assert back.shape == x.shape and torch.isfinite(back).all()
    assert torch.isfinite(m.decode(m.prior(2))).all()
    assert facts["recipe"]["images"] in (16, 32) and facts["loss"]


def test_five_bits_alone_cost_38_db():
    levels = (torch.arange(256.0) / 127.5 - 1).expand(1, 3, 16, 256)  # each 8-bit level once
    assert float(metrics.psnr(levels, nvae.quantise(levels))[0]) == pytest.approx(38.3, abs=0.05)
    assert len(nvae.quantise(levels).unique()) == 32


def test_the_pixel_law_of_d2c_sums_to_one_over_its_levels():
    net = files.shake(nvae.NVAE(**files.D2C["first"]))
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    levels = torch.arange(32.0) / 31 * 2 - 1
    logits, means, log_scales, coefficients = (p.double() for p in net.parameters_of(z))

    class Fixed:
        def parameters_of(self, z):
            n = len(z)
            flat = coefficients * 0  # no chain: channels are independent given the component
            return tuple(v.expand(n, *v.shape[1:]) for v in (logits, means, log_scales, flat))

    one = torch.zeros(32, 3, 16, 16, dtype=torch.float64)
    one[:, 0] = levels[:, None, None].double()
    # with one mixture component red's law does not depend on green and blue
    logits[:, 1:] = -1e9
    p_rgb = per_pixel(Fixed(), one)
    p_gb = p_rgb - p_rgb.logsumexp(0, keepdim=True)
    assert torch.isfinite(p_gb).all()
    torch.testing.assert_close(p_gb.exp().sum(0), torch.ones(16, 16, dtype=torch.float64))
    marginal = red_alone(means[:, 0, 0], log_scales[:, 0, 0], levels.double())
    torch.testing.assert_close(p_gb.exp(), marginal, rtol=1e-6, atol=1e-8)


def per_pixel(net, x):
    """log p of each pixel, by asking for one pixel at a time what `nll` averages."""
    H = x.shape[-1]
    out = []
    for i in range(H):
        row = []
        for j in range(H):
            sub = _Crop(net, i, j)
            row.append(-3 * nvae.nll(sub, x, x[:, :, i : i + 1, j : j + 1]))
        out.append(torch.stack(row, 1))
    return torch.stack(out, 1)


class _Crop:
    def __init__(self, net, i, j):
        self.net, self.i, self.j = net, i, j

    def parameters_of(self, z):
        at = (..., slice(self.i, self.i + 1), slice(self.j, self.j + 1))
        return tuple(v[at] for v in self.net.parameters_of(z))


def red_alone(mean, log_scale, levels):
    """A logistic law integrated over 32 bins, the outer two open."""
    edges = torch.cat(
        [torch.tensor([-torch.inf]), (levels[:-1] + levels[1:]) / 2, torch.tensor([torch.inf])]
    ).double()
    cdf = torch.sigmoid((edges[:, None, None] - mean) / log_scale.exp())
    return cdf[1:] - cdf[:-1]


def test_scaling_latents_to_unit_variance_changes_no_picture():
    net = vq(**TINY["VQ_VEHICLES32"])
    files.shake(net)
    x = to_float(data.load("vehicles")[:8])
    before = {q: net.decode(net.encode(x).latents, force_not_quantize=q).sample for q in (0, 1)}
    siblings.unit_latents(net, x)
    assert float(net.encode(x).latents.std().detach()) == pytest.approx(1, abs=1e-4)
    for q, picture in before.items():
        after = net.decode(net.encode(x).latents, force_not_quantize=q).sample
        torch.testing.assert_close(after, picture, rtol=1e-3, atol=1e-4)


def test_views_are_seeded_and_differ():
    x = to_float(data.load("vehicles")[:4])
    a, b = (siblings.view(x, torch.Generator().manual_seed(0)) for _ in range(2))
    c = siblings.view(x, torch.Generator().manual_seed(1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.shape == x.shape and float(a.abs().max()) <= 1


def test_a_kept_gaussian_travels_with_the_weights():
    from difftools.nets.unet import GaussianPreconditioned

    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    g = gaussians.fit(x, 4)
    kept = GaussianPreconditioned(torch.nn.Identity(), g, keep=True)
    names = set(kept.state_dict())
    assert names == {"mean", "eigenvalues", "U", "rest", "gain"}
    shared = GaussianPreconditioned(torch.nn.Identity(), g)
    assert set(shared.state_dict()) == {"gain"} and shared.gaussian.rest == g.rest
