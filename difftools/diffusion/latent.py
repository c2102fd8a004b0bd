"""Latent diffusion: LDM and D2C, a diffusion model over the latents of an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..code import Code, noise
from ..images import validate
from ..nets import nvae
from .conventions import IMAGE
from .model import PixelDiffusion
from .schedule import node
from .steppers import ddim, integrate

MODES = ("ddim_latent", "ae_only", "official_r0")
QUANTISE = ("at_decode", "before_diffusion", "never")


@dataclass
class VQ:
    """LDM's first stage. quantise: "at_decode" (official: the diffusion sees unquantised latents),
    "before_diffusion", or "never".
    """

    net: torch.nn.Module  # diffusers' VQModel
    quantise: str = "at_decode"

    def __post_init__(self):
        if self.quantise not in QUANTISE:
            raise ValueError(f"quantise must be one of {QUANTISE}, got {self.quantise!r}")

    def encode(self, images: Tensor) -> Tensor:
        z = self.net.encode(images).latents
        return self.net.quantize(z)[0] if self.quantise == "before_diffusion" else z

    def decode(self, latents: Tensor, seeds=None) -> Tensor:
        return self.net.decode(latents, force_not_quantize=self.quantise != "at_decode").sample


@dataclass
class NVAE:
    """D2C's first stage. bits: quantisation of the input (official: 5), None leaves it alone.
    pixels: "mean", "mode", or "sample", the official decoder, which draws pixels.
    """

    net: nvae.NVAE
    bits: int | None = 5
    pixels: str = "mean"

    def encode(self, images: Tensor) -> Tensor:
        return self.net.encode(images if self.bits is None else nvae.quantise(images, self.bits))

    def decode(self, latents: Tensor, seeds=None) -> Tensor:
        return self.net.decode(latents, self.pixels, seeds)


@dataclass
class LatentDiffusion:
    """LDM or D2C as a latent model: image -> autoencoder -> diffusion over (latent − mean) / std.

    mode: "ddim_latent" inverts the latent to noise (Code with `noise`); "ae_only" is the
    autoencoder alone (Code with `latent`), the ceiling of every table; "official_r0" is D2C's
    released pipeline with a step of 0: noise to t = 50, two DDIM steps, decode. Settings of
    `PixelDiffusion` and of the autoencoder are settings here too. Source: Rombach et al. 2022;
    Sinha et al. 2021. Built in: exact_inversion. """

    autoencoder: VQ | NVAE
    diffusion: PixelDiffusion
    shape: tuple[int, int, int]  # of an image
    mean: Tensor  # (1, c, 1, 1)
    std: Tensor
    mode: str = "ddim_latent"
    name: str = "latent diffusion"

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {self.mode!r}")

    def with_(self, **changes) -> LatentDiffusion:
        """A copy with other settings, of any part: `model.with_(steps=50, quantise="never")`."""
        names = lambda part: {f.name for f in fields(part)}  # noqa: E731
        own = {k: changes.pop(k) for k in names(self) & set(changes)}
        first = {k: changes.pop(k) for k in names(self.autoencoder) & set(changes)}
        own |= {"autoencoder": replace(self.autoencoder, **first)} if first else {}
        return replace(self, **own | {"diffusion": self.diffusion.with_(**changes)})

    @property
    def denoiser(self):
        """The denoiser over standardised latents."""
        return self.diffusion.denoiser

    @property
    def size(self) -> int:
        """Pixels a side of the images."""
        return self.shape[-1]

    @property
    def dof_per_value(self) -> float:
        """Latent coordinates per pixel value."""
        return torch.Size(self.denoiser.shape).numel() / torch.Size(self.shape).numel()

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Standardised latents (B, c, h, w) of images (B, 3, H, W) in [-1, 1], in the state's
        dtype.
        """
        validate(images, size=self.size)
        z = self.autoencoder.encode(images.to(self.diffusion.device, torch.float32))
        return ((z - self.mean.to(z)) / self.std.to(z)).cpu().to(self.diffusion.dtype)

    @torch.no_grad()
    def images(self, latents: Tensor, seeds=None) -> Tensor:
        """Images (B, 3, H, W) of standardised latents; the way back of `latents`."""
        z = latents.to(self.diffusion.device, torch.float32)
        images = self.autoencoder.decode(z * self.std.to(z) + self.mean.to(z), seeds)
        return images.cpu().to(latents.dtype)

    def encode(self, images: Tensor, seeds=None) -> Code:
        """`noise` (a sphere) in mode "ddim_latent", else `latent` (flat: no Gaussian anywhere)."""
        z = self.latents(images)
        if self.mode == "ddim_latent":
            return self.diffusion.invert(z, seeds)
        seeds = tuple(range(len(z))) if seeds is None else tuple(int(s) for s in seeds)
        return Code({"latent": z}, {"latent": "flat"}, seeds)

    def decode(self, code: Code) -> Tensor:
        """Images (B, 3, H, W), near [-1, 1] and not clipped."""
        seeds = code.seeds or tuple(range(len(code)))
        if "latent" not in code.tensors:
            return self.images(self.diffusion.decode(code), seeds)
        z = code["latent"]
        return self.images(self.smooth(z, seeds) if self.mode == "official_r0" else z, seeds)

    def smooth(self, z: Tensor, seeds, t: float = 50.0) -> Tensor:
        """D2C's post-processing of standardised latents: fresh noise to time t, then DDIM t -> 0 ->
        clean.
        """
        schedule = self.denoiser.schedule
        nodes = [node(schedule, float(schedule.lam_of(v))) for v in (t, 0.0)] + [IMAGE]
        z = z.to(self.diffusion.device)
        x = nodes[0].alpha * z + nodes[0].sigma * noise(seeds, z.shape[1:], "forward", z.dtype).to(
            z.device
        )
        return integrate(ddim, self.denoiser.field, nodes[0].chart(x), nodes).cpu()

    def manipulate(self, images: Tensor, boundary: Tensor, r: float, seeds=None) -> Tensor:
        """D2C's edit: latent − r · boundary (1, c, h, w) in unstandardised units, then as
        "official_r0".
        """
        code = self.with_(mode="official_r0").encode(images, seeds)
        z0 = code["latent"]
        z = z0 - r * boundary.to(z0) / self.std.to(z0)
        return self.images(self.smooth(z, code.seeds), code.seeds)

    def prior(self, n: int, seed: int = 0) -> Code:
        """n noises from N(0, I); decode them to sample."""
        return self.diffusion.prior(n, seed)
