"""Train a pixel-space diffusion model: `difftools train ddpm`.

Two recipes. ``ddpm`` learns the residual of a Gaussian denoiser (`nets.unet.GaussianPreconditioned`)
on noise levels around the middle; ``ddpm-eps`` is its control, plain epsilon-prediction on uniform
times (Ho et al. 2020), with the same network, as many images and the same optimiser.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..diffusion.schedule import linear
from ..gaussians import Gaussian
from ..nets.unet import VEHICLES32, GaussianPreconditioned, predict, unet
from . import loop


@dataclass(frozen=True)
class Recipe(loop.Recipe):
    """`loop.Recipe` and what a diffusion model adds."""

    rank: int = 256  # eigenpairs of the Gaussian
    precondition: bool = True
    uniform: float = 0.25  # share of noise levels drawn uniformly in log-SNR (preconditioned only)


RECIPES = {"ddpm": Recipe(), "ddpm-eps": Recipe(precondition=False)}


def build(recipe: Recipe, gaussian: Gaussian) -> torch.nn.Module:
    """The untrained module of a recipe; its last layer is zero, so `ddpm` starts as the Gaussian
    denoiser.
    """
    net = unet(**VEHICLES32)
    torch.nn.init.zeros_(net.conv_out.weight)
    torch.nn.init.zeros_(net.conv_out.bias)
    return GaussianPreconditioned(net, gaussian) if recipe.precondition else net


def draw(
    recipe: Recipe, n: int, gen: torch.Generator, schedule
) -> tuple[torch.Tensor, torch.Tensor]:
    """Schedule times and log-SNR of n training examples, both (n,)."""
    if not recipe.precondition:  # Ho et al.: uniform integer t
        t = torch.randint(0, len(schedule.t), (n,), generator=gen)
        return t.float(), torch.from_numpy(schedule.lam)[t].float()
    lam = 0.8 - 1.2 * torch.randn(n, generator=gen)  # log sigma/alpha ~ N(-0.8, 1.2²)
    flat = torch.rand(n, generator=gen) * (schedule.lam[0] - schedule.lam[-1]) + schedule.lam[-1]
    lam = torch.where(torch.rand(n, generator=gen) < recipe.uniform, flat, lam)
    lam = lam.clamp(schedule.lam[-1], schedule.lam[0])
    return torch.from_numpy(schedule.t_of(lam.numpy())).float(), lam.float()


def loss_of(
    recipe: Recipe, module, x0: torch.Tensor, gen: torch.Generator, schedule, *cond
) -> torch.Tensor:
    """Mean squared error at unit scale: of the residual F, or of epsilon; x0 (B, C, H, W) on the
    module's device.
    """
    t, lam = draw(recipe, len(x0), gen, schedule)
    noise = torch.randn(x0.shape, generator=gen)
    t, lam, noise = (v.to(x0.device) for v in (t, lam, noise))
    alpha, sigma = (
        v[:, None, None, None] for v in (torch.sigmoid(2 * lam), torch.sigmoid(-2 * lam))
    )
    x = alpha.sqrt() * x0 + sigma.sqrt() * noise
    net = module.net if recipe.precondition else module
    with torch.autocast(x0.device.type, dtype=torch.bfloat16):
        out = predict(net, x.contiguous(memory_format=torch.channels_last), t, *cond)
    if not recipe.precondition:
        return ((out.float() - noise) ** 2).mean()
    x0_linear, c_out = module.linear(x, lam)
    return ((out.float() - (x0 - x0_linear) / c_out) ** 2).mean()


def train(
    recipe: Recipe, images: np.ndarray, gaussian: Gaussian, folder: Path, device="cpu", **options
) -> tuple[torch.nn.Module, dict]:
    """`loop.fit` of a recipe on uint8 images (N, H, W, 3); returns (EMA module, facts)."""
    schedule = linear()
    loss = lambda module, x0, gen, done: loss_of(recipe, module, x0, gen, schedule)  # noqa: E731
    return loop.fit(
        recipe, partial(build, recipe, gaussian), loss, images, folder, device, **options
    )
