"""Sampling a domain that the model never saw: invert, fit a Gaussian, draw, reject, decode.

The method of Zhu et al. over the protocol, for every system with a diffusion model inside, and what
is known about its parts in closed form. A *rung* is a node of a model's grid from image to noise;
the source's mixing step is the rung nearest `MIXING`.
Built in: gaussian_priors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize

from . import gaussians, sphere
from .code import Code, noise
from .diffusion.dae import DAE
from .diffusion.latent import LatentDiffusion
from .diffusion.model import PixelDiffusion, ancestral, posterior
from .diffusion.schedule import Node, grid
from .diffusion.steppers import fixed_point_ddim
from .images import validate

KINDS = ("scalar", "diagonal", "low-rank", "spectral")
RANK = 8  # of the low-rank fit
MIXING = -1.84  # log-SNR of the mixing step: t = 603 of 1000 on the linear schedule
STEPS = 12  # of the whole way from image to noise
PROPERTIES = ("distance", "pair angle", "origin angle")
REFERENCES = 10  # latents that a candidate is compared with, as in the released code


# Up and down


def rung(m, lam: float, steps: int = STEPS) -> int:
    """The node of a model's grid whose log-SNR is nearest to lam, in 1 .. steps.

    Built in: gaussian_priors.
    """
    nodes = grid(m.denoiser.schedule, steps)
    return 1 + int(np.argmin([abs(v.lam - lam) for v in nodes[1:]]))


@contextmanager
def _inside(m, semantic: Tensor | None = None) -> Iterator[PixelDiffusion]:
    """The diffusion model within a latent model, with its semantic code bound."""
    if isinstance(m, DAE):
        with m.given(semantic) as diffusion:
            yield diffusion
    else:
        yield m.diffusion if isinstance(m, LatentDiffusion) else m


def invert(
    m, images: Tensor, at: Sequence[int], steps: int = STEPS, seeds=None, exact_ddim: int = 0
) -> list[Code]:
    """Codes of images (B, 3, H, W) in [-1, 1] on each rung of `at`, by one walk up the grid.

    Each has `noise`, the state there, and for DAE `semantic`; seeds (B,) are those of the start
    noise. exact_ddim: fixed-point iterations a step, which give the latent from which plain DDIM
    comes back; 0 takes the model's own stepper. ValueError on images that `images.validate`
    refuses. Source: Zhu et al. 2023. Built in: gaussian_priors.
    """
    validate(images, size=m.size)
    seeds = tuple(range(len(images))) if seeds is None else tuple(int(s) for s in seeds)
    semantic = m.semantic(images) if isinstance(m, DAE) else None
    x = m.latents(images) if isinstance(m, LatentDiffusion) else images
    with _inside(m, semantic) as d:
        up = grid(m.denoiser.schedule, steps)[: max(at) + 1]
        start = noise(seeds, x.shape[1:], "start", d.dtype)
        x = (up[0].alpha * x.to(d.dtype) + up[0].sigma * start).to(d.device)
        if exact_ddim:
            field, y = d.denoiser.field, up[0].chart(x)
            walk = fixed_point_ddim(field, y, up, iterations=exact_ddim)
            states = [b.unchart(y).cpu() for b, y in zip(up[1:], walk, strict=True)]
        else:
            states = [v.cpu() for v in d.walk(x, True, up)]
    more = {} if semantic is None else {"semantic": semantic}
    kind = {"noise": "sphere"} | {k: "flat" for k in more}
    return [Code(more | {"noise": states[k - 1]}, kind, seeds) for k in at]


def decode(
    m, code: Code, at: int, steps: int = STEPS, eta: float | None = 0.0, seeds=None
) -> Tensor:
    """Images (B, 3, H, W), not clipped, of codes on a rung.

    eta: 0 walks down by the model's own stepper; in (0, 1] by stochastic DDIM, with one noise
    generator for each of seeds (B,); None by plain DDIM. A code that still has its seeds loses its
    start noise, where the walk is the model's own; every other ends with the denoised image.
    ValueError on eta outside [0, 1]. Built in: gaussian_priors.
    """
    seeds = tuple(range(len(code))) if seeds is None else tuple(int(s) for s in seeds)
    semantic = code["semantic"] if "semantic" in code.tensors else None
    with _inside(m, semantic) as d:
        down = grid(m.denoiser.schedule, steps)[: at + 1][::-1]
        x, first = code["noise"].to(d.device, d.dtype), down[-1]
        own = eta == 0.0
        for x in d.walk(x, False, down) if own else ancestral(d.denoiser, x, down, eta or 0, seeds):
            pass
        if own and code.seeds is not None:
            start = noise(code.seeds, x.shape[1:], "start", d.dtype).to(d.device)
            x = (x - first.sigma * start) / first.alpha
        else:
            x = d.denoiser.x0_eps(x, first)[0]
        x = x.cpu()
    return m.images(x, seeds) if isinstance(m, LatentDiffusion) else x


# Fit and draw


@dataclass
class Stationary:
    """Gaussian on images (C, h, w) whose deviation from its mean is stationary on the torus.

    mean: (C, h, w). root: (h, w, C, C), Hermitian square roots of the channels' cross-spectrum at
    each frequency. Built in: gaussian_priors.
    """

    mean: Tensor
    root: Tensor

    def sample(self, white: Tensor) -> Tensor:
        """mean + colouring of white noise (B, C h w); rows (B, C h w)."""
        n = torch.fft.fft2(white.reshape(-1, *self.mean.shape), norm="ortho")
        n = torch.einsum("hwij,bjhw->bihw", self.root, n.to(self.root.dtype))
        return (self.mean + torch.fft.ifft2(n, norm="ortho").real).flatten(1)

    @property
    def variance(self) -> float:
        """Mean variance of a coordinate."""
        power = self.root.abs().square().sum((2, 3)).mean()
        return float(power / len(self.mean))


def stationary(x: Tensor) -> Stationary:
    """Maximum-likelihood `Stationary` of x (n, C, h, w): the average cross-periodogram.

    Built in: gaussian_priors.
    """
    x = x.double()
    mean = x.mean(0)
    f = torch.fft.fft2(x - mean, norm="ortho")
    cross = torch.einsum("bihw,bjhw->hwij", f, f.conj()) / len(x)
    lam, U = torch.linalg.eigh(cross)
    root = U * lam.clamp_min(0).sqrt()[:, :, None] @ U.conj().transpose(2, 3)
    return Stationary(mean, root)


Law = gaussians.Gaussian | Stationary


def fit(x: Tensor, kind: str) -> Law:
    """A Gaussian of latents x (n, …), n >= 2, by kind: one of `KINDS`.

    Of flat latents (n, k) "spectral" is "diagonal"; the rank of "low-rank" is `RANK` or n − 1.
    ValueError on another kind or with fewer than 2 latents. Built in: gaussian_priors.
    """
    if kind not in KINDS:
        raise ValueError(f"no fit {kind!r}; known: {', '.join(KINDS)}")
    if len(x) < 2:
        raise ValueError(f"a fit needs 2 latents or more, got {len(x)}")
    if kind == "spectral" and x.ndim == 4:
        return stationary(x)
    flat = x.flatten(1)
    if kind == "low-rank":
        return _low_rank(flat.double(), min(RANK, len(x) - 1, flat.shape[1] - 1))
    return gaussians.fit(flat, "scalar" if kind == "scalar" else "diagonal")


def _low_rank(x: Tensor, k: int) -> gaussians.Gaussian:
    """k leading eigenpairs and one variance for the rest, by the (n, n) Gram matrix."""
    mean = x.mean(0)
    c = (x - mean) / len(x) ** 0.5
    U, s, _ = torch.linalg.svd(c.T, full_matrices=False)
    rest = float((s[k:] ** 2).sum() / (x.shape[1] - k))
    return gaussians.Gaussian(mean, s[:k] ** 2, U[:, :k].contiguous(), max(rest, 1e-6))


def fit_code(code: Code, kind: str) -> dict[str, Law]:
    """`fit` of each part of a code, as if they were independent. Built in: gaussian_priors."""
    return {k: fit(v, kind) for k, v in code.tensors.items()}


def draw(laws: dict[str, Law], like: Code, n: int, seed: int = 0) -> Code:
    """n codes of the parts and shapes of `like`, drawn from fitted laws; seeds seed, seed + 1, …

    Built in: gaussian_priors.
    """
    out = {}
    for k, law in laws.items():
        shape = like[k].shape[1:]
        white = noise(range(seed, seed + n), (shape.numel(),), "prior", torch.float64)
        out[k] = law.sample(white).reshape(-1, *shape).to(like[k].dtype)
    return Code(out, dict(like.geometry))


def great_circles(a: Tensor, b: Tensor, points: int = 20) -> Tensor:
    """Candidates of the released code between rows of a and of b (n, …): (n points, …).

    `sphere.slerp`, which interpolates the norm, at u = 1/(points + 1), 2/(points + 1), …
    Built in: gaussian_priors.
    """
    on = [sphere.slerp(a, b, i / (points + 1)) for i in range(1, points + 1)]
    return torch.stack(on, 1).flatten(0, 1)


# The three properties


def _degrees(cos: Tensor) -> Tensor:
    return torch.rad2deg(torch.arccos(cos.clamp(-1, 1)))


def properties(x: Tensor, references: Tensor) -> Tensor:
    """The three numbers by which candidates x (n, …) are judged, (n, 3), degrees for angles.

    Means over references (k, …), k >= 2: of the distance to each; of the angle at the candidate
    between each and the next; of the angle at the origin. Source: the released code of Zhu et al.
    (facts). Built in: gaussian_priors.
    """
    x, y = x.flatten(1).double(), references.flatten(1).double()
    if len(y) < 2:
        raise ValueError(f"expected 2 references or more, got {len(y)}")
    xx, xy, yy = x.square().sum(1, keepdim=True), x @ y.T, y @ y.T
    dist = (xx - 2 * xy + yy.diagonal()).clamp_min(0).sqrt()          # (n, k)
    next_to = yy.diagonal(1) - xy[:, :-1] - xy[:, 1:] + xx            # ⟨y_i − x, y_i+1 − x⟩
    pair = _degrees(next_to / (dist[:, :-1] * dist[:, 1:]))
    origin = _degrees(xy / (xx * yy.diagonal()).sqrt())
    return torch.stack([dist.mean(1), pair.mean(1), origin.mean(1)], 1)


def windows(real: Tensor, share: float = 0.5) -> Tensor:
    """Bounds (2, 3) that the middle `share` of the properties (n, 3) of real latents meets.

    Built in: gaussian_priors.
    """
    return real.quantile(real.new_tensor([(1 - share) / 2, (1 + share) / 2]), dim=0)


def released_windows(centre: Tensor, d: int) -> Tensor:
    """Bounds (2, 3) about `centre` (3,) as wide as those of the released code, in spreads of a cloud.

    There ±0.3 about a distance of 611.4, and ±0.1° for both angles, at d = 196608. Relative to the
    distance, and in angle, independent points spread by 1/√d: so do these widths. Source: the
    released code of Zhu et al. (facts). Built in: gaussian_priors.
    """
    wider = math.sqrt(196608 / d)
    half = centre.new_tensor([0.3 / 611.4 * float(centre[0]), 0.1, 0.1]) * wider
    return torch.stack([centre - half, centre + half])


def passes(found: Tensor, bounds: Tensor) -> Tensor:
    """Which properties (n, 3) lie within bounds (2, 3): bool (n, 3). Built in: gaussian_priors."""
    return (found >= bounds[0]) & (found <= bounds[1])


def hot_pixel(law: Law, n: int, seed: int = 0) -> Tensor:
    """The adversary (n, d): the mean of a law, its whole deviation, √(trace), in one coordinate.

    Built in: gaussian_priors.
    """
    mean = law.mean.flatten().double()
    size = (law.variance if isinstance(law, Stationary) else float(law.spectrum.mean())) * len(mean)
    gen = torch.Generator().manual_seed(seed)
    where = torch.randperm(len(mean), generator=gen)[torch.arange(n) % len(mean)]
    sign = 1 - 2.0 * (torch.rand(n, generator=gen) < 0.5)
    out = mean.repeat(n, 1)
    out[torch.arange(n), where] += sign * math.sqrt(size)
    return out


def spread(x: Tensor) -> np.ndarray:
    """How far a cloud x (n, …), n >= 4, is from its three properties being constant, (3,).

    Coefficient of variation of the pair distances; root-mean-square of the angles of all triangles
    about 60 degrees; of the angles at the origin about 90. Built in: gaussian_priors.
    """
    x = x.flatten(1).double()
    G = x @ x.T
    return _spread(G)


def _spread(G: Tensor) -> np.ndarray:
    n, q = len(G), G.diagonal()
    D2 = q[:, None] + q[None] - 2 * G
    i, j = torch.triu_indices(n, n, 1)
    dist = D2[i, j].clamp_min(0).sqrt()
    origin = _degrees(G[i, j] / (q[i] * q[j]).sqrt())
    pair = triangle_angles(D2)
    rms = lambda v, about: float((v - about).square().mean().sqrt())  # noqa: E731
    return np.array([float(dist.std() / dist.mean()), rms(pair, 60.0), rms(origin, 90.0)])


def triangle_angles(D2: Tensor) -> Tensor:
    """All angles, degrees, of all triangles of n points with squared distances D2 (n, n).

    Built in: gaussian_priors.
    """
    t = torch.combinations(torch.arange(len(D2)), 3)
    out = []
    for k in range(3):
        a, b, c = t[:, k], t[:, (k + 1) % 3], t[:, (k + 2) % 3]     # the angle at a
        cos = (D2[a, b] + D2[a, c] - D2[b, c]) / (2 * (D2[a, b] * D2[a, c]).sqrt())
        out.append(_degrees(cos))
    return torch.stack(out, 1)


def over_white(x: Tensor, seed: int = 0, most: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """`spread` of x over that of white noise of its shape, (3,), and a jackknife half-width, (3,).

    The first `most` latents. 1 for draws of N(0, v I), whatever v. Built in: gaussian_priors.
    """
    x = x[:most].flatten(1).double()
    white = noise(range(seed, seed + len(x)), (x.shape[1],), "data", torch.float64)
    null = _spread(white @ white.T)
    G = x @ x.T
    keep = [torch.arange(len(x)) != i for i in range(len(x))]
    out = np.stack([_spread(G[k][:, k]) for k in keep])
    half = 1.96 * np.sqrt((len(x) - 1) * out.var(0))
    return _spread(G) / null, half / null


# What is known in closed form


def auc_scale(v: float, d: int) -> float:
    """AUC of |x|² between N(0, I) and N(0, v I) on R^d: the best there is, by an F law.

    Built in: gaussian_priors.
    """
    return float(stats.f.sf(1 / v, d, d)) if v >= 1 else 1 - float(stats.f.sf(1 / v, d, d))


def auc_mean(delta: float) -> float:
    """AUC of the best judge between unit Gaussians whose known means are delta apart, Φ(Δ/√2).

    Built in: gaussian_priors.
    """
    return float(stats.norm.cdf(delta / 2**0.5))


def auc_pairs(delta: float, d: int) -> float:
    """P(a pair across is farther apart than a pair within), unit Gaussians, unknown means, large d.

    Squared distances: 2d ± √(8d) within, 2d + Δ² ± √(8d + 8Δ²) across. Built in: gaussian_priors.
    """
    return float(stats.norm.cdf(delta**2 / math.sqrt(16 * d + 8 * delta**2)))


def linear_walk(lam: Tensor, nodes: Sequence[Node], eta: float) -> tuple[Tensor, Tensor]:
    """(gain, variance) per eigendirection of stochastic DDIM down `nodes` under the exact score.

    lam (k,): eigenvalues of the data's covariance. A state with deviation u from its mean ends as
    an image with deviation gain · u + √variance · n, n white: the variance knows neither u nor the
    image. Source: the step of Song et al. 2021, eq. 12, with a linear denoiser.
    Built in: gaussian_priors.
    """
    gain, var = torch.ones_like(lam), torch.zeros_like(lam)
    share = lambda n: n.alpha * lam / (n.alpha**2 * lam + n.sigma**2)  # noqa: E731
    for a, b in zip(nodes, nodes[1:]):
        g = share(a)                                               # x0 hat = g u
        k, c = posterior(g, (1 - a.alpha * g) / a.sigma, a, b, eta)
        gain, var = k * gain, k**2 * var + c**2
    g = share(nodes[-1])
    return g * gain, g**2 * var


def bandwidth(values: np.ndarray, etas: Sequence[float], level: float, below: bool = False):
    """The largest eta at which images still meet a criterion, (B,), from values (B, len(etas)).

    They meet it while values >= level (below: <= level) at this and all smaller eta, linear in
    between; 0 if never, the last eta if always. Source: after Zhu et al. 2023, whose bandwidth was
    found by eye. Built in: gaussian_priors.
    """
    v = np.asarray(values, dtype=float) - level
    v = -v if below else v
    out = []
    for row in v:
        bad = np.flatnonzero(~(row >= 0))
        if not len(bad):
            out.append(etas[-1])
        elif bad[0] == 0:
            out.append(0.0)
        else:
            a, b = row[bad[0] - 1], row[bad[0]]
            u = a / (a - b)
            out.append(etas[bad[0] - 1] + u * (etas[bad[0]] - etas[bad[0] - 1]))
    return np.array(out)


# How good are samples


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def kid_gain(
    pool: Tensor, chosen: Tensor, reference: Tensor, among: Tensor | None = None,
    level: float = 0.95,
):
    """(value, (low, high)) of KID(rows among the pool) − KID(chosen rows), features (n, k).

    chosen, among: bool (n,); without `among` all rows. Above 0: the choice made it better.
    Jackknife over the pool, both terms at once, and over the reference (m, k). NaN if fewer than 3
    are chosen. Built in: gaussian_priors.
    """
    w = chosen.double()
    one = torch.ones_like(w) if among is None else among.double()
    if min(int(w.sum()), int(one.sum())) < 3:
        return math.nan, (math.nan, math.nan)
    pool, reference = pool.double(), reference.double()
    K, C = _cubic(pool, pool).fill_diagonal_(0), _cubic(pool, reference)

    def half_kid(w: Tensor, drop_row: bool, drop_ref: bool) -> Tensor:
        """KID less its reference–reference term, (1,), or without each row or reference."""
        s, n = w @ K @ w, w.sum()
        cross, m = w @ C, C.shape[1]
        if drop_row:                                               # rows outside w change nothing
            s, n = s - 2 * w * (K @ w), n - w
            return s / (n * (n - 1)) - 2 * (cross.sum() - w * C.sum(1)) / (n * m)
        if drop_ref:
            return s / (n * (n - 1)) - 2 * (cross.sum() - cross) / (n * (m - 1))
        return s / (n * (n - 1)) - 2 * cross.sum() / (n * m)

    diff = lambda *drop: half_kid(one, *drop) - half_kid(w, *drop)  # noqa: E731
    value = float(diff(False, False))
    var = sum((len(v) - 1) * float(v.var(unbiased=False))
              for v in (diff(True, False), diff(False, True)))
    half = float(stats.norm.ppf((1 + level) / 2)) * var**0.5
    return value, (value - half, value + half)


def target_share(rows: Tensor, target: Tensor, other: Tensor) -> np.ndarray:
    """Whether the nearest of the references to each feature row (n, k) is in `target`, bool (n,).

    Nearest by angle: the Euclidean distance of features prefers damaged pictures.
    Built in: gaussian_priors.
    """
    near = lambda v: (normalize(rows, dim=1) @ normalize(v, dim=1).T).amax(1)  # noqa: E731
    return (near(target) > near(other)).numpy()


def novelty(rows: Tensor, fitted: Tensor, held: Tensor) -> float:
    """Median angle distance of feature rows to the nearest fitted image, over that of held-out
    images: 0 for copies, 1 for pictures as new as these. Built in: gaussian_priors.
    """
    far = lambda v: (1 - normalize(v, dim=1) @ normalize(fitted, dim=1).T).amin(1)  # noqa: E731
    return float(far(rows).median() / far(held).median())
