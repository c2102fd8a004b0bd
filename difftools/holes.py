"""Prior holes: regions that a prior fills and a law of latents misses. Combs have one by design,
certificates show one.

A law q has an (eps, delta) hole in a prior p if some region S has q(S) <= eps and p(S) >= delta.
Built in: prior_holes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import xlogy
from torch import Tensor

from .metrics import bootstrap, proportion
from .normality import statistics

_X, _W = np.polynomial.legendre.leggauss(8)
GAUSS = (_X + 1) / 2, _W / 2  # nodes and weights on (0, 1)


def kl_bernoulli(a, b):
    """KL divergence in nats of a coin with P = a in [0, 1] from one with P = b in (0, 1).

    Elementwise. The least KL(q ‖ p) of any q with q(S) = a and p(S) = b, by data processing.
    ValueError outside the ranges. Built in: prior_holes.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not (np.all((a >= 0) & (a <= 1)) and np.all((b > 0) & (b < 1))):
        raise ValueError("kl_bernoulli needs a in [0, 1] and b in (0, 1)")
    return xlogy(a, a / b) + xlogy(1 - a, (1 - a) / (1 - b))


@dataclass(frozen=True)
class Comb:
    """The law q of the corrected Lemma 1: scarce on S, the first delta of every cell.

    prior: a frozen scipy.stats law. edges: (K + 1,), cells of one width; cuts: (K,), the end of S
    in each cell. dq/dp is eps/delta on S and (1 − eps)/(1 − delta) off S, so q(S) = eps while every
    cell keeps its mass. Built in: prior_holes.
    """

    prior: object
    edges: np.ndarray
    cuts: np.ndarray
    eps: float
    delta: float

    @property
    def ratios(self) -> np.ndarray:
        """dq/dp on S and off S, (2,)."""
        return np.array([self.eps / self.delta, (1 - self.eps) / (1 - self.delta)])


def comb(prior, width: float, eps: float, delta: float, tail: float = 1e-6) -> Comb:
    """Comb on cells of `width` over all of a 1-D prior but mass `tail` at either end.

    prior: a frozen scipy.stats law. ValueError unless 0 < eps < delta < 1 and width > 0.
    Source: the corrected Lemma 1 of this book. Built in: prior_holes.
    """
    if not (0 < eps < delta < 1 and width > 0):
        raise ValueError(
            f"a comb needs 0 < eps < delta < 1 and width > 0, got {eps}, {delta}, {width}"
        )
    first, last = np.floor(prior.ppf(tail) / width), np.ceil(prior.isf(tail) / width)
    edges = width * np.arange(first, last + 1)
    mass = prior.cdf(edges)
    return Comb(prior, edges, prior.ppf(mass[:-1] + delta * np.diff(mass)), eps, delta)


def divergences(c: Comb) -> dict[str, float]:
    """p(S), q(S), and KL(q‖p), KL(p‖q), JS (nats) and TV between a comb and its prior.

    By Gauss–Legendre quadrature of the densities, 8 nodes on each piece; nothing of the theorem is
    used. Built in: prior_holes.
    """
    u, w = GAUSS
    ends = np.stack([[c.edges[:-1], c.cuts], [c.cuts, c.edges[1:]]])  # (2 pieces, 2 ends, K)
    length = ends[:, 1] - ends[:, 0]  # (2, K)
    x = ends[:, 0, :, None] + length[..., None] * u  # (2, K, 8)
    p = c.prior.pdf(x)
    q = p * c.ratios[:, None, None]
    total = lambda f: (f * w * length[..., None]).sum((1, 2))  # noqa: E731   over S, off S
    m = (p + q) / 2
    js = (total(xlogy(p, p / m)).sum() + total(xlogy(q, q / m)).sum()) / 2
    return {
        "p(S)": float(total(p)[0]),
        "q(S)": float(total(q)[0]),
        "KL(q‖p)": float(total(xlogy(q, q / p)).sum()),
        "KL(p‖q)": float(total(xlogy(p, p / q)).sum()),
        "JS": float(js),
        "TV": float(total(np.abs(p - q)).sum() / 2),
    }


