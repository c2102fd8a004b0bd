"""Roads between two codes: Algorithm 1 as printed, and what others put in its place.

A road is a function (a, b, u) -> Code: codes of equal batch size B at its ends, u in [0, 1]. A part
of a code on a sphere follows the road, a flat one the straight line, unless the road says
otherwise; so a road is written once for every system. A code on the way belongs to no image: its
seeds are None. Built in: geodesics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from scipy import integrate, stats
from torch import Tensor

from . import sphere
from .code import Code
from .diffusion.model import PixelDiffusion
from .diffusion.schedule import Node

Road = Callable[[Code, Code, float], Code]
Mix = Callable[[Tensor, Tensor, float], Tensor]


def straight(a: Tensor, b: Tensor, u: float) -> Tensor:
    """(1 − u) a + u b of tensors (B, ...)."""
    return (1 - u) * a + u * b


def printed(a: Tensor, b: Tensor, u: float) -> Tensor:
    """Algorithm 1 to the letter: the angle is arccos⟨a, b⟩ of latents as they are, (B, ...).

    NaN where the inner product lies outside [-1, 1] or the sine of the angle is 0. Source:
    Ramachandran et al. 2024, Algorithm 1. Built in: geodesics.
    """
    phi = torch.arccos(inner(a, b)).view(-1, *[1] * (a.ndim - 1))
    found = (torch.sin((1 - u) * phi) * a + torch.sin(u * phi) * b) / torch.sin(phi)
    return torch.where(torch.sin(phi) == 0, torch.full_like(found, torch.nan), found)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of rows, (B, ...) -> (B,)."""
    return (a.flatten(1) * b.flatten(1)).sum(1)


def on_sphere(a: Tensor, b: Tensor, u: float) -> Tensor:
    """Great circle of rows scaled to radius √d first; the ends lose their own norms."""
    return sphere.slerp(sphere.project(a), sphere.project(b), u)


def unit_variance(a: Tensor, b: Tensor, u: float, mean: Tensor | float = 0.0) -> Tensor:
    """mean + ((1 − u)(a − mean) + u (b − mean)) / √((1 − u)² + u²): of independent draws of a
    Gaussian with this mean a draw of the same Gaussian, for every u.

    Source: Bodin et al. 2025 (LOL). Built in: geodesics.
    """
    return mean + straight(a - mean, b - mean, u) / math.hypot(1 - u, u)


def road(curved: Mix, flat: Mix = straight) -> Road:
    """The road whose parts on a sphere follow `curved`, flat ones `flat`; tensors (B, ...) and u.

    The road raises ValueError on codes of unequal parts or size, or u outside [0, 1].
    """

    def go(a: Code, b: Code, u: float) -> Code:
        _same_kind(a, b, u)
        mix = {"sphere": curved, "flat": flat}
        parts = {k: mix[a.geometry[k]](v, b[k], u) for k, v in a.tensors.items()}
        return Code(parts, a.geometry)

    return go


ALGORITHM_1 = road(printed)
LERP = road(straight)
SLERP = road(sphere.slerp)  # normalised first, the norm interpolated
UNIT_SLERP = road(on_sphere)
LOL = road(unit_variance)  # a flat part has no known law: it stays on the straight line


def centred(mean: dict[str, Tensor]) -> Road:
    """LOL about the mean (...) of each named part, flat ones too; other parts as in `LOL`."""

    def go(a: Code, b: Code, u: float) -> Code:
        if unknown := set(mean) - set(a.tensors):
            raise ValueError(f"the code has no part {', '.join(sorted(unknown))}")
        c = LOL(a, b, u)
        parts = {k: unit_variance(a[k], b[k], u, m.to(a[k])) for k, m in mean.items()}
        return replace(c, tensors=c.tensors | parts)

    return go


def only(part: str, way: Road = SLERP) -> Road:
    """`way` for one part of the code; the others stay where they start."""

    def go(a: Code, b: Code, u: float) -> Code:
        c = way(a, b, u)
        if part not in c.tensors:
            raise ValueError(f"the code has no part {part!r}; it has {', '.join(c.tensors)}")
        return replace(c, tensors=a.tensors | {part: c[part]})

    return go


