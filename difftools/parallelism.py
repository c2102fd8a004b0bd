"""Is one edit one direction? Angles between displacements of latents, under eight definitions.

The claim prints an angle and does not say between what. So the definitions are data here, each
with what random pairs give, and all of them read the same few numbers: the inner products of the
latents. Built in: parallelism.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from . import code, data, images, sphere

SPLITS, BASES = 20, 32  # random halves that are averaged; base points of `shared_base`
TINY = 1e-12  # of squared lengths: float64 rounding, below it there is no direction


@dataclass(frozen=True)
class Pairs:
    """Inner products of n source latents s and target latents t, (n, n) each, float64: st[i, j] is
    s_i · t_j. Angles need no more.
    """

    ss: np.ndarray
    st: np.ndarray
    tt: np.ndarray

    def __len__(self) -> int:
        return len(self.ss)

    @property
    def displacements(self) -> np.ndarray:
        """Inner products of the displacements t_i − s_i, (n, n)."""
        return self.tt - self.st - self.st.T + self.ss

    @property
    def cosines(self) -> np.ndarray:
        """Cosines between displacements, (n, n)."""
        G = self.displacements
        length = np.sqrt(np.diagonal(G))
        return np.clip(G / np.outer(length, length), -1, 1)

    def select(self, index) -> Pairs:
        """The pairs at `index`, in that order."""
        at = np.ix_(index, index)
        return Pairs(self.ss[at], self.st[at], self.tt[at])

    def permuted(self, seed: int = 0) -> Pairs:
        """Every source with the target of another one: a random cycle through all pairs."""
        order = np.random.default_rng(seed).permutation(len(self))
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)
        return Pairs(self.ss, self.st[:, other], self.tt[np.ix_(other, other)])


def pairs(source: Tensor, target: Tensor) -> Pairs:
    """Inner products of latents (n, ...) before and after an edit.

    Raises ValueError on unequal shapes, fewer than 4 pairs, values that are not finite, or a pair
    whose target is its source: no displacement, no direction.
    """
    if source.shape != target.shape or source.ndim < 2:
        raise ValueError(f"given sources {tuple(source.shape)} and targets {tuple(target.shape)}, "
                         "expected two equal shapes (n, ...)")
    if len(source) < 4:
        raise ValueError(f"given {len(source)} pairs, expected 4 or more: angles lie between pairs")
    s, t = (v.double().flatten(1) for v in (source, target))
    if not bool(s.isfinite().all() and t.isfinite().all()):
        raise ValueError("given latents with NaN or infinite values, expected numbers")
    still = (t - s).square().sum(1) <= TINY * (s.square().sum(1) + t.square().sum(1))
    if bool(still.any()):
        raise ValueError(f"pair {int(still.nonzero()[0])} has its source as target: an edit that "
                         "changes nothing has no direction")
    return Pairs(*((a @ b.T).numpy() for a, b in ((s, s), (s, t), (t, t))))


def _off(matrix: np.ndarray) -> np.ndarray:
    """The entries above the diagonal."""
    return matrix[np.triu_indices(len(matrix), 1)]


def _arc(p: Pairs) -> np.ndarray:
    """Angle at the origin between the source and the target of each pair, (n,)."""
    cosine = np.diagonal(p.st) / np.sqrt(np.diagonal(p.ss) * np.diagonal(p.tt))
    return np.arccos(np.clip(cosine, -1, 1))


def pairwise(p: Pairs) -> float:
    """Mean angle between the displacements of two pairs."""
    return float(np.arccos(_off(p.cosines)).mean())


def to_mean(p: Pairs) -> float:
    """Mean angle between a displacement and the mean of the others."""
    G = p.displacements
    row, own = G.sum(1), np.diagonal(G)
    others = np.sqrt(np.maximum(G.sum() - 2 * row + own, TINY))
    return float(np.arccos(np.clip((row - own) / (np.sqrt(own) * others), -1, 1)).mean())


def source_target(p: Pairs) -> float:
    """Mean angle between source and target: the φ of R's Algorithm 1, latents normalised."""
    return float(_arc(p).mean())


def arc_spread(p: Pairs) -> float:
    """Standard deviation over pairs of the angle between source and target."""
    return float(_arc(p).std(ddof=1))