def w2_comb(c: Comb) -> float:
    """W2 between a comb and its prior: in 1-D the L2 distance of the two quantile functions.

    The mass beyond the cells is charged one width, so the value is an upper bound.
    Built in: prior_holes.
    """
    u, w = GAUSS
    at = np.stack([c.eps * u, c.eps + (1 - c.eps) * u])  # where in its cell q's quantile stands
    p_at = np.stack(
        [c.delta * u, c.delta + (1 - c.delta) * u]
    )  # where p's quantile is the same point
    low, mass = c.prior.cdf(c.edges[:-1]), np.diff(c.prior.cdf(c.edges))
    x_p, x_q = (c.prior.ppf(low[:, None, None] + mass[:, None, None] * v) for v in (at, p_at))
    weight = np.stack([c.eps * w, (1 - c.eps) * w])
    square = (mass[:, None, None] * weight * (x_p - x_q) ** 2).sum()
    return float(np.sqrt(square + (1 - mass.sum()) * (c.edges[1] - c.edges[0]) ** 2))


def table(z: Tensor) -> np.ndarray:
    """`normality.statistics` as rows: latents (n, C, H, W) or (n, d) -> (n, k)."""
    return np.stack(list(statistics(z).values()), 1)


def halves(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A random split of range(n): indices to choose a region on, indices to judge it on.

    ValueError if n < 4. Built in: prior_holes.
    """
    if n < 4:
        raise ValueError(f"a split needs at least 4 latents, got {n}")
    order = np.random.default_rng(seed).permutation(n)
    return order[: n // 2], order[n // 2 :]


@dataclass(frozen=True)
class Region:
    """S = {z: score of its statistics > threshold}, made to hold the prior and not the latents.

    centre, spread: (k,), of the prior's statistics; model: a fitted sklearn classifier; made by
    `choose`. Built in: prior_holes.
    """

    centre: np.ndarray
    spread: np.ndarray
    model: object
    threshold: float = 0.0

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Log-odds of being a prior draw, statistics (n, k) -> (n,)."""
        return self.model.decision_function(_features(rows, self.centre, self.spread))

    def contains(self, rows: np.ndarray) -> np.ndarray:
        """Whether latents with these statistics (n, k) lie in S, bool (n,)."""
        return self.score(rows) > self.threshold


def _features(rows, centre, spread) -> np.ndarray:
    # In standard deviations of the prior, compressed: some latents are hundreds of them away.
    # The squares let S be a shell, since a law may miss a prior on both sides.
    v = np.arcsinh((rows - centre) / spread)
    return np.concatenate([v, v**2], 1)


def choose(prior: np.ndarray, latents: np.ndarray) -> Region:
    """The region that separates two training samples best.

    prior, latents: statistics (n, k) and (m, k), see `table`. Logistic regression on compressed
    statistics and their squares; threshold: largest p(S) − q(S) on these samples (Youden). Judge
    the region on other samples only. Built in: prior_holes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    centre, spread = prior.mean(0), prior.std(0)
    X = _features(np.concatenate([prior, latents]), centre, spread)
    y = np.r_[np.ones(len(prior)), np.zeros(len(latents))]
    fit = LogisticRegression(solver="newton-cholesky", class_weight="balanced")
    model = make_pipeline(StandardScaler(), fit).fit(X, y)
    score = model.decision_function(X)
    cuts = np.sort(score)
    cuts = (cuts[1:] + cuts[:-1]) / 2
    gain = (score[y == 1] > cuts[:, None]).mean(1) - (score[y == 0] > cuts[:, None]).mean(1)
    return Region(centre, spread, model, float(cuts[gain.argmax()]))


def certify(in_p: np.ndarray, in_q: np.ndarray, level: float = 0.95) -> dict:
    """Held-out p(S), q(S) and the hole p(S) − q(S), each as (value, low, high).

    in_p, in_q: bool (n,) and (m,), whether fresh prior draws and fresh latents lie in S.
    Clopper–Pearson at level (1 + level)/2 for each mass, so both hold together at `level`. The
    latents have an (eps, delta) hole with eps = high of q(S) and delta = low of p(S), if that is
    larger. Source: Clopper & Pearson 1934. Built in: prior_holes.
    """
    each = (1 + level) / 2
    (p_lo, p_hi), (q_lo, q_hi) = (proportion(int(v.sum()), len(v), each) for v in (in_p, in_q))
    p, q = float(np.mean(in_p)), float(np.mean(in_q))
    return {"p": (p, p_lo, p_hi), "q": (q, q_lo, q_hi), "hole": (p - q, p_lo - q_hi, p_hi - q_lo)}


def certificate(prior: np.ndarray, latents: np.ndarray, seed: int = 0, level: float = 0.95) -> dict:
    """`choose` on one half of the statistics (n, k) and (m, k), `certify` on the other.

    ValueError if either has fewer than 4 rows. Built in: prior_holes.
    """
    (pa, pb), (qa, qb) = halves(len(prior), seed), halves(len(latents), seed + 1)
    S = choose(prior[pa], latents[qa])
    return certify(S.contains(prior[pb]), S.contains(latents[qb]), level)


def random_half_spaces(latents: Tensor, regions: int = 200, seed: int = 0) -> dict:
    """The hole of half-spaces with a random normal through the origin, held out.

    latents (m, ...), m >= 4. p(S) = 1/2 exactly; one half of the latents decides only which side of
    the plane is S, the other gives q(S). Returns hole = (mean over regions, low, high; bootstrap
    over latents) and each (regions,). Built in: prior_holes.
    """
    z = latents.double().flatten(1)
    a, b = halves(len(z), seed)
    gen = torch.Generator().manual_seed(seed)
    u = torch.randn(z.shape[1], regions, generator=gen, dtype=torch.float64)
    side = z @ u > 0  # (m, regions)
    flip = side[a].double().mean(0) > 0.5
    gap = 0.5 - (side[b] ^ flip).double()  # (m/2, regions)
    per_latent = gap.mean(1).numpy()
    return {
        "hole": (float(per_latent.mean()), *bootstrap(per_latent, np.mean, seed=seed)),
        "each": gap.mean(0).numpy(),
    }


def random_regions(in_p: np.ndarray, in_q: np.ndarray, seed: int = 0) -> dict:
    """The hole of regions that nobody chose, held out, as in `random_half_spaces`.

    in_p (n, R), in_q (m, R), m >= 4: bool, whether draws of the prior and latents lie in each of R
    regions. One half of the latents decides only whether a region or its complement is S, the other
    gives q(S). Returns hole = (mean over regions, low, high; bootstrap over latents) and each (R,).
    """
    a, b = halves(len(in_q), seed)
    p = in_p.mean(0)
    sign = np.where(in_q[a].mean(0) > p, -1.0, 1.0)
    gap = sign * (p - in_q[b])  # (m/2, R)
    per_latent = gap.mean(1)
    return {
        "hole": (float(per_latent.mean()), *bootstrap(per_latent, np.mean, seed=seed)),
        "each": gap.mean(0),
    }


def trivial_hole(
    points: Tensor, fresh: Tensor, radius: float | None = None, level: float = 0.95
) -> dict:
    """The hole that every finite sample has: the space further than `radius` from all its points.

    points: (n, ...), the sample; q is its empirical law, so q(S) = 0 exactly. fresh: (m, ...),
    other draws of the prior, for p(S), Clopper–Pearson. radius: by default half of sqrt(2 d), the
    usual distance of two draws. Built in: prior_holes. """
    a, b = points.double().flatten(1), fresh.double().flatten(1)
    radius = float(np.sqrt(a.shape[1] / 2)) if radius is None else radius
    outside = (torch.cdist(b, a).min(1).values > radius).numpy()
    ends = float(outside.mean()), *proportion(int(outside.sum()), len(outside), level)
    return {"p": ends, "q": (0.0, 0.0, 0.0), "hole": ends}
