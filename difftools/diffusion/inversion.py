"""Judging an inversion: three numbers, never one, and the denoiser's error beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..code import Code, noise
from ..gaussians import Gaussian
from ..metrics import psnr
from .denoiser import Denoiser
from .model import PixelDiffusion
from .schedule import Node, node


def converged(model: PixelDiffusion, images: Tensor, steps: int = 160, seeds=None) -> Tensor:
    """Latent (B, C, H, W) of the probability-flow ODE itself: PEC on a fine uniform log-SNR grid,
    float64 state.

    The reference for `latent_error`; its own step error is measured by doubling `steps`.
    """
    fine = model.with_(
        steps=steps,
        stepper="pec",
        spacing="log_snr",
        refine=0,
        dtype=torch.float64,
        convention=None,
    )
    return fine.encode(images, seeds)["noise"]


def latent_error(z: Tensor, reference: Tensor) -> np.ndarray:
    """Root-mean-square difference of each latent from its reference, (B,); 1 is the size of the
    noise itself.
    """
    return ((z.double() - reference.double()) ** 2).flatten(1).mean(1).sqrt().numpy()


def round_trip(
    model: PixelDiffusion, images: Tensor, reference: Tensor | None = None, seeds=None
) -> dict:
    """Invert and reconstruct; returns the three numbers and what they cost.

    psnr (B,) in dB; latent_error (B,) against `reference` (from `converged`) or None; code and
    images; evaluations up and down, counted. Gaussianity: pass `code["noise"]` to
    `normality.statistics`. A GAN is a model too: its passes, forward and backward, are evaluations,
    and there is no converged latent to compare with. Built in: inversion.
    """
    counter = getattr(model, "denoiser", model)
    before = counter.calls
    code = model.encode(images, seeds)
    up = counter.calls - before
    back = model.decode(code)
    return {
        "psnr": psnr(images, back).numpy(),
        "latent_error": None if reference is None else latent_error(code["noise"], reference),
        "up": up,
        "down": counter.calls - before - up,
        "code": code,
        "images": back,
    }


def sensitivity(
    model: PixelDiffusion, code: Code, images: Tensor, size: float = 1e-3, seed: int = 0
) -> np.ndarray:
    """Root-mean-square change of the reconstruction per unit of change of `noise`, (B,).

    What happens to an edit of the latent: `noise` moves by a random direction of root-mean-square
    `size`, every other part of the code stays. images: the reconstruction of the unchanged code.
    The flow of the ODE itself gives numbers of the order of 1. Built in: exact_inversion.
    """
    z = code["noise"]
    move = size * noise(range(seed, seed + len(z)), z.shape[1:], "data", z.dtype)
    moved = model.decode(replace(code, tensors=code.tensors | {"noise": z + move}))
    change = (moved - images).flatten(1).norm(dim=1) / move.flatten(1).norm(dim=1)
    return change.numpy()


def denoising_error(denoiser: Denoiser, images: Tensor, at: Node, seeds=None) -> Tensor:
    """Mean squared error of x0 hat per pixel value at one noise level, (B,); images (B, C, H, W) in
    [-1, 1].
    """
    x0 = images.double()
    seeds = range(len(x0)) if seeds is None else seeds
    x = at.alpha * x0 + at.sigma * noise(seeds, x0.shape[1:], "forward", torch.float64)
    return ((denoiser.x0_eps(x, at)[0] - x0) ** 2).flatten(1).mean(1)


def error_ratio(
    denoiser: Denoiser, linear: Gaussian, images: Tensor, lam, seeds=None
) -> np.ndarray:
    """Error of a network ÷ error of the linear-MMSE denoiser at each log-SNR, same images, same
    noise; (L, B, 2).

    The last axis holds (network, linear) squared errors per image, so that a caller can bootstrap
    the ratio of their means. Above 1 the network is worse than the best linear denoiser, and the
    latents it yields say more about the network than about the images. Built in: inversion.
    """
    from .denoiser import exact

    best = exact(linear, tuple(images.shape[1:]), denoiser.schedule)
    out = []
    for v in np.atleast_1d(lam):
        at = node(denoiser.schedule, float(v))
        out.append(
            torch.stack([denoising_error(d, images, at, seeds) for d in (denoiser, best)], 1)
        )
    return torch.stack(out).numpy()


def ratio_interval(
    errors: np.ndarray, draws: int = 499, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ratio, low, high) of mean network error ÷ mean linear error, each (L,), 95 % bootstrap over
    images.
    """
    rng = np.random.default_rng(seed)
    i = rng.integers(errors.shape[1], size=(draws, errors.shape[1]))
    boot = errors[:, i].mean(2)  # (L, draws, 2)
    boot = boot[..., 0] / boot[..., 1]
    mean = errors.mean(1)
    lo, hi = np.quantile(boot, [0.025, 0.975], axis=1)
    return mean[:, 0] / mean[:, 1], lo, hi
