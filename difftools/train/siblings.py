"""Train the small siblings of DAE, LDM and D2C, and a v-prediction model: `difftools train dae`.

Each is a small configuration of the class that loads the official checkpoint, trained the way its
paper says where that matters: DAE's encoder and denoiser together, then a diffusion model over its
codes; LDM and D2C an autoencoder, then a diffusion model over its latents. All denoisers of images
and latents are Gaussian preconditioned, as `ddpm`'s is.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import gaussians
from ..diffusion import schedule as schedules
from ..gaussians import Gaussian
from ..images import to_float
from ..nets import adm, configs, nvae
from ..nets.unet import GaussianPreconditioned, VPredicting, parts, unet, vq
from . import ddpm, loop

DAE = ddpm.Recipe(images=64_000)
DAE_LATENT = loop.Recipe(images=1_000_000, batch=256, lr=1e-3)
LDM_FIRST = loop.Recipe(images=48_000, ema=0.99)
LDM = ddpm.Recipe(images=96_000, rank=128)
D2C_FIRST = loop.Recipe(images=48_000, lr=1e-3, ema=0.99)
D2C = ddpm.Recipe(images=128_000, batch=64, rank=512)
V = ddpm.Recipe(images=64_000)
CONTRAST = 0.1  # weight of D2C's contrastive term, nats per image against nats per value
TEMPERATURE = 0.2


def bf16(x: Tensor) -> torch.autocast:
    """bfloat16 autocast on the device of x."""
    return torch.autocast(x.device.type, dtype=torch.bfloat16)


def dae_loss(recipe, schedule, module, x0: Tensor, gen, done: float) -> Tensor:
    """Residual of the denoiser given the semantic code of the image itself."""
    with bf16(x0):
        z = module.net.encoder(x0.contiguous(memory_format=torch.channels_last))
    return ddpm.loss_of(recipe, module, x0, gen, schedule, z)


def semantic_loss(schedule, net, z: Tensor, gen, done: float) -> Tensor:
    """L1 error of eps on standardised semantic codes (B, k). Source: Preechakul et al. 2022."""
    t = torch.randint(0, len(schedule.t), (len(z),), generator=gen)
    alpha, sigma = (torch.from_numpy(v).float() for v in schedules.alpha_sigma(schedule.lam[t]))
    noise = torch.randn(z.shape, generator=gen)
    x = alpha[:, None] * z + sigma[:, None] * noise
    return (net(x, t.float()) - noise).abs().mean()


@torch.no_grad()
def over(f, images: Tensor, batch: int = 250) -> Tensor:
    """f on batches, concatenated."""
    return torch.cat([f(x) for x in images.split(batch)])


def train_dae(
    pixels: np.ndarray, gaussian: Gaussian, folder: Path, device: str = "cpu", images=None
) -> tuple[nn.ModuleDict, dict]:
    """DAE on uint8 images (N, H, W, 3): (parts net, latent, mean, std; facts for the card)."""
    recipe = DAE if images is None else replace(DAE, images=images)
    build = lambda: GaussianPreconditioned(adm.DiffAE(**configs.DAE_VEHICLES32), gaussian)  # noqa: E731
    loss = partial(dae_loss, recipe, schedules.linear())
    net, facts = loop.fit(recipe, build, loss, pixels, folder / "net", device)
    net = net.cpu()
    z = over(net.net.encoder, to_float(pixels))
    mean, std = z.mean(0), z.std(0)
    recipe = DAE_LATENT if images is None else replace(DAE_LATENT, images=10 * images)
    latent, more = loop.fit(
        recipe,
        lambda: adm.LatentMLP(**configs.LATENT_VEHICLES32),
        partial(semantic_loss, schedules.constant()),
        (z - mean) / std,
        folder / "latent",
    )
    return parts({"net": net, "latent": latent}, mean=mean, std=std), facts | {"latent": more}


def train_v(
    pixels: np.ndarray, gaussian: Gaussian, folder: Path, device: str = "cpu", images=None
) -> tuple[nn.Module, dict]:
    """A v-predicting U-Net of the OpenAI dialect on the cosine schedule: (module; facts)."""
    recipe, schedule = V if images is None else replace(V, images=images), schedules.cosine()
    build = lambda: VPredicting(adm.UNet(**configs.V_VEHICLES32), gaussian)  # noqa: E731
    loss = lambda m, x0, gen, done: ddpm.loss_of(recipe, m, x0, gen, schedule)  # noqa: E731
    return loop.fit(recipe, build, loss, pixels, folder / "net", device)


def vq_loss(net, x0: Tensor, gen, done: float, warm: float = 0.4) -> Tensor:
    """Absolute and squared error of the reconstruction, plus the codebook's two terms.

    Until `warm` the codebook is not used; then it starts from latents of the batch, so that no code
    starts dead.
    """
    x0 = x0.contiguous(memory_format=torch.channels_last)
    with bf16(x0):
        h = net.encode(x0).latents
    h = h.float()
    error = lambda y: (y.float() - x0).abs().mean() + ((y.float() - x0) ** 2).mean()  # noqa: E731
    if done < warm:
        with bf16(x0):
            y = net.decode(h, force_not_quantize=True).sample
        return error(y) + 1e-3 * (h**2).mean()
    codes = net.quantize.embedding.weight
    if float(codes.detach().abs().max()) <= 1 / len(codes):  # as diffusers draws them
        flat = h.detach().permute(0, 2, 3, 1).reshape(-1, h.shape[1])
        pick = torch.randint(0, len(flat), (len(codes),), generator=gen)
        codes.data.copy_(flat[pick])
    q, commit, _ = net.quantize(h)
    with bf16(x0):
        y = net.decode(q, force_not_quantize=True).sample
    return error(y) + commit


@torch.no_grad()
def unit_latents(net: nn.Module, images: Tensor) -> None:
    """Scale the latents of a VQ autoencoder to unit variance, exactly: the convolutions on either
    side and the codebook take the factor. LDM's scale factor of 1 then fits.
    """
    std = over(lambda x: net.encode(x).latents, images).std()
    net.quant_conv.weight.div_(std), net.quant_conv.bias.div_(std)
    net.quantize.embedding.weight.div_(std)
    net.post_quant_conv.weight.mul_(std)


def nvae_loss(net, x0: Tensor, gen, done: float) -> Tensor:
    """D2C's objective: negative log-likelihood of the 5-bit image, plus InfoNCE between two views.

    Views are random crops with flips and brightness; their latents' projections are compared within
    the batch instead of with a momentum queue. Source: Sinha et al. 2021, eq. 4–5.
    """
    x = nvae.quantise(x0)
    with bf16(x0):
        z = net["first"].encode(x.contiguous(memory_format=torch.channels_last))
    value = nvae.nll(net["first"], z.float(), x).mean()
    views = [view(x0, gen) for _ in range(2)]
    with bf16(x0):
        a, b = (net["project"](net["first"].encode(nvae.quantise(v)).flatten(1)) for v in views)
    a, b = F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
    logits = a @ b.T / TEMPERATURE
    contrast = F.cross_entropy(logits, torch.arange(len(a), device=a.device))
    return value + CONTRAST * contrast + 1e-3 * (z.float() ** 2).mean()


def view(x: Tensor, gen: torch.Generator) -> Tensor:
    """One random crop (60–100 % a side), flip and brightness for each image (B, C, H, W)."""
    B = len(x)
    u = torch.rand(B, 5, generator=gen).to(x)
    side = 0.6 + 0.4 * u[:, 0]
    flip = torch.where(u[:, 3] < 0.5, -1.0, 1.0)
    theta = torch.zeros(B, 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = side * flip, side
    theta[:, :, 2] = (2 * u[:, 1:3] - 1) * (1 - side[:, None])
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, align_corners=False, padding_mode="border")
    return (moved * (0.6 + 0.8 * u[:, 4, None, None, None])).clamp(-1, 1)


def both_ways(pixels: np.ndarray) -> Tensor:
    """Images and their mirror images, float (2N, 3, H, W) in [-1, 1]."""
    x = to_float(pixels)
    return torch.cat([x, x.flip(3)])


def prior_over(
    latents: Tensor, build, recipe: ddpm.Recipe, schedule, folder: Path, device: str
) -> tuple[nn.Module, dict]:
    """A Gaussian-preconditioned denoiser over latents (N, c, h, w)."""
    g = gaussians.fit(latents.flatten(1), recipe.rank)
    module = lambda: GaussianPreconditioned(zero_last(build()), g, keep=True)  # noqa: E731
    loss = lambda m, x0, gen, done: ddpm.loss_of(recipe, m, x0, gen, schedule)  # noqa: E731
    net, facts = loop.fit(recipe, module, loss, latents, folder, device)
    return net.cpu(), facts


def zero_last(net: nn.Module) -> nn.Module:
    """A U-Net whose last layer is zero: preconditioned, it starts as the linear denoiser."""
    last = net.conv_out if hasattr(net, "conv_out") else net.out[-1]
    nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    return net


def train_ldm(
    pixels: np.ndarray, gaussian, folder: Path, device: str = "cpu", images=None
) -> tuple[nn.ModuleDict, dict]:
    """LDM on uint8 images (N, H, W, 3): (parts first, net; facts)."""
    recipe = LDM_FIRST if images is None else replace(LDM_FIRST, images=images)
    first, facts = loop.fit(
        recipe, lambda: vq(**configs.VQ_VEHICLES32), vq_loss, pixels, folder / "first", device
    )
    first = first.cpu()
    unit_latents(first, to_float(pixels[:1000]))
    z = over(lambda x: first.encode(x).latents, both_ways(pixels))
    recipe = LDM if images is None else replace(LDM, images=2 * images)
    build = lambda: adm.UNet(**configs.LDM_VEHICLES32)  # noqa: E731
    net, more = prior_over(z, build, recipe, schedules.sqrt_linear(), folder / "net", device)
    return parts({"first": first, "net": net}), more | {"first": facts}


def train_d2c(
    pixels: np.ndarray, gaussian, folder: Path, device: str = "cpu", images=None
) -> tuple[nn.ModuleDict, dict]:
    """D2C on uint8 images (N, H, W, 3): (parts first, net, mean, std; facts)."""
    recipe = D2C_FIRST if images is None else replace(D2C_FIRST, images=images)

    def build() -> nn.ModuleDict:
        first = nvae.NVAE(**configs.NVAE_VEHICLES32)
        with torch.no_grad():
            width = first.eval().encode(torch.zeros(1, 3, *pixels.shape[1:3])).numel()
        return nn.ModuleDict({"first": first.train(), "project": nn.Linear(width, 64)})

    net, facts = loop.fit(recipe, build, nvae_loss, pixels, folder / "first", device)
    first = net["first"].cpu().eval()
    z = over(lambda x: first.encode(nvae.quantise(x)), both_ways(pixels))
    mean, std = z.mean((0, 2, 3), keepdim=True), z.std((0, 2, 3), keepdim=True)
    recipe = D2C if images is None else replace(D2C, images=2 * images)
    network = lambda: unet(**configs.D2C_VEHICLES32)  # noqa: E731
    prior, more = prior_over(
        (z - mean) / std, network, recipe, schedules.linear(), folder / "net", device
    )
    return parts({"first": first, "net": prior}, mean=mean, std=std), more | {"first": facts}
