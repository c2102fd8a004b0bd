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
    channels=(32, 64, 96),
    layers=2,
    attention=(2,),
    groups=16,
    head_dim=24,
    size=32,
    image_channels=3,
    eps=1e-5,
    asymmetric=False,
) -> nn.Module:
    """A `diffusers.UNet2DModel`: x (B, C, size, size), t (B,) -> (B, C, size, size).

    The family of `google/ddpm-cifar10-32`; ``attention`` names the levels that carry
    self-attention, head_dim=None gives them one head. asymmetric: halve with a pad of (0, 1, 0, 1),
    as the Ho dialect does. Source: Ho et al. 2020.
    """
    from diffusers import UNet2DModel

    n = len(channels)
    down = ["AttnDownBlock2D" if i in attention else "DownBlock2D" for i in range(n)]
    up = ["AttnUpBlock2D" if n - 1 - i in attention else "UpBlock2D" for i in range(n)]
    return UNet2DModel(
        sample_size=size,
        in_channels=image_channels,
        out_channels=image_channels,
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        norm_num_groups=groups,
        attention_head_dim=head_dim,
        norm_eps=eps,
        downsample_padding=0 if asymmetric else 1,
        flip_sin_to_cos=not asymmetric,
        freq_shift=int(asymmetric),
    )


def parts(modules: dict[str, nn.Module], **buffers: Tensor) -> nn.ModuleDict:
    """The networks of a system and its statistics under one state dict."""
    out = nn.ModuleDict(modules)
    for name, value in buffers.items():
        out.register_buffer(name, value)
    return out


def vq(size, channels, layers, latent, codes, groups=32) -> nn.Module:
    """diffusers' `VQModel`: images (B, 3, size, size) <-> latents (B, latent, h, w), h = size /
    2^(levels − 1). Source: Esser et al. 2021; Rombach et al. 2022.
    """
    from diffusers import VQModel

    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        latent_channels=latent,
        sample_size=size,
        num_vq_embeddings=codes,
        norm_num_groups=groups,
        vq_embed_dim=latent,
        scaling_factor=1.0,
    )


def predict(net: nn.Module, *args) -> Tensor:
    """A network's prediction, ours or diffusers' (which wraps it)."""
    out = net(*args)
    return out.sample if hasattr(out, "sample") else out


class GaussianPreconditioned(nn.Module):
    """x0-prediction = linear-MMSE denoiser of a Gaussian + gain · c_out · network residual.

    It starts at the floor (the best linear denoiser) instead of climbing to it; the network learns
    what is not Gaussian. EDM's preconditioning with the scalar sigma_data replaced by the data's
    covariance; the gain (a table over lam, fitted after training, 1 before) shrinks the residual
    where it is mostly error.

    forward: x (B, C, H, W) variance preserving, t (B,) schedule time, lam (B,) log-SNR, and what
    else the network is told -> x0 (B, C, H, W). Source: Karras et al. 2022, eq. 7, with Wang &
    Vastola's Gaussian score. Built in: inversion. """

    def __init__(self, net: nn.Module, gaussian: Gaussian, keep: bool = False):
        """keep: the Gaussian is part of the state dict (a latent space's own), not of a shared
        file.
        """
        super().__init__()
        self.net = net
        g = gaussian.to(torch.float32)
        rest = torch.tensor(g.rest, dtype=torch.float64)
        for name, v in (("mean", g.mean), ("eigenvalues", g.lam), ("U", g.U), ("rest", rest)):
            self.register_buffer(name, v, persistent=keep)
        self.register_buffer("gain", torch.ones(GAIN_NODES))

    @property
    def gaussian(self) -> Gaussian:
        return Gaussian(self.mean, self.eigenvalues, self.U, float(self.rest))

    def gain_at(self, lam: Tensor) -> Tensor:
        """Gain (B,) at log-SNR lam (B,), linear between nodes, constant outside."""
        lo, hi = GAIN_LAM
        u = ((lam - lo) / (hi - lo) * (GAIN_NODES - 1)).clamp(0, GAIN_NODES - 1 - 1e-4)
        i = u.long()
        w = u - i
        return self.gain[i] * (1 - w) + self.gain[i + 1] * w

    def linear(self, x: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """(Gaussian x0, c_out): the linear-MMSE denoiser and the root of its error, (B, 1, 1,
        1).
        """
        s = torch.exp(-lam.float())[:, None]  # sigma/alpha
        x_ve = x.float().flatten(1) * (1 + s * s).sqrt()  # x / alpha
        g = self.gaussian
        with torch.autocast(x.device.type, enabled=False):  # two products carry most of the answer
            return g.denoise(x_ve, s).reshape(x.shape), g.mmse(s).sqrt()[:, None, None, None]

    def parts(self, x: Tensor, t: Tensor, lam: Tensor, *cond) -> tuple[Tensor, Tensor, Tensor]:
        """(Gaussian x0, c_out, residual F): the three factors of `forward`."""
        return *self.linear(x, lam), predict(self.net, x.float(), t.float(), *cond).float()

    def forward(self, x: Tensor, t: Tensor, lam: Tensor, *cond) -> Tensor:
        x0, c_out, F = self.parts(x, t, lam, *cond)
        return x0 + self.gain_at(lam.float())[:, None, None, None] * c_out * F


class VPredicting(GaussianPreconditioned):
    """The same denoiser, saying v = alpha eps − sigma x0 = (alpha x − x0) / sigma instead of x0.

    Source: Salimans & Ho 2022.
    """

    def forward(self, x: Tensor, t: Tensor, lam: Tensor, *cond) -> Tensor:
        alpha, sigma = (torch.sigmoid(v * lam).sqrt()[:, None, None, None] for v in (2, -2))
        return (alpha * x - super().forward(x, t, lam, *cond)) / sigma
