"""Boomerang against its closed forms, and as a function of images: seeds, batches, systems."""

import numpy as np
import pytest
import torch
from scipy import stats

from difftools import boomerang as B
from difftools import data, images, zoo
from difftools.code import noise
from difftools.diffusion import denoiser as D
from difftools.diffusion.model import PixelDiffusion
from difftools.diffusion.schedule import cosine, edm, grid, linear
from difftools.gaussians import Gaussian

SYSTEMS = ("ddpm-vehicles32", "dae-vehicles32", "ldm-vehicles32", "d2c-vehicles32")


@pytest.fixture(scope="module")
def vehicles():
    return data.domain("vehicles", 4)


def test_level_is_the_share_of_the_schedule():
    s = linear()
    assert B.level(s, 0.4).t == pytest.approx(0.4 * 999)
    assert B.level(s, 1).lam == pytest.approx(s.lam[-1])
    assert [B.level(s, t).sigma for t in (0.1, 0.5, 0.9)] == sorted(
        B.level(s, t).sigma for t in (0.1, 0.5, 0.9))
    for t in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="share of the noise schedule"):
            B.level(s, t)


def test_way_down_strides_through_the_times():
    nodes = B.way_down(linear(), 0.4, 10)
    assert len(nodes) == 11 and nodes[0].t == pytest.approx(399.6) and nodes[-1].t == 0
    assert np.diff([n.t for n in nodes]) == pytest.approx(np.full(10, -39.96))
    lam = np.diff([n.lam for n in B.way_down(linear(), 0.4, 10, "log_snr")])
    assert lam == pytest.approx(np.full(10, lam[0]))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_kernel_is_what_the_walk_does_to_a_gaussian(law, eta):
    m = PixelDiffusion(D.exact(law, (3, 4, 4)))
    nodes = B.way_down(m.denoiser.schedule, 0.5, 6)
    x0 = law.sample(noise(range(40), (48,), "data", torch.float64))
    runs = torch.stack([B.returned(m, x0.reshape(-1, 3, 4, 4), nodes, eta,
                                   range(40 * r, 40 * r + 40)).flatten(1) for r in range(60)])
    gain, variance = B.kernel(law.spectrum, nodes, eta)
    v = (runs - law.mean) @ law.U - gain * ((x0 - law.mean) @ law.U)  # the noise that is left
    z = v.flatten(0, 1) / variance.sqrt()
    assert stats.kstest(z.flatten().numpy()[::7], "norm").pvalue > 1e-3
    assert z.square().mean(0).numpy() == pytest.approx(np.ones(48), abs=0.15)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_kernel_tends_to_its_limit(law, eta):
    nodes = B.way_down(edm(), 0.5, 4000, "log_snr")  # from a level with hardly any noise
    gain, variance = B.kernel(law.spectrum, nodes, eta)
    r, v = B.limit(law.spectrum, nodes[0], eta)
    torch.testing.assert_close(gain, r, rtol=0.01, atol=1e-4)
    torch.testing.assert_close(variance, v, rtol=0.02, atol=1e-6)


def test_the_limit_is_twice_the_mmse_and_stationary(law):
    at = B.level(linear(), 0.5)
    gain, variance = B.limit(law.spectrum, at)
    away, pair = B.distances(law.spectrum, gain, variance)
    assert away == pytest.approx(2 * float(law.mmse(at.sigma / at.alpha)))
    torch.testing.assert_close(gain**2 * law.spectrum + variance, law.spectrum)
    assert away < pair < 2 * away  # two runs: 1 + rho times as far


def test_a_strided_walk_stays_too_close():
    spectrum = zoo.gaussian_vehicles32().to(torch.float64).spectrum
    factor = [B.strided(spectrum, B.way_down(linear(), 0.4, k)) for k in (5, 10, 50, 1000)]
    assert factor == sorted(factor) and factor[1] == pytest.approx(0.813, abs=1e-3)
    assert 0.99 < factor[-1] < 1


def test_survival_is_snr_over_one_plus_snr():
    at = B.level(cosine(), 0.3)
    lam = torch.tensor([0.0, 1.0, 9.0], dtype=torch.float64)
    snr = at.alpha**2 * lam / at.sigma**2
    torch.testing.assert_close(B.survival(lam, at), snr / (1 + snr))


def test_slopes_and_shares_of_a_known_gain(vehicles):
    law = zoo.gaussian_vehicles32().to(torch.float64)
    v = vehicles.double().flatten(1) - law.mean
    back = (law.mean + 0.3 * v).reshape(1, *vehicles.shape)
    for dot, own in B.slopes(law, vehicles, back).values():
        torch.testing.assert_close(dot, 0.3 * own)
    assert B.measured(law, vehicles, back) == pytest.approx(np.full(4, 0.3))
    assert B.kept(law, vehicles, torch.full((law.d,), 0.3).double()) == pytest.approx(0.3)
    gain = torch.cat([torch.ones(256), torch.zeros(law.d - 256)]).double()
    inside = law.mean + (v @ law.U) @ law.U.T
    assert B.kept(law, vehicles, gain) == pytest.approx(
        B.measured(law, vehicles, inside.reshape(1, *vehicles.shape)))
    total = sum(own.sum() for _, own in B.slopes(law, vehicles, back).values())
    white = law.apply(lambda lam: lam**-0.5, v)
    torch.testing.assert_close(total, white.square().sum(), rtol=2e-4, atol=0)  # float16 U


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_flies_and_a_batch_is_a_loop(vehicles, name):
    m = zoo.load(name)
    x = vehicles[:2]
    y = B.boomerang(m, x, 0.4, steps=2, seeds=[5, 6])
    assert y.shape == x.shape and y.dtype == torch.float64 and y.isfinite().all()
    alone = torch.cat([B.boomerang(m, x[i : i + 1], 0.4, steps=2, seeds=[5 + i]) for i in (0, 1)])
    torch.testing.assert_close(y, alone, atol=2e-4, rtol=0)
    near, far = ((B.boomerang(m, x, t, steps=2) - x).square().mean() for t in (0.1, 0.9))
    assert near < far