def halves(p: Pairs) -> float:
    """Angle between the mean displacements of two random halves, mean over 20 splits."""
    G, n, rng = p.displacements, len(p), np.random.default_rng(0)
    found = []
    for _ in range(SPLITS):
        order = rng.permutation(n)
        a, b = order[: n // 2], order[n // 2 :]
        aa, ab, bb = (G[np.ix_(u, v)].sum() for u, v in ((a, a), (a, b), (b, b)))
        found.append(np.arccos(np.clip(ab / math.sqrt(max(aa * bb, TINY)), -1, 1)))
    return float(np.mean(found))


def shared_base(p: Pairs) -> float:
    """Mean angle between the targets of two other pairs, seen from a source (32 at most)."""
    found = []
    for i in range(min(BASES, len(p))):
        k = np.delete(np.arange(len(p)), i)
        G = p.tt[np.ix_(k, k)] - p.st[i, k][:, None] - p.st[i, k] + p.ss[i, i]
        length = np.sqrt(np.diagonal(G))
        found.append(np.arccos(np.clip(_off(G / np.outer(length, length)), -1, 1)).mean())
    return float(np.mean(found))


def planes(p: Pairs) -> float:
    """Mean smallest principal angle between the planes of two great circles from source to target.

    Source: Björck & Golub 1973; of 2 × 2 matrices the largest singular value in closed form.
    """
    a, b, c = (np.diagonal(v) for v in (p.ss, p.st, p.tt))
    low = b / np.sqrt(a)  # Cholesky factor of [[a, b], [b, c]]: rows (√a, 0), (low, high)
    high = np.sqrt(np.maximum(c - low**2, TINY * c))
    m11 = p.ss / np.sqrt(np.outer(a, a))
    m12 = (p.st - m11 * np.outer(np.sqrt(a), low)) / np.outer(np.sqrt(a), high)
    m21 = m12.T
    m22 = (p.tt - np.outer(low, low) * m11 - low[:, None] * m12 * high
           - m21 * high[:, None] * low) / np.outer(high, high)
    energy, det = m11**2 + m12**2 + m21**2 + m22**2, m11 * m22 - m12 * m21
    largest = (energy + np.sqrt(np.maximum(energy**2 - 4 * det**2, 0))) / 2
    return float(np.arccos(np.clip(np.sqrt(_off(largest)), 0, 1)).mean())


def one_minus_cosine(p: Pairs) -> float:
    """Mean of 1 − cosine between the displacements of two pairs: no angle, but small when it is."""
    return float(1 - _off(p.cosines).mean())


class Definition(NamedTuple):
    """One reading of "the angle". of: pairs -> its value, rad. random: d -> its value for pairs of
    independent latents in d dimensions, up to o(1/√d).
    """

    of: Callable[[Pairs], float]
    random: Callable[[int], float]
    says: str


_right = lambda d: math.pi / 2  # noqa: E731
DEFINITIONS: dict[str, Definition] = {
    "pairwise": Definition(pairwise, _right, "between two displacements"),
    "to mean": Definition(to_mean, _right, "to the mean of the others"),
    "source-target": Definition(source_target, _right, "from source to target"),
    "arc spread": Definition(arc_spread, lambda d: 1 / math.sqrt(d), "spread of source to target"),
    "halves": Definition(halves, _right, "between means of two halves"),
    "shared base": Definition(shared_base, lambda d: math.pi / 3, "targets, seen from one source"),
    "planes": Definition(
        planes, lambda d: math.pi / 2 - math.sqrt(math.pi / d), "between great circles' planes"),
    "1 − cosine": Definition(one_minus_cosine, lambda d: 1.0, "1 − cosine of two displacements"),
}


def angle(name: str, source: Tensor, target: Tensor) -> float:
    """One definition of `DEFINITIONS` for latents (n, ...) before and after an edit, rad.

    Raises ValueError on an unknown definition and as `pairs`. Built in: parallelism.
    """
    if name not in DEFINITIONS:
        raise ValueError(f"unknown definition {name!r}; known: {', '.join(DEFINITIONS)}")
    return DEFINITIONS[name].of(pairs(source, target))


def jackknife(f: Callable[[Pairs], float], p: Pairs, level: float = 0.95) -> tuple[float, float]:
    """Interval of f over images: pairs left out one at a time, Student quantile.

    A bootstrap would draw a pair twice, and the angle of a displacement with itself is 0.
    """
    n = len(p)
    left = np.array([f(p.select(np.delete(np.arange(n), i))) for i in range(n)])
    half = stats.t.ppf((1 + level) / 2, n - 1) * math.sqrt((n - 1) / n * left.var() * n)
    return f(p) - half, f(p) + half


def common_energy(p: Pairs) -> float:
    """Share of the energy of unit displacements that all have in common, R² = |E u|², unbiased.

    The mean cosine of two different displacements. Source: Mardia & Jupp 2000, mean resultant
    length. Built in: parallelism.
    """
    return float(_off(p.cosines).mean())


def energy_bounds(angle: float) -> tuple[float, float]:
    """Least and most common energy R² at a mean pairwise angle of at most π/2, rad.

    Least for any spread of angles: 1 − sin(θ*) angle with tan(θ*/2) = θ*; most: cos(angle), when
    no angle exceeds π/2, and reached when all are alike. Built in: parallelism.
    """
    if not 0 <= angle <= math.pi / 2:
        raise ValueError(f"given a mean angle of {angle}, expected 0 to pi/2")
    return 1 - 0.7246113537767084 * angle, math.cos(angle)


# Edits: images -> edited images, sizes in proportion to the picture's side


def _corners(x: Tensor) -> list[torch.Generator]:
    return [code.generator(i, "data") for i in range(len(x))]


EDITS: dict[str, Callable[[Tensor], Tensor]] = {
    "blur": lambda x: images.blur(x, x.shape[-1] / 32),
    "grayscale": images.grayscale,
    "box": lambda x: images.white_box(x, 12 * x.shape[-1] // 32),
    "box, moved": lambda x: images.white_box(x, 12 * x.shape[-1] // 32, _corners(x)),
}
PRINTED = ("blur", "grayscale", "box")  # the manipulations of R's Table 3
SUNGLASSES = "sunglasses"


def edited(edit: str, n: int, x: Tensor | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n images before and after an edit, (n, 3, H, W) in [-1, 1] each.

    x: images to edit, by default CIFAR-10's animals; sunglasses come as pairs of avatars, same
    person, from the bundled slices. Raises ValueError on an unknown edit or too few images.
    """
    if edit == SUNGLASSES:
        sets = ("avatars", "avatars-sunglasses")
        return tuple(data.domain(k, n, seed, split="paired") for k in sets)
    if edit not in EDITS:
        raise ValueError(f"unknown edit {edit!r}; known: {', '.join((*EDITS, SUNGLASSES))}")
    x = data.domain("animals", n, seed) if x is None else x
    if len(x) < n:
        raise ValueError(f"given {len(x)} images, expected {n} or more")
    return x[:n], EDITS[edit](x[:n])


# The global direction: what pairs have in common, brought to other images


def _mean(z: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return z + (t - s).mean(0)


def _stretched(z: Tensor, s: Tensor, t: Tensor) -> Tensor:
    d = (t - s).mean(0, keepdim=True)
    return z + sphere.project(d, float(sphere.norm(t - s).mean()))


def _circle(z: Tensor, s: Tensor, t: Tensor) -> Tensor:
    d = (t - s).mean(0, keepdim=True).flatten(1)
    v = sphere.project(z, 1.0).flatten(1)
    tangent = sphere.project(d - (v @ d.T) * v, 1.0)
    phi = float(sphere.angle(s, t).mean())
    length = sphere.norm(z) * float((sphere.norm(t) / sphere.norm(s)).mean())
    return ((math.cos(phi) * v + math.sin(phi) * tangent) * length[:, None]).reshape(z.shape)


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mean": _mean,  # z + mean(t − s)
    "stretched": _stretched,  # the same direction, as long as displacements are on average
    "great circle": _circle,  # by the mean angle along the great circle that starts that way
}


def move(z: Tensor, source: Tensor, target: Tensor, way: str = "mean") -> Tensor:
    """Latents z (B, ...) moved along the global direction of pairs (k, ...), by a way of `WAYS`.

    Raises ValueError on an unknown way or shapes that differ. Built in: parallelism.
    """
    if way not in WAYS:
        raise ValueError(f"unknown way {way!r}; known: {', '.join(WAYS)}")
    if source.shape != target.shape or source.shape[1:] != z.shape[1:]:
        raise ValueError(f"given latents {tuple(z.shape)} and pairs {tuple(source.shape)}, "
                         f"{tuple(target.shape)}: all but the first dimension must agree")
    return WAYS[way](z, source, target)
