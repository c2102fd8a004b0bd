"""Our grids and steppers against diffusers' own schedulers on the same network: equality, not
similarity.
"""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
)

from difftools.code import generator, noise
from difftools.diffusion import denoiser as D
from difftools.diffusion import schedule as S
from difftools.diffusion.model import ancestral
from difftools.diffusion.reference import ddim_pair
from difftools.diffusion.steppers import STEPPERS, integrate

SHAPE = (3, 8, 8)
TOL = dict(rtol=1e-5, atol=2e-5)  # diffusers keeps its tables in float32


def network(x, t, lam):
    """Any smooth nonlinear eps-network that depends on x and t."""
    w = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).view(x.shape[1:])
    return torch.tanh(0.7 * x + 0.3 * x.flip(3) + w) + 0.1 * torch.sin(t / 100).view(-1, 1, 1, 1)


def subgrid(schedule, timesteps):
    """Our grid through diffusers' integer timesteps, from image to noise."""
    return tuple(
        S.node(schedule, float(schedule.lam_of(int(t)))) for t in sorted(int(t) for t in timesteps)
    )


NAMES = {"linear": "linear", "scaled_linear": "sqrt_linear", "squaredcos_cap_v2": "cosine"}
# diffusers' float32 tables lose the last levels of the cosine schedule: no inversion there.
WITHOUT_COSINE = pytest.mark.parametrize("pair", ["linear", "scaled_linear"], indirect=True)


@pytest.fixture(params=NAMES)
def pair(request):
    name = NAMES[request.param]
    betas = dict(beta_schedule=request.param, num_train_timesteps=1000)
    if request.param == "scaled_linear":
        betas |= dict(beta_start=0.0015, beta_end=0.0195)
    schedule = S.SCHEDULES[name]()
    return betas, D.Denoiser(network, schedule, SHAPE, "eps", torch.float64)


def test_schedules_are_diffusers_schedules(pair):
    betas, d = pair
    np.testing.assert_allclose(
        d.schedule.alpha_bar, DDPMScheduler(**betas).alphas_cumprod.numpy(), rtol=2e-4, atol=1e-7
    )


@pytest.mark.parametrize("steps", [10, 25])
def test_ddim_down_is_ddim_scheduler(pair, steps):
    betas, d = pair
    scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(steps)
    z = x = noise(range(2), SHAPE, "prior", torch.float64)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.double().expand(2), None), int(t), x).prev_sample
    nodes = subgrid(d.schedule, scheduler.timesteps)[::-1]
    y = integrate(STEPPERS["ddim"], d.field, nodes[0].chart(z), nodes)
    # diffusers' last step, from t = 0 to its final alpha, is a step of length zero here.
    torch.testing.assert_close(nodes[-1].unchart(y), x, rtol=1e-3, atol=1e-3)


@WITHOUT_COSINE
def test_inverse_ddim_is_the_state_at_t_told_the_next_time(pair):
    """diffusers' inverse evaluates the network with the time of the node it steps to."""
    betas, d = pair
    up = DDIMInverseScheduler(**betas, clip_sample=False)
    up.set_timesteps(10)
    x = noise(range(2), SHAPE, "data", torch.float64)
    ours, lam = x, d.schedule.lam
    gap = 1000 // 10
    for t in up.timesteps:
        x_eps = network(x, t.double().expand(2), None)
        x = up.step(x_eps, int(t), x).prev_sample
        eps = network(ours, t.double().expand(2), None)
        a, s = S.alpha_sigma(lam[int(t) - gap]) if int(t) >= gap else (1.0, 0.0)
        a2, s2 = S.alpha_sigma(lam[int(t)])
        ours = a2 * (ours - s * eps) / a + s2 * eps
    torch.testing.assert_close(ours, x, **TOL)


@WITHOUT_COSINE
@pytest.mark.parametrize("clip", [False, True])
def test_reference_pair_is_the_scheduler_loop(pair, clip):
    betas, d = pair
    x = noise(range(2), SHAPE, "data", torch.float64).clamp(-1, 1)
    up, down = (c(**betas, clip_sample=clip) for c in (DDIMInverseScheduler, DDIMScheduler))
    for s in (up, down):
        s.set_timesteps(10)
    y = x
    for t in up.timesteps:
        y = up.step(network(y, t.double().expand(2), None), int(t), y).prev_sample
    z = y
    for t in down.timesteps:
        y = down.step(network(y, t.double().expand(2), None), int(t), y).prev_sample
    got_z, got_x = ddim_pair(d, x, 10, clip)
    torch.testing.assert_close(got_z, z, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got_x, y, rtol=1e-3, atol=1e-3)


def test_dpm2m_is_dpmsolver_multistep(pair):
    betas, d = pair
    scheduler = DPMSolverMultistepScheduler(
        **betas,
        algorithm_type="dpmsolver++",
        solver_order=2,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(12)
    z = x = noise(range(2), SHAPE, "prior", torch.float32)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.float().expand(2), None), t, x).prev_sample
    # its grid: the printed timesteps, then the final sigma_min (t = 0)
    nodes = subgrid(d.schedule, [*scheduler.timesteps.tolist(), 0])[::-1]
    y = integrate(STEPPERS["dpm2m"], d.field, nodes[0].chart(z.double()), nodes)
    torch.testing.assert_close(nodes[-1].unchart(y), x.double(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("pair", ["linear"], indirect=True)
def test_ancestral_with_eta_one_is_ddpm_with_the_posterior_variance(pair):
    betas, d = pair
    scheduler = DDPMScheduler(**betas, variance_type="fixed_small", clip_sample=False)
    nodes = subgrid(d.schedule, range(600, 700))[::-1]
    z = x = noise(range(2), SHAPE, "prior", torch.float64)
    gens = [generator(s, "ancestral") for s in range(2)]
    for a in nodes[:-1]:
        t = round(a.t)
        n = torch.stack([torch.randn(SHAPE, generator=g) for g in gens]).double()
        out = scheduler.step(
            network(x, torch.full((2,), float(t)).double(), None),
            t,
            x,
            generator=torch.Generator().manual_seed(0),
        )
        mean_only = out.prev_sample - _its_noise(scheduler, t, x.shape)
        x = mean_only + scheduler._get_variance(t).double().sqrt() * n
    *_, ours = ancestral(d, z, nodes, 1.0)
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def _its_noise(scheduler, t, shape):
    """The noise that DDPMScheduler added, drawn again from the same generator."""
    n = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return scheduler._get_variance(t).double().sqrt() * n


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ancestral_variance_is_ddim_scheduler_s(eta):
    scheduler = DDIMScheduler(
        clip_sample=False,
        set_alpha_to_one=False,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
    )
    scheduler.set_timesteps(20)
    s = S.linear()
    for t, prev in zip(scheduler.timesteps, scheduler.timesteps[1:]):
        a, b = S.node(s, float(s.lam_of(int(t)))), S.node(s, float(s.lam_of(int(prev))))
        c = eta * (b.sigma / a.sigma) * (1 - (a.alpha / b.alpha) ** 2) ** 0.5
        assert c**2 == pytest.approx(
            float(eta**2 * scheduler._get_variance(int(t), int(prev))), rel=1e-3
        )
