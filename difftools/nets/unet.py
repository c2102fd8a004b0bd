"""Pixel-space U-Nets: the Ho/diffusers dialect, and the network around a Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..gaussians import Gaussian

VEHICLES32 = {
    "channels": (32, 64, 96),
    "layers": 2,
    "attention": (2,),
    "groups": 16,
    "head_dim": 24,
}
GAIN_NODES = 49  # the gain is a table over log-SNR
GAIN_LAM = (-5.2, 4.6)


def unet(
    channels=(32, 64, 96), layers=2, attention=(2,), groups=16, head_dim=24, size=32
) -> nn.Module:
    """A small `diffusers.UNet2DModel`: (B, 3, size, size), t (B,) -> (B, 3, size, size).

    The family of `google/ddpm-cifar10-32`; ``attention`` names the levels that carry
    self-attention.
    """
    from diffusers import UNet2DModel

    n = len(channels)
    down = ["AttnDownBlock2D" if i in attention else "DownBlock2D" for i in range(n)]
    up = ["AttnUpBlock2D" if n - 1 - i in attention else "UpBlock2D" for i in range(n)]
    return UNet2DModel(
        sample_size=size,
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        norm_num_groups=groups,
        attention_head_dim=head_dim,
    )


class GaussianPreconditioned(nn.Module):
    """x0-prediction = linear-MMSE denoiser of a Gaussian + gain · c_out · network residual.

    It starts at the floor (the best linear denoiser) instead of climbing to it; the network learns
    what is not Gaussian. EDM's preconditioning with the scalar sigma_data replaced by the data's
    covariance; the gain (a table over lam, fitted after training, 1 before) shrinks the residual
    where it is mostly error.

    forward: x (B, C, H, W) variance preserving, t (B,) schedule time, lam (B,) log-SNR -> x0 (B, C,
    H, W). Source: Karras et al. 2022, eq. 7, with Wang & Vastola's Gaussian score. Built in:
    inversion.
    """

    def __init__(self, net: nn.Module, gaussian: Gaussian):
        super().__init__()
        self.net = net
        g = gaussian.to(torch.float32)
        self.rest = g.rest
        self.register_buffer("mean", g.mean, persistent=False)
        self.register_buffer("eigenvalues", g.lam, persistent=False)
        self.register_buffer("U", g.U, persistent=False)
        self.register_buffer("gain", torch.ones(GAIN_NODES))

    @property
    def gaussian(self) -> Gaussian:
        return Gaussian(self.mean, self.eigenvalues, self.U, self.rest)

    def gain_at(self, lam: Tensor) -> Tensor:
        """Gain (B,) at log-SNR lam (B,), linear between nodes, constant outside."""
        lo, hi = GAIN_LAM
        u = ((lam - lo) / (hi - lo) * (GAIN_NODES - 1)).clamp(0, GAIN_NODES - 1 - 1e-4)
        i = u.long()
        w = u - i
        return self.gain[i] * (1 - w) + self.gain[i + 1] * w

    def parts(self, x: Tensor, t: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(Gaussian x0, c_out, residual F): the three factors of `forward`."""
        s = torch.exp(-lam.float())[:, None]  # sigma/alpha
        x = x.float()
        x_ve = x.flatten(1) * (1 + s * s).sqrt()  # x / alpha
        g = self.gaussian
        x0 = g.denoise(x_ve, s).reshape(x.shape)
        c_out = g.mmse(s).sqrt()[:, None, None, None]
        F = self.net(x, t.float()).sample.float()
        return x0, c_out, F

    def forward(self, x: Tensor, t: Tensor, lam: Tensor) -> Tensor:
        x0, c_out, F = self.parts(x, t, lam)
        return x0 + self.gain_at(lam.float())[:, None, None, None] * c_out * F
