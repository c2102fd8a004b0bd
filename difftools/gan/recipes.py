"""Recipes of GAN inversion as data: what is free, what is descended, at which rate, how long.

Plain W and W+, the StyleGAN2 projector, SPHInX, PULSE, BRGM and BigGAN's inversion differ in
nothing else; one loop runs them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .generator import Generator, Parts


@dataclass(frozen=True)
class Free:
    """One space that is optimised.

    lr, schedule: Adam's rate times `SCHEDULES[schedule](step / steps)`. start: "mean" (of the
    space), "own" (the network's own content or noise maps) or "sample" (seeded N(0, I)). head: a
    small network from fresh Gaussian input to the code, trained from scratch for each image.
    gaussian: what is optimised is v, and w follows from it (`Statistics.degaussianise`). after:
    projection after each step, one of `PROJECTIONS`. jitter: noise on w that fades, in units of
    its deviation. first: how many noise maps are trained; the others keep their start, and the
    last is zero.
    """

    lr: float
    schedule: str = "ramp"
    start: str = "mean"
    head: bool = False
    gaussian: bool = False
    after: str = "none"
    jitter: float = 0.0
    first: int | None = None


@dataclass(frozen=True)
class Recipe:
    """free: space -> how it is optimised. terms: name in `TERMS` -> weight. steps: of Adam.

    best_of: sampled starts, of which each image takes its best. draws: fresh inputs whose mean
    code is returned, for recipes with heads.
    """

    free: dict[str, Free]
    terms: dict[str, float]
    steps: int
    best_of: int = 1
    draws: int = 16

    @property
    def heads(self) -> bool:
        """Whether any code comes from a head."""
        return any(f.head for f in self.free.values())

    def trains(self, name: str) -> bool:
        """Whether an input of a free space is optimised: of the noise maps perhaps the first."""
        first = self.free["noise"].first if name.startswith("noise_") else None
        return first is None or int(name.removeprefix("noise_")) < first

    def seen(self, perceptual: bool) -> dict[str, float]:
        """The terms without a perceptual distance if there is none.

        A recipe that has no other image term descends squared error in its place.
        """
        if perceptual or "perceptual" not in self.terms:
            return self.terms
        rest = {k: v for k, v in self.terms.items() if k != "perceptual"}
        return rest if IMAGE_TERMS & set(rest) else rest | {"mse": self.terms["perceptual"]}


# Rates: multiples of lr over t = step / steps in [0, 1]


def ramp(t: float) -> float:
    """Up in a line over the first 5 %, down in a cosine over the last 25 %: StyleGAN2's."""
    down = min(1.0, (1 - t) / 0.25)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / 0.05)


def one_cycle_drop(t: float) -> float:
    """0.1 to 1 and back over 90 %, then down to 0.001, all in lines: PULSE's."""
    if t < 0.9:
        return 0.1 + 0.9 * (1 - abs(2 * t / 0.9 - 1))
    return 0.1 + (t - 0.9) / 0.1 * (0.001 - 0.1)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "ramp": ramp,
    "one_cycle_drop": one_cycle_drop,
    "constant": lambda t: 1.0,
}


# Projections of a variable (B, ...) after a step; `start` is what it started from


def _inner(v: Tensor) -> tuple[int, ...]:
    """Dimensions of one vector: a row of w+ (B, L, d), or all of an image's numbers."""
    return tuple(range(2 if v.ndim == 3 else 1, v.ndim))


def sphere(v: Tensor, start: Tensor) -> Tensor:
    """Every vector (row of w+, noise map, z) back to the length that it started with."""
    length = lambda x: x.square().sum(_inner(x), keepdim=True).sqrt()  # noqa: E731
    return v * (length(start) / length(v))


def root_d(v: Tensor) -> Tensor:
    """Every vector at length √d, where N(0, I) has its mass."""
    return v * v.square().mean(_inner(v), keepdim=True).rsqrt()


def normalise(v: Tensor, start: Tensor) -> Tensor:
    """Every noise map at mean 0 and mean square 1."""
    v = v - v.mean(_inner(v), keepdim=True)
    return root_d(v)


PROJECTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda v, start: v,
    "sphere": sphere,
    "normalise": normalise,
    "clamp": lambda v, start: v.clamp(-2, 2),
}


# Terms: what one image costs, (B,)


@dataclass(frozen=True)
class Seen:
    """What a term may look at: A(images) and the target (B, 3, h, w), the generator's inputs, and
    the perceptual distance to the target, if there is one.
    """

    measured: Tensor
    target: Tensor
    parts: Parts
    generator: Generator
    perceptual: Callable[[Tensor], Tensor] | None = None

    @property
    def rows(self) -> Tensor:
        """w+ (B, L, w); w is one row."""
        return self.parts["w_plus"] if "w_plus" in self.parts else self.parts["w"][:, None]

    @property
    def maps(self) -> list[Tensor]:
        """The noise maps (B, 1, r, r)."""
        return [v for k, v in self.parts.items() if k.startswith("noise_")]


def mse(c: Seen) -> Tensor:
    """Mean squared error of values in [-1, 1]."""
    return (c.measured - c.target).square().mean((1, 2, 3))


FLOOR = 2e-3  # PULSE's ε, of values in [0, 1]


def floored(c: Seen) -> Tensor:
    """max(mean squared error of values in [0, 1], ε): below ε there is nothing to gain."""
    return (mse(c) / 4).clamp_min(FLOOR)


