"""A pixel-space diffusion model as a latent model: encode = walk up the grid, decode = walk it
down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..code import Code, generator, noise
from ..images import validate
from .conventions import CONVENTIONS, Convention
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
    convention: str | None = None  # a published one, see `conventions`: walked by ddim
    device: str = "cpu"  # of the state; the network must be there (`zoo.load(…, device=…)`)

    dof_per_value = 1.0  # latent coordinates per pixel value

    def __post_init__(self):
        if self.stepper not in STEPPERS:
            raise ValueError(f"unknown stepper {self.stepper!r}; known: {', '.join(STEPPERS)}")
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"the state must be float32 or float64, got {self.dtype}: rounding would dominate"
            )
        if self.convention is not None and self.convention not in CONVENTIONS:
            raise ValueError(
                f"unknown convention {self.convention!r}; known: {', '.join(CONVENTIONS)}"
            )

    def with_(self, **changes) -> PixelDiffusion:
        """A copy with other settings: `model.with_(steps=50, stepper="ddim")`."""
        return replace(self, **changes)

    @property
    def size(self) -> int:
        """Pixels a side of the images."""
        return self.denoiser.shape[-1]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The grid from image to noise, steps + 1 nodes."""
        return self.path.up

    @property
    def path(self) -> Convention:
        """The nodes of both directions: one grid and its reverse, unless a convention says
        otherwise.
        """
        if self.convention:
            return CONVENTIONS[self.convention](self.denoiser.schedule, self.steps)
        up = grid(self.denoiser.schedule, self.steps, self.spacing, start=self.start)
        return Convention(up, up[::-1])

    def _stepper(self, up: bool):
        """(stepper, field) of one direction."""
        if self.convention:
            return STEPPERS["ddim"], partial(self.denoiser.field, clip=self.path.clip)
        name = self.stepper if up else REVERSE.get(self.stepper, self.stepper)
        return STEPPERS[name], self.denoiser.field

    def walk(self, x: Tensor, up: bool, nodes: tuple[Node, ...] | None = None) -> Iterator[Tensor]:
        """States x on each node after the first, walking up (to noise) or down (to the image)."""
        nodes = (self.path.up if up else self.path.down) if nodes is None else nodes
        stepper, field = self._stepper(up)
        y = nodes[0].chart(x.to(self.dtype))
        for state, at in zip(stepper(field, y, nodes), nodes[1:], strict=True):
            yield at.unchart(state[0] if isinstance(state, tuple) else state)

    def up(self, x: Tensor) -> tuple[Tensor, ...]:
        """State(s) on the last node from the state x on the first: inversion without checks and
        start noise.
        """
        nodes, (stepper, field) = self.path.up, self._stepper(True)
        y = integrate(stepper, field, nodes[0].chart(x), nodes)
        return tuple(nodes[-1].unchart(v) for v in (y if isinstance(y, tuple) else (y,)))

    def down(self, *z: Tensor) -> Tensor:
        """State on the first node from the state(s) on the last; the way back of `up`."""
        nodes, (stepper, field) = self.path.down, self._stepper(False)
        y = tuple(nodes[0].chart(v) for v in z)
        y = integrate(stepper, field, y if len(y) > 1 else y[0], nodes)
        return nodes[-1].unchart(y[0] if isinstance(y, tuple) else y)

    def encode(self, images: Tensor, seeds=None) -> Code:
        """Invert images (B, C, H, W) in [-1, 1]; seeds (B,) of the start noise, by default 0, 1, …

        Returns Code with `noise` (a sphere, variance-preserving state at the last node) and, for
        two-state steppers, `auxiliary`. Raises ValueError on images that `images.validate` refuses.
        """
        validate(images, size=self.size)
        return self.invert(images, seeds)

    def invert(self, images: Tensor, seeds=None) -> Code:
        """`encode` without a check of the range: for data that are no images, such as latents."""
        seeds = tuple(range(len(images))) if seeds is None else tuple(int(s) for s in seeds)
        first = self.nodes[0]
        target = images.to(self.device, self.dtype)
        if not self.convention:  # the published ones take the image itself as the first state
            target = first.alpha * target
        if self.seeded and not self.convention:
            target = target + first.sigma * self._noise(seeds, "start")
        z = self.up(target)
        if self.refine:
            z = self._refined(target, z)
        parts = dict(zip(("noise", "auxiliary"), (v.cpu() for v in z)))
        geometry = dict(zip(("noise", "auxiliary"), ("sphere", "flat")[: len(z)]))
        return Code(parts, geometry, seeds)

    def _refined(self, target: Tensor, z: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """x ← x + (target − rec(inv(x))), image by image: keep the best, stop when it no longer
        shrinks.
        """
        x, best, z_best = target, None, z
        active = torch.ones(len(target), dtype=torch.bool, device=target.device)
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
        keys = [k for k in ("noise", "auxiliary") if k in code.tensors]
        x, first = self.down(*(code[k].to(self.device, self.dtype) for k in keys)), self.nodes[0]
        if self.convention:
            return x.cpu()
        if code.seeds is None:
            return self.denoiser.x0_eps(x, first)[0].cpu()
        if self.seeded:
            x = x - first.sigma * self._noise(code.seeds, "start")
        return (x / first.alpha).cpu()

    def _noise(self, seeds, stream: str) -> Tensor:
        return noise(seeds, self.denoiser.shape, stream, self.dtype).to(self.device)

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


def posterior(x0: Tensor, eps: Tensor, a: Node, b: Node, eta: float) -> tuple[Tensor, float]:
    """Mean (B, C, H, W) and standard deviation of the stochastic DDIM step from node a to cleaner
    b.

    eta in [0, 1]: 0 is DDIM, 1 is DDPM with the posterior variance. Source: Song et al. 2021, eq.
    12 and 16. """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    if b.sigma > a.sigma:
        raise ValueError("ancestral sampling walks from noise to image: pass a reversed grid")
    c = eta * (b.sigma / a.sigma) * max(0.0, 1 - (a.alpha / b.alpha) ** 2) ** 0.5
    return b.alpha * x0 + (b.sigma**2 - c**2) ** 0.5 * eps, c


def ancestral(
    denoiser: Denoiser, x: Tensor, nodes, eta: float = 1.0, seeds=None
) -> Iterator[Tensor]:
    """Stochastic DDIM from the first node down to the last; yields x (B, C, H, W) on each node
    after the first.

    One noise generator per sample. Raises ValueError on eta outside [0, 1] or a grid that walks up.
    Built in: inversion.
    """
    seeds = range(len(x)) if seeds is None else seeds
    gens = [generator(s, "ancestral") for s in seeds]
    for a, b in zip(nodes, nodes[1:]):
        mean, c = posterior(*denoiser.x0_eps(x, a), a, b, eta)
        n = torch.stack([torch.randn(x.shape[1:], generator=g) for g in gens]).to(x.dtype)
        x = mean + c * n
        yield x


def edit_friendly(model: PixelDiffusion, images: Tensor, seeds=None, eta: float = 1.0) -> Code:
    """DDPM inversion: every level noised independently; what each ancestral step misses is stored.

    Returns `noise` (B, C, H, W), the last level, and `residuals` (B, steps, C, H, W): steps + 1
    latents for one image, exact by construction. Residuals are stored undivided, so that a small
    posterior variance costs no accuracy. Source: Huberman-Spiegelglas et al. 2024. Built in:
    exact_inversion.
    """
    seeds = tuple(range(len(images))) if seeds is None else tuple(int(s) for s in seeds)
    nodes, x0 = model.path.up, images.to(model.dtype)
    n = noise(seeds, (len(nodes), *model.denoiser.shape), "forward", model.dtype)
    levels = [at.alpha * x0 + at.sigma * n[:, k] for k, at in enumerate(nodes)]
    residuals = []
    for k in range(len(nodes) - 1, 0, -1):
        mean, _ = posterior(
            *model.denoiser.x0_eps(levels[k], nodes[k]), nodes[k], nodes[k - 1], eta
        )
        residuals.append(levels[k - 1] - mean)
    residuals[-1] = residuals[-1] - nodes[0].sigma * n[:, 0]  # the walk ends on the image itself
    return Code(
        {"noise": levels[-1], "residuals": torch.stack(residuals, 1)},
        {"noise": "sphere", "residuals": "flat"},
        seeds,
    )


def from_edit_friendly(model: PixelDiffusion, code: Code, eta: float = 1.0) -> Tensor:
    """Images (B, C, H, W) of a code of `edit_friendly`: the ancestral walk with stored
    residuals.
    """
    nodes, x = model.path.down, code["noise"]
    for k, (a, b) in enumerate(zip(nodes, nodes[1:])):
        x = posterior(*model.denoiser.x0_eps(x, a), a, b, eta)[0] + code["residuals"][:, k]
    return x / nodes[-1].alpha
