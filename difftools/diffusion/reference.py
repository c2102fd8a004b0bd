"""diffusers' own DDIM pair on one of our denoisers: the baseline that most published code uses."""

from __future__ import annotations

import torch
from torch import Tensor

from .denoiser import Denoiser
from .schedule import Node, alpha_sigma, node


def _at(denoiser: Denoiser, t: int) -> Node:
    return node(denoiser.schedule, float(denoiser.schedule.lam_of(t)))


def ddim_pair(
    denoiser: Denoiser,
    images: Tensor,
    steps: int = 20,
    clip: bool = False,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Invert with DDIMInverseScheduler and reconstruct with DDIMScheduler: (latents, images), both
    (B, C, H, W).

    clip: diffusers' default clip_sample=True clips x0 hat but keeps eps hat. images in [-1, 1],
    taken as x at t = 0 without noise, as pipelines do. Works on a discrete schedule (one node per
    integer t).
    """
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    lam = denoiser.schedule.lam
    ab = alpha_sigma(lam)[0] ** 2
    betas = (1 - ab / [1, *ab[:-1]]).tolist()
    config = {"num_train_timesteps": len(lam), "trained_betas": betas, "clip_sample": clip}
    up, down = DDIMInverseScheduler(**config), DDIMScheduler(**config)
    for scheduler in (up, down):
        scheduler.set_timesteps(steps)
    x = images.to(dtype)
    for t in up.timesteps:
        x = up.step(denoiser.x0_eps(x, _at(denoiser, int(t)))[1], int(t), x).prev_sample
    z = x
    for t in down.timesteps:
        x = down.step(denoiser.x0_eps(x, _at(denoiser, int(t)))[1], int(t), x).prev_sample
    return z, x