def geocross(c: Seen) -> Tensor:
    """Mean squared angle between the rows of w+, times d / 8.

    Angles by 2 atan2(|w_i − w_j|, |w_i + w_j|), exact for rows of one length. Source: Menon et al.
    2020, section 3.3.
    """
    w, (L, d) = c.rows, c.rows.shape[1:]
    i, j = torch.triu_indices(L, L, 1)
    angle = 2 * torch.atan2((w[:, i] - w[:, j]).norm(dim=2), (w[:, i] + w[:, j]).norm(dim=2))
    return 2 * angle.square().sum(1) / L**2 * d / 8  # each pair twice, L pairs of angle 0


def prior(c: Seen) -> Tensor:
    """Mean of ((w − mean) / std)². Source: Marinescu et al. 2020, equation 9."""
    s = c.generator.statistics
    return ((c.rows - s.mean.to(c.rows)) / s.std).square().mean((1, 2))


def cosine(c: Seen) -> Tensor:
    """Mean of |1 − cos(w_i, w_j)| over all pairs of rows. Source: Marinescu et al. 2020."""
    u = F.normalize(c.rows, dim=2)
    return (1 - u @ u.mT).abs().mean((1, 2))


def autocorrelation(c: Seen) -> Tensor:
    """Squared correlation of noise maps with their neighbours, at all sizes from 8 px up.

    It keeps the picture out of the noise. Source: Karras et al. 2020, appendix D.
    """
    total = torch.zeros(len(c.target), dtype=c.target.dtype, device=c.target.device)
    for v in c.maps:
        while True:
            for axis in (2, 3):
                total = total + (v * v.roll(1, axis)).mean((1, 2, 3)).square()
            if v.shape[-1] <= 8:
                break
            v = F.avg_pool2d(v, 2)
    return total


IMAGE_TERMS = {"mse", "perceptual", "floored"}
TERMS: dict[str, Callable[[Seen], Tensor]] = {
    "mse": mse,
    "perceptual": lambda c: c.perceptual(c.measured),
    "floored": floored,
    "geocross": geocross,
    "prior": prior,
    "cosine": cosine,
    "autocorrelation": autocorrelation,
}


# The recipes. Weights are those of images in [-1, 1].

PLAIN = {"mse": 1.0, "perceptual": 1.0}
PULSE = {"floored": 100.0, "geocross": 0.05}
BYTES = 0.001 * 127.5**2  # 0.001 · squared error of values in 0 … 255, here 16.3
BRGM = {"mse": BYTES, "perceptual": 1.0, "prior": 100.0, "cosine": 3.0}

_w_plus = Recipe({"w_plus": Free(0.1)}, PLAIN, 2000)
_noise = Free(1e-3, "constant", start="sample")
_sphinx = Recipe(
    {
        "w_plus": Free(1e-3, head=True),
        "content": Free(1e-3, "constant", head=True),
        "noise": _noise,
    },
    {"mse": 1.0, "perceptual": 1.5},
    5000,
)


def _of(recipe: Recipe, *spaces: str) -> Recipe:
    return replace(recipe, free={k: recipe.free[k] for k in spaces})


RECIPES: dict[str, Recipe] = {
    "z": Recipe({"z": Free(0.05, start="sample", after="sphere")}, PLAIN, 2000, best_of=64),
    "w": Recipe({"w": Free(0.1)}, PLAIN, 2000),
    "w_plus": _w_plus,
    "w_plus_noise": replace(_w_plus, free=_w_plus.free | {"noise": Free(0.1, start="own")}),
    "projector": Recipe(
        {
            "w": Free(0.1, jitter=0.05),
            "noise": Free(0.1, start="sample", after="normalise"),
        },
        {"perceptual": 1.0, "autocorrelation": 1e5},
        1000,
    ),
    "sphinx_style": _of(_sphinx, "w_plus"),
    "sphinx_content": _of(_sphinx, "w_plus", "content"),
    "sphinx": _sphinx,
    "pulse": Recipe(
        {
            "w_plus": Free(0.4, "one_cycle_drop", "sample", gaussian=True, after="sphere"),
            "noise": Free(0.4, "one_cycle_drop", "sample", after="sphere", first=5),
        },
        PULSE,
        100,
    ),
    "brgm": Recipe({"w_plus": Free(0.1)}, BRGM, 5000),
    # the authors' second version; cosines summed over the 18 × 18 pairs of 1024 px
    "brgm_pytorch": Recipe(
        {"w_plus": Free(0.1, "constant")},
        BRGM | {"perceptual": 1.25, "cosine": 0.1 * 18**2},
        501,
    ),
    "xl": Recipe({"w": Free(0.1)}, {"perceptual": 1.0}, 2000),
    "biggan": Recipe(
        {
            "z": Free(0.05, "constant", "sample", after="clamp"),
            "e": Free(0.01, "constant"),
        },
        PLAIN,
        2000,
        best_of=64,
    ),
    # the heads of SPHInX under the terms of PULSE and BRGM; on a head the sphere acts on its output
    "sphinx_pulse": replace(
        _sphinx,
        free=_sphinx.free | {"w_plus": Free(1e-3, head=True, gaussian=True, after="sphere")},
        terms=PULSE,
    ),
    "sphinx_brgm": replace(_sphinx, terms=BRGM),
}


def recipe(given: str | Recipe) -> Recipe:
    """A recipe by name, or itself; ValueError with the known names."""
    if isinstance(given, Recipe):
        return given
    if given not in RECIPES:
        raise ValueError(f"unknown recipe {given!r}; known: {', '.join(RECIPES)}")
    return RECIPES[given]
