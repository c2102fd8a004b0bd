"""A linear code of images: what a method of so many numbers returns without any network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..code import Code, noise
from ..gaussians import Gaussian
from ..images import validate


def cosines(shape: tuple[int, int, int]) -> Tensor:
    """Orthonormal cosine basis of images (3, n, n), columns (3 n², 3 n²), low frequencies first.

    Colour is split into its mean and two differences, which count as of twice the frequency, as
    the eye and every image format have it. float64.
    """
    _, n, _ = shape
    k = torch.arange(n, dtype=torch.float64)
    wave = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / n) * (2 / n) ** 0.5  # (k, n)
    wave[0] /= 2**0.5
    colour = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    colour = colour / colour.norm(dim=1, keepdim=True)
    basis = torch.einsum("ca,ij,kl->cikajl", colour, wave, wave)  # (3, n, n) × image
    far = (k[:, None] ** 2 + k**2).sqrt() + 1e-9 * k  # ties by the second axis
    order = torch.stack([far, 2 * far + 0.25, 2 * far + 0.5]).flatten().argsort(stable=True)
    return basis.reshape(3 * n * n, -1)[order].T


@dataclass
class Linear:
    """Coordinates in an orthonormal basis as a latent model.

    law: Gaussian of the training images; as many of its principal components as `numbers`, and
    where it has not so many, the leading cosines (on photographs as good from 512 numbers on).
    Exact once numbers reaches the values of an image. Built in: inversion_tables.
    """

    law: Gaussian
    shape: tuple[int, int, int]
    numbers: int = 256
    name: str = "linear"
    device: str = "cpu"
    dtype: torch.dtype = torch.float64

    calls = 0  # of a network: it has none

    def __post_init__(self):
        if not 0 < self.numbers <= self.law.d:
            raise ValueError(f"given {self.numbers} numbers, expected 1 to {self.law.d}")

    def with_(self, **changes) -> Linear:
        """A copy with other settings: `model.with_(numbers=1024)`."""
        return replace(self, **changes)

    @property
    def size(self) -> int:
        """Pixels a side of the images."""
        return self.shape[-1]

    @property
    def dof_per_value(self) -> float:
        """Coordinates per pixel value."""
        return self.numbers / self.law.d

    @cached_property
    def basis(self) -> Tensor:
        """Orthonormal columns (d, numbers)."""
        U = self.law.U if self.numbers <= self.law.U.shape[1] else cosines(self.shape)
        return U[:, : self.numbers].to(self.dtype)

    def encode(self, images: Tensor, seeds=None) -> Code:
        """Code with `coordinates` (B, numbers), flat, of images (B, 3, H, W) in [-1, 1]."""
        validate(images, size=self.size)
        x = images.to(self.dtype).flatten(1) - self.law.mean.to(self.dtype)
        seeds = tuple(range(len(x))) if seeds is None else tuple(int(s) for s in seeds)
        return Code({"coordinates": x @ self.basis}, {"coordinates": "flat"}, seeds)

    def decode(self, code: Code) -> Tensor:
        """Images (B, 3, H, W), near [-1, 1] and not clipped."""
        x = code["coordinates"].to(self.dtype) @ self.basis.T + self.law.mean.to(self.dtype)
        return x.reshape(-1, *self.shape)

    def prior(self, n: int, seed: int = 0) -> Code:
        """n codes of draws from the Gaussian itself; seeds seed, seed + 1, …"""
        seeds = range(seed, seed + n)
        x = self.law.to(self.dtype).sample(noise(seeds, (self.law.d,), "prior", self.dtype))
        z = (x - self.law.mean.to(self.dtype)) @ self.basis
        return Code({"coordinates": z}, {"coordinates": "flat"}, tuple(seeds))
