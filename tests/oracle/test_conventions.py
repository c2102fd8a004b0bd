"""Published conventions and exact inverters against their formulas, written out step by step."""

import numpy as np
import pytest
import torch

from difftools import gaussians
from difftools.diffusion.denoiser import Denoiser, exact, zero
from difftools.diffusion.model import PixelDiffusion, edit_friendly, from_edit_friendly
from difftools.diffusion.schedule import grid, linear
from difftools.diffusion.steppers import STEPPERS

SHAPE = (3, 4, 4)


def random_eps():
    """A smooth nonlinear eps network whose output depends on what it is told."""
    gen = torch.Generator().manual_seed(0)
    W = torch.randn(48, 48, generator=gen, dtype=torch.float64) / 7

    def eps(x, t):
        h = torch.tanh(x.double().flatten(1) @ W + t.double()[:, None] / 1000)
        return h.reshape(x.shape)

    return eps


EPS = random_eps()


@pytest.fixture
def model():
    net = lambda x, t, lam: EPS(x, t)  # noqa: E731
    return PixelDiffusion(Denoiser(net, linear(), SHAPE, net_dtype=torch.float64))


@pytest.fixture
def x():
    return torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1)).double() * 1.8 - 0.9


def told(x, t):
    return EPS(x, torch.full((len(x),), float(t), dtype=torch.float64))


def guided(x, eps, a, a_next, clip=True):
    """One step of guided-diffusion's DDIM, either way: x0, clipped, eps again, next level."""
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    if clip:
        x0 = x0.clamp(-1, 1)
        eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
    return a_next**0.5 * x0 + (1 - a_next) ** 0.5 * eps