def along_ode(model, log_snr: float = 0.0) -> Road:
    """The road that mixes at the model's node nearest `log_snr`, on the way of the ODE.

    Both ends walk down to that node; the images that the model expects there are mixed on a
    straight line, the noises on a great circle; the mixture walks up again, so that it is a code
    like any other. At high log-SNR that is a cross-fade of pixels, at low log-SNR `SLERP`. Raises
    ValueError on a model without an ODE or an auxiliary state. Source: after Ho et al. 2020,
    section 4.3, who mix noised images. Built in: geodesics.
    """
    if not hasattr(model, "denoiser"):
        raise ValueError("a road along the ODE needs a diffusion model")

    def go(a: Code, b: Code, u: float) -> Code:
        _same_kind(a, b, u)
        if set(a.tensors) - {"noise", "semantic"}:
            raise ValueError(f"expected codes of noise and semantic parts, got {set(a.tensors)}")
        flat = {k: straight(v, b[k], u) for k, v in a.tensors.items() if k != "noise"}
        (x0, eps), (y0, eta) = (_halfway(model, c, log_snr) for c in (a, b))
        mixed = Code({**flat, "noise": a["noise"]}, a.geometry)
        with diffusion(model, mixed) as m:
            nodes = _upper(m, log_snr)
            at = nodes[0]
            x = at.alpha * straight(x0, y0, u) + at.sigma * sphere.slerp(eps, eta, u)
            for x in m.walk(x, True, nodes) if len(nodes) > 1 else ():
                pass
        return replace(mixed, tensors=mixed.tensors | {"noise": x.cpu()})

    return go


@contextmanager
def diffusion(model, code: Code) -> Iterator[PixelDiffusion]:
    """The diffusion model over `noise` inside a system, given the other parts of a code."""
    if "semantic" in code.tensors:
        with model.given(code["semantic"]) as m:
            yield m
    else:
        yield getattr(model, "diffusion", model)


def _upper(m: PixelDiffusion, log_snr: float) -> tuple[Node, ...]:
    """Nodes from the one nearest log_snr up to noise."""
    return m.nodes[int(np.argmin([abs(n.lam - log_snr) for n in m.nodes])) :]


def _halfway(model, code: Code, log_snr: float) -> tuple[Tensor, Tensor]:
    """(x̂₀, ε̂) of a code at the node nearest log_snr."""
    with diffusion(model, code) as m:
        nodes = _upper(m, log_snr)[::-1]
        x = code["noise"].to(m.device, m.dtype)
        for x in m.walk(x, False, nodes) if len(nodes) > 1 else ():
            pass
        return m.denoiser.x0_eps(x, nodes[-1])


def walk(way: Road, a: Code, b: Code, at: Sequence[float]) -> Iterator[Code]:
    """The codes of a road at each u of `at`."""
    yield from (way(a, b, float(u)) for u in at)


def ends(a: Code) -> Code:
    """A code as an end of a road: without seeds, so that it is decoded as what lies between."""
    return replace(a, seeds=None)


def misses(way: Road, a: Code, b: Code) -> np.ndarray:
    """Largest error of a road at its ends over the norm of the end, (B,), over all parts; NaN where
    the road does not exist.
    """
    found = []
    for u, end in ((0.0, a), (1.0, b)):
        c = way(a, b, u)
        found += [sphere.norm(c[k] - v) / sphere.norm(v) for k, v in end.tensors.items()]
    return torch.stack(found).amax(0).numpy()


def defined(d: int) -> float:
    """P(|⟨a, b⟩| ≤ 1) of independent a, b ~ N(0, I) on R^d: how often `printed` has a value.

    The mean of 2 Φ(1/|a|) − 1 over the chi law of |a|; near 2 Φ(1/√d) − 1. ValueError unless
    d > 0. Built in: geodesics.
    """
    if d < 1:
        raise ValueError(f"expected a dimension of 1 or more, got {d}")
    chi = stats.chi(d)
    low, high = chi.ppf([1e-12, 1 - 1e-12])
    share = lambda r: (2 * stats.norm.cdf(1 / r) - 1) * chi.pdf(r)  # noqa: E731
    return float(integrate.quad(share, low, high, limit=200)[0])


def w2_mid_point(d: int, way: str, draws: int = 200_000, seed: int = 0) -> float:
    """W2 between N(0, I) on R^d and the law of mid-points of its independent draws.

    way: "lerp" (closed form, (1 − 1/√2) √d), "slerp" (norms of seeded draws: both laws are
    spherically symmetric, so the radial coupling is optimal) or "lol" (0). ValueError on another
    name. Built in: geodesics.
    """
    if way == "lerp":
        return (1 - 2**-0.5) * math.sqrt(d)
    if way == "lol":
        return 0.0
    if way != "slerp":
        raise ValueError(f"way must be 'lerp', 'slerp' or 'lol', got {way!r}")
    rng = np.random.default_rng(seed)
    mean = np.sqrt(rng.chisquare(d, (draws, 2))).mean(1)
    prior = stats.chi(d).ppf((np.arange(draws) + 0.5) / draws)
    return float(np.sqrt(np.mean((np.sort(mean) - prior) ** 2)))


def _same_kind(a: Code, b: Code, u: float) -> None:
    if a.geometry != b.geometry or len(a) != len(b):
        raise ValueError(
            f"a road joins codes of the same parts and size, got {sorted(a.geometry)} × {len(a)} "
            f"and {sorted(b.geometry)} × {len(b)}"
        )
    if not 0 <= u <= 1:
        raise ValueError(f"u must lie in [0, 1], got {u}")
