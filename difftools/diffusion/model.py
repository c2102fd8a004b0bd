"""A pixel-space diffusion model as a latent model: encode = walk up the grid, decode = walk it
down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..code import Code, generator, noise
from ..images import validate
from .denoiser import Denoiser
from .schedule import Node, grid
from .steppers import REVERSE, STEPPERS, integrate


@dataclass
class PixelDiffusion:
    """DDPM and every other model whose latent has the shape of the image.

    denoiser: network on a schedule. steps, spacing: the grid. stepper: a name in
    `steppers.STEPPERS`. refine: passes of x ← x + (x₀ − rec(inv(x))) after inversion, each as long
    as a round trip. seeded: start from alpha_0 x + sigma_0 n(seed) and take n off again at the end,
    so that latents are not those of a noiseless image that the network never saw. dtype: of the
    state, float32 or float64. Source: research on inversion in this book. Built in: inversion.
    """

    denoiser: Denoiser
    name: str = "diffusion"
    steps: int = 20
    spacing: str = "log_snr"
    stepper: str = "pec"
    refine: int = 0
    seeded: bool = True
    dtype: torch.dtype = torch.float64
    start: float | None = None  # log-SNR of the grid's first node

    dof_per_value = 1.0  # latent coordinates per pixel value

    def __post_init__(self):
        if self.stepper not in STEPPERS:
            raise ValueError(f"unknown stepper {self.stepper!r}; known: {', '.join(STEPPERS)}")
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"the state must be float32 or float64, got {self.dtype}: rounding would dominate"
            )

    def with_(self, **changes) -> PixelDiffusion:
        """A copy with other settings: `model.with_(steps=50, stepper="ddim")`."""
        return replace(self, **changes)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The grid from image to noise, steps + 1 nodes."""
        return grid(self.denoiser.schedule, self.steps, self.spacing, start=self.start)

    def walk(self, x: Tensor, up: bool, nodes: tuple[Node, ...] | None = None) -> Iterator[Tensor]:
        """States x on each node after the first, walking up (to noise) or down (to the image)."""
        nodes = (self.nodes if up else self.nodes[::-1]) if nodes is None else nodes
        name = self.stepper if up else REVERSE.get(self.stepper, self.stepper)
        y = nodes[0].chart(x.to(self.dtype))
        for state, at in zip(STEPPERS[name](self.denoiser.field, y, nodes), nodes[1:], strict=True):
            yield at.unchart(state[0] if isinstance(state, tuple) else state)

    def up(self, x: Tensor) -> tuple[Tensor, ...]:
        """State(s) on the last node from the state x on the first: inversion without checks and
        start noise.
        """
        nodes = self.nodes
        y = integrate(STEPPERS[self.stepper], self.denoiser.field, nodes[0].chart(x), nodes)
        return tuple(nodes[-1].unchart(v) for v in (y if isinstance(y, tuple) else (y,)))

    def down(self, *z: Tensor) -> Tensor:
        """State on the first node from the state(s) on the last; the way back of `up`."""
        nodes = self.nodes[::-1]
        y = tuple(nodes[0].chart(v) for v in z)
        name = REVERSE.get(self.stepper, self.stepper)
        y = integrate(STEPPERS[name], self.denoiser.field, y if len(y) > 1 else y[0], nodes)
        return nodes[-1].unchart(y[0] if isinstance(y, tuple) else y)

    def encode(self, images: Tensor, seeds=None) -> Code:
        """Invert images (B, C, H, W) in [-1, 1]; seeds (B,) of the start noise, by default 0, 1, …

        Returns Code with `noise` (a sphere, variance-preserving state at the last node) and, for
        two-state steppers, `auxiliary`. Raises ValueError on images that `images.validate` refuses.
        """
        validate(images, size=self.denoiser.shape[-1])
        seeds = tuple(range(len(images))) if seeds is None else tuple(int(s) for s in seeds)
        first = self.nodes[0]
        target = first.alpha * images.to(self.dtype)
        if self.seeded:
            target = target + first.sigma * noise(seeds, self.denoiser.shape, "start", self.dtype)
        z = self.up(target)
        if self.refine:
            z = self._refined(target, z)
        parts = dict(zip(("noise", "auxiliary"), z))
        geometry = dict(zip(("noise", "auxiliary"), ("sphere", "flat")[: len(z)]))
        return Code(parts, geometry, seeds)

    def _refined(self, target: Tensor, z: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """x ← x + (target − rec(inv(x))), image by image: keep the best, stop when it no longer
        shrinks.
        """
        x, best, z_best = target, None, z
        active = torch.ones(len(target), dtype=torch.bool)
        for k in range(self.refine + 1):
            residual = target - self.down(*z)
            r = residual.flatten(1).norm(dim=1)
            r = torch.where(r.isfinite(), r, torch.inf)
            active = (
                active & (r < best) if k else active
            )  # an image that got worse stays where it was best
            pick = active.view(-1, *[1] * (target.ndim - 1))
            best = torch.where(active, r, best) if k else r
            z_best = tuple(torch.where(pick, new, old) for new, old in zip(z, z_best, strict=True))
            if k == self.refine or not bool(active.any()):
                break
            x = torch.where(pick, x + residual, x)
            z = self.up(x)
        return z_best

    def decode(self, code: Code) -> Tensor:
        """Images (B, C, H, W), near [-1, 1] and not clipped, in the state's dtype.

        A code that still has its seeds is reconstructed (its start noise is taken off); any other
        code is a sample, and ends with one more evaluation, the denoised image at the last node.
        """
        z = [code[k].to(self.dtype) for k in ("noise", "auxiliary") if k in code.tensors]
        x, first = self.down(*z), self.nodes[0]
        if code.seeds is None:
            return self.denoiser.x0_eps(x, first)[0]
        if self.seeded:
            x = x - first.sigma * noise(code.seeds, self.denoiser.shape, "start", self.dtype)
        return x / first.alpha

    def prior(self, n: int, seed: int = 0) -> Code:
        """n latents from N(0, I), seeds seed, seed + 1, …; decode them to sample."""
        z = noise(range(seed, seed + n), self.denoiser.shape, "prior", self.dtype)
        return Code({"noise": z}, {"noise": "sphere"})

    def forward_noise(self, images: Tensor, seeds=None, at: Node | None = None) -> Tensor:
        """Noise images to a node (default: the last), x = alpha x0 + sigma n: the stochastic
        forward process.
        """
        at = self.nodes[-1] if at is None else at
        seeds = range(len(images)) if seeds is None else seeds
        return at.alpha * images.to(self.dtype) + at.sigma * noise(
            seeds, self.denoiser.shape, "forward", self.dtype
        )


def ancestral(
    denoiser: Denoiser, x: Tensor, nodes, eta: float = 1.0, seeds=None
) -> Iterator[Tensor]:
    """Stochastic DDIM from the first node down to the last; yields x (B, C, H, W) on each node
    after the first.

    eta in [0, 1]: 0 is DDIM, 1 is DDPM with the posterior variance. One noise generator per sample.
    Source: Song et al. 2021, eq. 12 and 16. Built in: inversion.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    seeds = range(len(x)) if seeds is None else seeds
    gens = [generator(s, "ancestral") for s in seeds]
    for a, b in zip(nodes, nodes[1:]):
        x0, eps = denoiser.x0_eps(x, a)
        if b.sigma > a.sigma:
            raise ValueError("ancestral sampling walks from noise to image: pass a reversed grid")
        c = eta * (b.sigma / a.sigma) * max(0.0, 1 - (a.alpha / b.alpha) ** 2) ** 0.5
        n = torch.stack([torch.randn(x.shape[1:], generator=g) for g in gens]).to(x.dtype)
        x = b.alpha * x0 + (b.sigma**2 - c**2) ** 0.5 * eps + c * n
        yield x
