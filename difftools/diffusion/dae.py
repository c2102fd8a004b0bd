"""Diffusion Autoencoders: a semantic code that an encoder reads off, and the noise that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..code import Code
from ..images import validate
from .model import PixelDiffusion


@dataclass
class DAE:
    """Diffusion autoencoder as a latent model: Code with `semantic` (B, k) and `noise` (B, C, H,
    W).

    encoder: images (B, C, H, W) -> semantic (B, k), raw. diffusion: the conditional model; its
    network takes the semantic code as a fourth argument. semantic_prior: a diffusion model over
    (semantic − mean) / std, for sampling; None if there is none. Settings of `PixelDiffusion`
    (steps, stepper, convention, …) are settings here too. Source: Preechakul et al. 2022. Built in:
    exact_inversion. """

    encoder: Callable[[Tensor], Tensor]
    diffusion: PixelDiffusion
    semantic_prior: PixelDiffusion | None
    mean: Tensor
    std: Tensor
    name: str = "dae"

    def with_(self, **changes) -> DAE:
        """A copy with other settings of the diffusion model: `model.with_(steps=50)`."""
        mine = {f.name for f in fields(self)}
        own = {k: v for k, v in changes.items() if k in mine}
        rest = {k: v for k, v in changes.items() if k not in mine}
        return replace(self, **own | {"diffusion": self.diffusion.with_(**rest)})

    @property
    def denoiser(self):
        """The conditional denoiser; its network wants a semantic code (see `given`)."""
        return self.diffusion.denoiser

    @property
    def size(self) -> int:
        """Pixels a side of the images."""
        return self.diffusion.size

    @property
    def dof_per_value(self) -> float:
        """Latent coordinates per pixel value: the noise alone has one each."""
        return 1 + self.mean.numel() / torch.Size(self.denoiser.shape).numel()

    @contextmanager
    def given(self, semantic: Tensor) -> Iterator[PixelDiffusion]:
        """The diffusion model with its semantic code (B, k) bound, for batches of that size B."""
        d = self.denoiser
        z = semantic.to(self.diffusion.device, d.net_dtype)
        bound = replace(d, net=lambda x, t, lam: d.net(x, t, lam, z), calls=0)
        yield replace(self.diffusion, denoiser=bound)
        d.calls += bound.calls

    @torch.no_grad()
    def semantic(self, images: Tensor) -> Tensor:
        """Semantic code (B, k) of images (B, C, H, W) in [-1, 1], in the state's dtype."""
        validate(images, size=self.size)
        x = images.to(self.diffusion.device, self.denoiser.net_dtype)
        return self.encoder(x).cpu().to(self.diffusion.dtype)

    def encode(self, images: Tensor, seeds=None) -> Code:
        """Semantic code, then the noise that reconstructs the image given it."""
        z = self.semantic(images)
        with self.given(z) as diffusion:
            code = diffusion.invert(images, seeds)
        return Code(
            {"semantic": z, **code.tensors}, {"semantic": "flat", **code.geometry}, code.seeds
        )

    def decode(self, code: Code) -> Tensor:
        """Images (B, C, H, W), near [-1, 1] and not clipped."""
        with self.given(code["semantic"]) as diffusion:
            return diffusion.decode(code.drop("semantic"))

    def prior(self, n: int, seed: int = 0) -> Code:
        """n codes: semantic from its own diffusion model, noise from N(0, I)."""
        if self.semantic_prior is None:
            raise ValueError(f"{self.name} has no model of its semantic codes: it cannot sample")
        z = self.semantic_prior.decode(self.semantic_prior.prior(n, seed))
        z = z * self.std.to(z) + self.mean.to(z)
        noise = self.diffusion.prior(n, seed)["noise"]
        return Code({"semantic": z, "noise": noise}, {"semantic": "flat", "noise": "sphere"})
