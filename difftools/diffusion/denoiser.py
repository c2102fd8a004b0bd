"""A denoiser on a noise schedule: every prediction type becomes one field, dy/dtau = eps − x0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..gaussians import Gaussian, Mixture
from ..nets.unet import predict
from .schedule import Node, Schedule, linear

PREDICTIONS = ("eps", "x0", "v")


@dataclass
class Denoiser:
    """Network + schedule + what the network predicts; the only place that knows about eps, x0 and
    v.

    net: (x (B, *shape) variance preserving, t (B,), lam (B,)) -> prediction (B, *shape). The
    network runs in its own dtype; the state keeps its dtype (float32 or float64) and is never
    rounded below float32. predicts: "eps", "x0" or "v" (v = alpha eps − sigma x0, Salimans & Ho
    2022). calls: number of batched network evaluations so far, counted and never assumed. Built in:
    inversion.
    """

    net: Callable[[Tensor, Tensor, Tensor], Tensor]
    schedule: Schedule
    shape: tuple[int, ...]
    predicts: str = "eps"
    net_dtype: torch.dtype = torch.float32
    calls: int = 0

    def __post_init__(self):
        if self.predicts not in PREDICTIONS:
            raise ValueError(f"predicts must be one of {PREDICTIONS}, got {self.predicts!r}")

    @torch.no_grad()
    def x0_eps(self, x: Tensor, at: Node) -> tuple[Tensor, Tensor]:
        """(x0 hat, eps hat) at state x (B, *shape) on node `at`, both in the dtype of x."""
        self.calls += 1
        t, lam = x.new_full((len(x),), at.t), x.new_full((len(x),), at.lam)
        p = self.net(x.to(self.net_dtype), t.to(self.net_dtype), lam.to(self.net_dtype)).to(x.dtype)
        a, s = at.alpha, at.sigma
        if self.predicts == "eps":
            return (x - s * p) / a, p
        if self.predicts == "x0":
            return p, (x - a * p) / s
        return a * x - s * p, s * x + a * p

    def field(self, y: Tensor, at: Node, clip: bool = False) -> Tensor:
        """dy/dtau = eps hat − x0 hat at the charted state y = x/(alpha + sigma).

        clip: x0 hat is clipped to [-1, 1] and eps hat derived from it again, so that the step stays
        consistent.
        """
        x = at.unchart(y)
        x0, eps = self.x0_eps(x, at)
        if clip:
            x0 = x0.clamp(-1, 1)
            eps = (x - at.alpha * x0) / at.sigma
        return eps - x0


FAST = ("bf16", "compile")


def accelerated(denoiser: Denoiser, how: str) -> Denoiser:
    """The same denoiser, faster; state and coefficients stay as they are.

    "bf16": convolutions and attention in bfloat16 (latents move by a few per cent of their size, so
    never for exactness above 50 dB). "compile": `torch.compile`, on a GPU with CUDA graphs
    (latents move by float32 rounding). Raises ValueError on another name.
    """
    if how not in FAST:
        raise ValueError(f"fast must be one of {FAST}, got {how!r}")
    net = denoiser.net
    if how == "compile":  # the device is known when the first image comes

        @lru_cache(maxsize=2)
        def compiled(kind: str):
            return torch.compile(net, mode="reduce-overhead" if kind == "cuda" else "default")

        return replace(denoiser, net=lambda x, *told: compiled(x.device.type)(x, *told))

    def run(x, *told):
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return net(x, *told).float()

    return replace(denoiser, net=run)


def exact(
    law: Gaussian | Mixture, shape: tuple[int, ...], schedule: Schedule | None = None
) -> Denoiser:
    """The denoiser of a law whose score is known: world S. Computes in float64."""
    law = law.to(torch.float64)

    def net(x, t, lam):
        s = torch.exp(-lam)[:, None]  # sigma / alpha
        x_ve = x.flatten(1) * (1 + s * s).sqrt()  # x / alpha
        return law.denoise(x_ve, s).reshape(x.shape)

    return Denoiser(net, schedule or linear(), shape, "x0", torch.float64)


def zero(shape: tuple[int, ...], schedule: Schedule | None = None) -> Denoiser:
    """The network that predicts no noise, eps = 0: a null for every claim about inversion."""
    return Denoiser(
        lambda x, t, lam: torch.zeros_like(x), schedule or linear(), shape, "eps", torch.float64
    )


def from_unet(
    unet: torch.nn.Module, schedule: Schedule, shape: tuple[int, ...], predicts: str = "eps"
) -> Denoiser:
    """A U-Net, unet(x, t), as a denoiser; channels last, evaluation mode.

    Output channels beyond the image's are a learned variance and are left out.
    """
    unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def net(x, t, lam):
        return predict(unet, x.contiguous(memory_format=torch.channels_last), t)[:, : shape[0]]

    return Denoiser(net, schedule, shape, predicts)
