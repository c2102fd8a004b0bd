"""Geometry of latents on (or near) a sphere: norms, angles, great circles."""

from __future__ import annotations

import math

import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def norm(z: Tensor) -> Tensor:
    """Euclidean norm of each row, (B, ...) -> (B,)."""
    return z.flatten(1).norm(dim=1)


def project(z: Tensor, radius: float | None = None) -> Tensor:
    """Scale each row to `radius`, by default sqrt(d); zero rows raise ValueError."""
    r = norm(z)
    if bool((r == 0).any()):
        raise ValueError("the zero vector has no direction: cannot project it to a sphere")
    radius = math.sqrt(z[0].numel()) if radius is None else radius
    return z * (radius / r).view(-1, *[1] * (z.ndim - 1))


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle between rows in radians, (B,), in [0, pi]; accurate for small and for nearly opposite
    angles.

    Source: Kahan's formula, 2 atan2(|u − v|, |u + v|) of the unit vectors.
    """
    u, v = project(a, 1.0).flatten(1), project(b, 1.0).flatten(1)
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


def slerp(a: Tensor, b: Tensor, u: float | Tensor) -> Tensor:
    """Great circle between the directions of rows, norm interpolated linearly; u in [0, 1] or (B,).

    Algorithm 1 of Ramachandran et al. 2024 with latents normalised first. Antipodal rows raise
    ValueError.
    """
    phi = angle(a, b).view(-1, *[1] * (a.ndim - 1))
    if bool((phi > math.pi - 1e-6).any()):
        raise ValueError("antipodal points have no unique great circle between them")
    u = torch.as_tensor(u, dtype=a.dtype, device=a.device)
    u = u.view(-1, *[1] * (a.ndim - 1)) if u.ndim else u
    ra, rb = (norm(v).view(-1, *[1] * (a.ndim - 1)) for v in (a, b))
    small = phi < 1e-6  # sin(phi)/phi -> 1: fall back to the chord
    s = torch.where(small, torch.ones_like(phi), torch.sin(phi))
    wa = torch.where(small, 1 - u, torch.sin((1 - u) * phi) / s)
    wb = torch.where(small, u, torch.sin(u * phi) / s)
    return (wa * a / ra + wb * b / rb) * ((1 - u) * ra + u * rb)


def uniform(n: int, d: int, gen: torch.Generator, radius: float | None = None) -> Tensor:
    """n points uniform on the sphere in R^d, float64 (n, d), radius sqrt(d) by default."""
    return project(torch.randn(n, d, generator=gen, dtype=torch.float64), radius)


def w2_to_uniform(d: int) -> float:
    """W2 between N(0, I) on R^d and the uniform law on its sphere of radius sqrt(d); tends to
    1/sqrt(2).

    The radial coupling is optimal: W2² = E(|X| − sqrt(d))², with E|X| the mean of the chi law.
    Built in: hypersphere.
    """
    r, mean = math.sqrt(d), float(stats.chi(d).mean())
    return math.sqrt(2 * r * (r - mean))


def w2_samples(a: Tensor, b: Tensor) -> float:
    """W2 between two samples of equal size, (n, ...) each: the cheapest way to pair them off.

    Two samples of one law are not at distance 0; see the chapter. Raises ValueError on unequal
    sizes. Built in: hypersphere.
    """
    if len(a) != len(b):
        raise ValueError(f"a pairing needs samples of equal size, got {len(a)} and {len(b)}")
    cost = torch.cdist(a.double().flatten(1), b.double().flatten(1)).numpy() ** 2
    return float(cost[linear_sum_assignment(cost)].mean() ** 0.5)


def contrast(x: Tensor) -> float:
    """ln(largest / smallest distance) between the rows of x (n, ...): 0 when all are equally far
    apart.

    Raises ValueError if two rows are equal. Built in: hypersphere.
    """
    apart = torch.pdist(x.double().flatten(1))
    if float(apart.min()) == 0:
        raise ValueError("two rows are equal: their distance is 0 and the contrast infinite")
    return float(torch.log(apart.max() / apart.min()))
