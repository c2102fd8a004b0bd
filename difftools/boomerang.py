"""Boomerang: noise an image to a level t, walk back down, and land near it.

One function for every diffusion system: pixels for DDPM, latents for LDM, D2C and Stable Diffusion,
and for DAE the pixels under the image's own semantic code. Beside it stands what theory says of it:
for Gaussian data everything has a closed form, that of a strided walk too. Built in: boomerang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .code import noise
from .diffusion.dae import DAE
from .diffusion.inversion import denoising_error
from .diffusion.latent import LatentDiffusion
from .diffusion.model import PixelDiffusion, ancestral
from .diffusion.schedule import Node, Schedule, grid, node
from .gaussians import Gaussian
from .images import validate

BATCH = 64  # images that walk together; what comes out does not depend on it
BANDS = {"coarse": (0, 32), "middle": (32, 256), "fine": (256, None)}  # of eigendirections


def level(schedule: Schedule, t: float) -> Node:
    """The node of a schedule at the fraction t of its times, 0 < t <= 1; else ValueError.

    The first time is no noise to speak of, 1 the last. `at.lam` is the level's log-SNR, which means
    the same in every schedule. Built in: boomerang.
    """
    if not 0 < t <= 1:
        raise ValueError(f"t is the share of the noise schedule, above 0 and at most 1, got {t:g}")
    first, last = schedule.t[0], schedule.t[-1]
    at = node(schedule, float(schedule.lam_of(first + t * (last - first))))
    if at.lam >= schedule.lam[0]:
        raise ValueError(f"t = {t:g} is no level above the image itself in this schedule")
    return at


def way_down(
    schedule: Schedule, t: float, steps: int = 10, spacing: str = "time"
) -> tuple[Node, ...]:
    """steps + 1 nodes from the level t down to the image: every node of the chain, or strides.

    spacing: "time" strides evenly through the times, as FastDPM does (Kong & Ping 2021, STEP);
    "log_snr" evenly in log-SNR. ValueError on t, steps or spacing out of range.
    """
    return grid(schedule, steps, spacing, end=level(schedule, t).lam)[::-1]


def returned(
    diffusion: PixelDiffusion, x0: Tensor, nodes: Sequence[Node], eta: float, seeds: Sequence[int]
) -> Tensor:
    """x0 (B, *shape) noised to the first of the nodes and walked down to the last, float64.

    Noise of the stream "forward", then steps of the stream "ancestral", one generator per sample;
    at the end the denoised image, as in `PixelDiffusion.decode`.
    """
    x = diffusion.forward_noise(x0, seeds, nodes[0]).to(diffusion.device)
    for x in ancestral(diffusion.denoiser, x, nodes, eta, seeds):
        pass
    return diffusion.denoiser.x0_eps(x, nodes[-1])[0].cpu()


@contextmanager
def space(model, images: Tensor) -> Iterator[tuple[PixelDiffusion, Tensor, Callable]]:
    """(diffusion model, what it diffuses, the way from there to images) of a system."""
    if isinstance(model, LatentDiffusion):
        yield model.diffusion, model.latents(images), model.images
    elif isinstance(model, DAE):
        with model.given(model.semantic(images)) as diffusion:
            yield diffusion, images, lambda x, seeds: x
    elif isinstance(model, PixelDiffusion):
        yield model, images, lambda x, seeds: x
    else:
        raise ValueError(f"{getattr(model, 'name', model)} is no diffusion model: Boomerang adds "
                         "noise and walks back by one")


@torch.no_grad()
def boomerang(
    model, images: Tensor, t: float = 0.4, *, eta: float = 1.0, steps: int = 10,
    spacing: str = "time", seeds: Sequence[int] | None = None, progress: bool = False,
) -> Tensor:
    """Images (B, 3, H, W) near the given ones: noise to the level t, then the way back down.

    model: DDPM and its kin, DAE, LDM, D2C, Stable Diffusion. images in [-1, 1]; what comes back is
    near that range and not clipped, float64. t: share of the schedule, above 0, at most 1. eta: 1
    is the stochastic walk of DDPM, 0 the deterministic one of DDIM (FastDPM's kappa). steps,
    spacing: see `way_down`; steps + 1 evaluations an image. seeds (B,): one noise generator per
    sample, by default 0, 1, …; the result depends on neither batch nor device. ValueError on what
    is out of range and on a model that is no diffusion model. Source: Luzi et al. 2024, algorithm
    1. Built in: boomerang.
    """
    validate(images, size=model.size)
    seeds = range(len(images)) if seeds is None else [int(s) for s in seeds]
    if len(seeds) != len(images):
        raise ValueError(f"given {len(seeds)} seeds for {len(images)} images, expected one each")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    out, parts = [], range(0, len(images), BATCH)
    for i in tqdm(parts, unit="batch", leave=False, disable=not progress):
        own = seeds[i : i + BATCH]
        with space(model, images[i : i + BATCH]) as (diffusion, x0, back):
            nodes = way_down(diffusion.denoiser.schedule, t, steps, spacing)
            out.append(back(returned(diffusion, x0, nodes, eta, own), own).double())
    return torch.cat(out)


def runs(
    model, images: Tensor, t: float, n: int, seed: int = 0, **settings
) -> Tensor:
    """n runs from each image, (n, B, 3, H, W): image i of run r has the seed `seed` + r·B + i."""
    b = len(images)
    flat = boomerang(model, images.repeat(n, 1, 1, 1), t, seeds=range(seed, seed + n * b),
                     **settings)
    return flat.reshape(n, *images.shape)


@torch.no_grad()
def denoised_error(model, images: Tensor, t: float, seeds: Sequence[int]) -> np.ndarray:
    """Mean squared error per value (B,) of the one-step denoiser at the level t, in the space that
    the model diffuses: what stands for the mmse of a network.
    """
    with space(model, images) as (diffusion, x0, _):
        at = level(diffusion.denoiser.schedule, t)
        return denoising_error(diffusion.denoiser, x0, at, seeds).numpy()


# What theory says, for data with a Gaussian law (any spectrum)


def survival(spectrum: Tensor, at: Node) -> Tensor:
    """ρ = SNR / (1 + SNR) of directions with variances `spectrum` (d,) at a level, (d,) in [0, 1]:
    what a stochastic walk leaves of them. Built in: boomerang.
    """
    signal = at.alpha**2 * spectrum
    return signal / (signal + at.sigma**2)


def kernel(spectrum: Tensor, nodes: Sequence[Node], eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """(gain, variance) by direction, (d,) each, of a strided walk with the exact denoiser:
    x' − mean = gain · (x0 − mean) + N(0, variance).

    With ever more steps the gain tends to ρ^((1 + η²)/2). nodes: as from `way_down`. Built in:
    boomerang.
    """
    best = lambda at: at.alpha * spectrum / (at.alpha**2 * spectrum + at.sigma**2)  # noqa: E731
    gain, variance = torch.ones_like(spectrum), torch.zeros_like(spectrum)
    for a, b in zip(nodes, nodes[1:]):
        c = eta * (b.sigma / a.sigma) * max(0.0, 1 - (a.alpha / b.alpha) ** 2) ** 0.5
        left = (1 - a.alpha * best(a)) / a.sigma  # eps hat ÷ x
        step = b.alpha * best(a) + (b.sigma**2 - c**2) ** 0.5 * left
        gain, variance = step * gain, step**2 * variance + c**2
    last = best(nodes[-1])
    start = (last * gain * nodes[0].sigma) ** 2  # the noise that took the image to the level
    return last * gain * nodes[0].alpha, start + last**2 * variance


def distances(spectrum: Tensor, gain: Tensor, variance: Tensor) -> tuple[float, float]:
    """(mean squared distance to the original, mean squared distance of two runs) per value, for
    originals from the law, of x' − mean = gain · (x0 − mean) + N(0, variance).
    """
    return (float(((1 - gain) ** 2 * spectrum + variance).mean()), float(2 * variance.mean()))


def limit(spectrum: Tensor, at: Node, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """(gain, variance) of the walk with infinitely many steps: gain r = ρ^((1 + η²)/2), variance
    λ(1 − r²). For η = 1 the squared distance is twice the mmse.
    """
    r = survival(spectrum, at) ** ((1 + eta**2) / 2)
    return r, spectrum * (1 - r**2)


def strided(spectrum: Tensor, nodes: Sequence[Node], eta: float = 1.0) -> float:
    """Squared distance of a strided walk ÷ that of the limit, from the closed forms: below 1."""
    here = distances(spectrum, *kernel(spectrum, nodes, eta))[0]
    return here / distances(spectrum, *limit(spectrum, nodes[0], eta))[0]


def slopes(law: Gaussian, x0: Tensor, back: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By band of the law's eigendirections: (⟨x' − m, x0 − m⟩, ‖x0 − m‖²) of each image, (B,) each,
    in coordinates divided by their standard deviation.

    x0 (B, 3, H, W); back (n, B, 3, H, W), whose mean over the n runs is taken. The ratio of the two
    sums is the slope of what came back on the original. Beyond the law's own eigenvectors all
    directions have one variance. Built in: boomerang.
    """
    law = law.to(torch.float64)
    v, w = (x.double().flatten(1) - law.mean for x in (x0, back.double().mean(0)))
    c, d = v @ law.U, w @ law.U
    own = {k: (d[:, a:b] * c[:, a:b] / law.lam[a:b], c[:, a:b].square() / law.lam[a:b])
           for k, (a, b) in BANDS.items() if b}
    out = {k: (x.sum(1), y.sum(1)) for k, (x, y) in own.items()}
    rest = ((v * w).sum(1) - (c * d).sum(1), v.square().sum(1) - c.square().sum(1))
    return out | {"fine": tuple(x / law.rest for x in rest)}


def kept(law: Gaussian, x0: Tensor, gain: Tensor) -> np.ndarray:
    """Share of an image's difference from the mean that survives by the law, (B,): the gains of the
    directions (d,), weighted by the image's own energy in them.
    """
    law = law.to(torch.float64)
    v = x0.double().flatten(1) - law.mean
    c = (v @ law.U).square()
    total = v.square().sum(1)
    inside = (c * gain[: law.lam.numel()]).sum(1)
    return ((inside + (total - c.sum(1)) * gain[-1]) / total).numpy()


def measured(law: Gaussian, x0: Tensor, back: Tensor) -> np.ndarray:
    """The same share, measured, (B,): ⟨x' − m, x0 − m⟩ / ‖x0 − m‖², x' the mean of n runs (n, B, 3,
    H, W).
    """
    m = law.mean.double()
    v, w = x0.double().flatten(1) - m, back.double().mean(0).flatten(1) - m
    return ((v * w).sum(1) / v.square().sum(1)).numpy()


def noised(images: Tensor, squared: Tensor | np.ndarray, seeds: Sequence[int]) -> Tensor:
    """Images with plain noise of a given mean square on each (B,): the null that has a boomerang's
    distance and needs no model; clipped to [-1, 1] as in a file.
    """
    size = torch.as_tensor(squared).double().sqrt().reshape(-1, 1, 1, 1)
    n = noise(seeds, images.shape[1:], "data", torch.float64)
    return (images.double() + size * n).clamp(-1, 1)