def test_the_same_seed_repeats_and_another_does_not(vehicles):
    m = zoo.load("gaussian-vehicles32")
    a, b, c = (B.boomerang(m, vehicles, 0.2, steps=3, seeds=range(s, s + 4)) for s in (0, 0, 9))
    assert torch.equal(a, b) and not np.array_equal(images.to_uint8(a), images.to_uint8(c))
    r = B.runs(m, vehicles, 0.2, 2, seed=3, steps=3)
    torch.testing.assert_close(r[1], B.boomerang(m, vehicles, 0.2, steps=3, seeds=range(7, 11)))


def test_eta_zero_is_ddim_down_from_the_noised_image(vehicles):
    m = zoo.load("gaussian-vehicles32", stepper="ddim")
    nodes = B.way_down(m.denoiser.schedule, 0.4, 8)
    x = m.forward_noise(vehicles, range(4), nodes[0])
    for x in m.walk(x, up=False, nodes=nodes):
        pass
    want = m.denoiser.x0_eps(x, nodes[-1])[0]
    torch.testing.assert_close(B.boomerang(m, vehicles, 0.4, steps=8, eta=0.0), want)


def test_latents_are_noised_and_not_pixels(vehicles):
    m = zoo.load("d2c-vehicles32")
    nodes = B.way_down(m.denoiser.schedule, 0.3, 3)
    want = m.images(B.returned(m.diffusion, m.latents(vehicles), nodes, 1.0, range(4)), range(4))
    torch.testing.assert_close(B.boomerang(m, vehicles, 0.3, steps=3), want.double())


def test_dae_keeps_the_semantic_code_of_the_image(vehicles):
    m = zoo.load("dae-vehicles32")
    other = B.boomerang(m, vehicles[:1], 0.9, steps=2, seeds=[0])
    with m.given(m.semantic(vehicles[1:2])) as swapped:
        nodes = B.way_down(m.denoiser.schedule, 0.9, 2)
        with_another = B.returned(swapped, vehicles[:1], nodes, 1.0, [0])
    assert (other - with_another).abs().max() > 1e-3


def test_denoised_error_of_the_exact_denoiser_is_the_mmse(law):
    m = PixelDiffusion(D.exact(law, (3, 4, 4)))
    x0 = law.sample(noise(range(300), (48,), "data", torch.float64)).reshape(-1, 3, 4, 4)
    at = B.level(m.denoiser.schedule, 0.5)
    assert B.denoised_error(m, x0, 0.5, range(300)).mean() == pytest.approx(
        float(law.mmse(at.sigma / at.alpha)), rel=0.05)


def test_noised_has_the_distance_that_is_asked_for():
    x = torch.zeros(3, 3, 32, 32)
    y = B.noised(x, np.array([0.01, 0.02, 0.04]), range(3))
    assert y.square().mean((1, 2, 3)).numpy() == pytest.approx([0.01, 0.02, 0.04], rel=0.05)
    assert B.noised(x, np.full(3, 4.0), range(3)).abs().max() == 1


@pytest.mark.parametrize("change, says", [
    ({"t": 0.0}, "share of the noise schedule"), ({"eta": 2.0}, r"eta must lie in \[0, 1\]"),
    ({"steps": 0}, "at least one step"), ({"spacing": "even"}, "spacing must be"),
    ({"seeds": [1]}, "1 seeds for 4 images"),
])
def test_bad_settings_say_what_was_expected(vehicles, change, says):
    with pytest.raises(ValueError, match=says):
        B.boomerang(zoo.load("gaussian-vehicles32"), vehicles, **{"t": 0.4} | change)


@pytest.mark.parametrize("name", ["stylegan2-vehicles32", "linear-vehicles32"])
def test_what_has_no_noise_schedule_is_refused(vehicles, name):
    with pytest.raises(ValueError, match="is no diffusion model"):
        B.boomerang(zoo.load(name), vehicles, 0.4)


def test_bad_images_are_refused(vehicles):
    with pytest.raises(ValueError, match="expected float32"):
        B.boomerang(zoo.load("gaussian-vehicles32"), 3 * vehicles, 0.4)


def test_the_chart_of_strides_ends_where_the_chain_does():
    assert B.way_down(linear(), 1.0, 999)[5].t == pytest.approx(994)
    assert grid(linear(), 3)[0].lam == B.way_down(linear(), 0.7, 3)[-1].lam


def test_gaussian_without_eigenvectors_has_no_bands():
    flat = Gaussian(torch.zeros(4), torch.ones(4), None)
    with pytest.raises((TypeError, ValueError)):
        B.slopes(flat, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 2, 2))