@pytest.mark.parametrize("steps", [10, 20, 25, 250])
def test_adm_convention(model, x, steps):
    ab, times = linear().alpha_bar, list(range(0, 1000, 1000 // steps))
    assert len(times) == steps
    z = x
    for i, t in enumerate(times):
        z = guided(z, told(z, t), ab[t], ab[times[i + 1]] if i + 1 < steps else 0.0)
    y = z
    for i in reversed(range(steps)):
        y = guided(y, told(y, times[i]), ab[times[i]], ab[times[i - 1]] if i else 1.0)
    m = model.with_(convention="adm", steps=steps)
    code = m.encode(x.float().double())
    torch.testing.assert_close(code["noise"], z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(m.decode(code), y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [60, 75, 300, 400])
def test_adm_convention_refuses_steps_without_an_integer_stride(model, x, steps):
    with pytest.raises(ValueError, match="no integer stride"):
        model.with_(convention="adm", steps=steps).encode(x)


def test_d2c_convention(model, x):
    ab, skip = linear().alpha_bar, 99
    seq = [*range(0, 999, skip), 999]
    z = x
    for t, t_next in zip(seq, seq[1:]):
        z = guided(z, told(z, t), ab[t], ab[t_next], clip=False)
    m = model.with_(convention="d2c", steps=10)
    code = m.encode(x)
    torch.testing.assert_close(code["noise"], z, rtol=1e-6, atol=1e-6)
    y = z
    for t, t_next in zip(seq[::-1], seq[-2::-1]):
        y = guided(y, told(y, t), ab[t], ab[t_next], clip=False)
    torch.testing.assert_close(m.decode(code), y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [20, 50])
def test_stability_convention_tells_the_loop_index(model, x, steps):
    ab = linear().alpha_bar
    times = np.arange(0, 1000, 1000 // steps) + 1
    before = np.concatenate([[ab[0]], ab[times[:-1]]])
    z = x
    for i in range(steps):  # alphas_next / alphas as in the sampler that everyone copied
        a, b = before[i], ab[times[i]]
        move = b**0.5 * ((1 / b - 1) ** 0.5 - (1 / a - 1) ** 0.5)
        z = (b / a) ** 0.5 * z + move * told(z, i)
    m = model.with_(convention="stability", steps=steps)
    code = m.encode(x)
    torch.testing.assert_close(code["noise"], z, rtol=1e-6, atol=1e-6)
    y = z
    for i in reversed(range(steps)):
        y = guided(y, told(y, times[i]), ab[times[i]], before[i], clip=False)
    torch.testing.assert_close(m.decode(code), y, rtol=1e-6, atol=1e-6)


def levels(steps):
    nodes = grid(linear(), steps)
    return nodes, [n.alpha for n in nodes], [n.sigma for n in nodes]


def ddim_to(z, eps, a, s, a_next, s_next):
    return a_next * (z - s * eps) / a + s_next * eps


def test_edict_reconstruction_by_its_formula(model, x):
    """Denoising from a given pair, p = 0.93, the order of the two copies alternating."""
    nodes, a, s = levels(6)
    m = model.with_(stepper="edict", steps=6, seeded=False)
    pair = [x, x + 0.1]
    got = m.down(*pair)
    u, v = (z / a[-1] for z in pair)  # x / alpha
    for k in range(6):
        i = 6 - k
        move = s[i - 1] / a[i - 1] - s[i] / a[i]
        if k % 2:
            u, v = v, u
        u = u + move * told(u * 0 + v * a[i], nodes[i].t)
        v = v + move * told(u * a[i], nodes[i].t)
        u = 0.93 * u + 0.07 * v
        v = 0.93 * v + 0.07 * u
        if k % 2:
            u, v = v, u
    torch.testing.assert_close(got, u * a[0], rtol=1e-8, atol=1e-8)


def test_bdia_reconstruction_by_its_formula(model, x):
    nodes, a, s = levels(6)
    m = model.with_(stepper="bdia", steps=6, seeded=False)
    z = {6: x}
    e = told(x, nodes[6].t)
    z[5] = ddim_to(x, e, a[6], s[6], a[5], s[5])
    for i in range(5, 0, -1):
        e = told(z[i], nodes[i].t)
        up = ddim_to(z[i], e, a[i], s[i], a[i + 1], s[i + 1]) - z[i]
        down = ddim_to(z[i], e, a[i], s[i], a[i - 1], s[i - 1]) - z[i]
        z[i - 1] = z[i + 1] - up + down  # gamma = 1
    torch.testing.assert_close(m.down(x), z[0], rtol=1e-8, atol=1e-8)


def test_belm_reconstruction_by_its_formula(model, x):
    nodes, a, s = levels(6)
    m = model.with_(stepper="belm", steps=6, seeded=False)
    bar = {6: x / a[6]}
    bar[5] = ddim_to(x, told(x, nodes[6].t), a[6], s[6], a[5], s[5]) / a[5]
    r = [si / ai for si, ai in zip(s, a)]
    for i in range(5, 0, -1):
        h, h_next = r[i] - r[i - 1], r[i + 1] - r[i]
        e = told(bar[i] * a[i], nodes[i].t)
        q = (h / h_next) ** 2
        bar[i - 1] = q * bar[i + 1] + (1 - q) * bar[i] - h * (h + h_next) / h_next * e
    torch.testing.assert_close(m.down(x), bar[0] * a[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("stepper", ["edict", "bdia", "belm", "reversible_heun"])
@pytest.mark.parametrize("steps", [2, 7, 8])
def test_exact_inverters_are_exact_with_both_states(model, x, stepper, steps):
    m = model.with_(stepper=stepper, steps=steps)
    code = m.encode(x)
    torch.testing.assert_close(m.decode(code), x, rtol=1e-7, atol=1e-7)
    assert not torch.allclose(m.decode(code.drop("auxiliary")), x, rtol=1e-7, atol=1e-7)


def test_edict_magnifies_the_difference_of_its_copies_by_p_squared_a_step():
    m = PixelDiffusion(zero(SHAPE), stepper="edict", steps=12)
    x = torch.zeros(1, *SHAPE, dtype=torch.float64)
    pair = (x, x + 1e-6)
    *_, (a, b) = STEPPERS["edict"](m.denoiser.field, pair, m.nodes)
    first, last = m.nodes[0], m.nodes[-1]
    chart = lambda n: (n.alpha + n.sigma) / n.alpha  # noqa: E731
    growth = float((a - b).abs().max()) * chart(last) / (1e-6 * chart(first))
    assert growth == pytest.approx(0.93**-24, rel=1e-6)


def test_bdia_refuses_a_weight_outside_its_range(model, x):
    from difftools.diffusion.published import bdia

    with pytest.raises(ValueError, match="gamma"):
        next(bdia(model.denoiser.field, x, model.nodes, gamma=1.2))


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_edit_friendly_inversion_is_exact_and_stores_what_is_missed(model, x, eta):
    m = model.with_(steps=8)
    code = edit_friendly(m, x, eta=eta)
    assert code["residuals"].shape == (3, 8, *SHAPE)
    torch.testing.assert_close(from_edit_friendly(m, code, eta), x, rtol=1e-10, atol=1e-10)


def test_edit_friendly_residuals_of_an_exact_model_have_the_posterior_variance():
    """Independent levels: the residual is wider than the posterior's own noise, as its authors
    say.
    """
    law = gaussians.Gaussian(torch.zeros(48), torch.full((48,), 0.1), torch.eye(48))
    m = PixelDiffusion(exact(law, SHAPE), steps=20)
    x = law.to(torch.float64).sample(torch.randn(400, 48, dtype=torch.float64)).reshape(-1, *SHAPE)
    r = edit_friendly(m, x, seeds=range(400))["residuals"].flatten(2).var((0, 2))
    nodes = m.nodes[::-1]
    c2 = [
        (b.sigma / a.sigma) ** 2 * (1 - (a.alpha / b.alpha) ** 2) for a, b in zip(nodes, nodes[1:])
    ]
    assert bool((r[2:-2] > 1.05 * torch.tensor(c2)[2:-2]).all())
