"""How far apart are two image sets? Proxy A-distance, its bound, nearest neighbours, latent scores.

A proxy A-distance is 2 (1 − 2 err) for the held-out error of a classifier that must tell the sets
apart. It says as much about the classifier as about the sets, so `PANEL` holds five.
Built in: out_of_distribution.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from scipy.special import expit, gammaln, logsumexp
from torch import Tensor, nn
from torch.nn import functional as F

from . import data, images, metrics

# Sets of the papers that the reader downloads: what to get, and from where.
DOWNLOADS = {
    "ffhq": "thumbnails128x128 or images1024x1024, by the README of github.com/NVlabs/ffhq-dataset",
    "celeba": "img_align_celeba.zip, from mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    "imagenet": "the validation images of ILSVRC 2012, from image-net.org (registration)",
    "imagenet-sketch": "ImageNet-Sketch, by the README of github.com/HaohanWang/ImageNet-Sketch",
}


def pictures(name: str, n: int | None = None, seed: int = 0, size: int = 32) -> Tensor:
    """Images (n, 3, size, size) in [-1, 1] of a domain of `data`, or of a folder of image files.

    n = None gives all; a folder gives its first n by a seeded permutation. DataError for a set
    that the reader must download, saying what and where, and for an unknown name.
    """
    if name in DOWNLOADS:
        raise data.DataError(
            f"{name} cannot ship with the book. Download {DOWNLOADS[name]}; unpack it, and give "
            f"the path of its folder in place of the name {name!r}"
        )
    if name in data.DOMAINS:
        x = data.domain(name, n, seed=seed)
        return x if size == 32 else F.interpolate(x, size, mode="bicubic").clamp(-1, 1)
    if "/" not in name and "\\" not in name:
        data.domain(name, n)  # raises, and names the nearest domain
    files = images.paths(name)
    wanted = data.pick(len(files), n, seed)
    return torch.cat([images.read(files[i], size) for i in wanted])


# ------------------------------------------------------------------- the number and its bound


def pad(err):
    """Proxy A-distance 2 (1 − 2 err) of an error rate in [0, 1], elementwise; in [-2, 2].

    ValueError outside the range. Source: Ben-David et al. 2010. Built in: out_of_distribution.
    """
    e = np.asarray(err, dtype=np.float64)
    if not np.all((e >= 0) & (e <= 1)):
        raise ValueError(f"an error rate lies in [0, 1], got {err}")
    return 2 * (1 - 2 * e)


def error_of(value):
    """The error rate that a proxy A-distance stands for, (2 − PAD)/4; negative above 2."""
    return (2 - np.asarray(value, dtype=np.float64)) / 4


def best_pad_mean(delta: float) -> float:
    """2 TV of two unit Gaussians whose means are delta apart: the PAD that no classifier beats.

    The Bayes error is Φ(−delta/2), in every dimension.
    """
    return float(2 * (2 * stats.norm.cdf(delta / 2) - 1))


def best_pad_scale(ratio: float, d: int) -> float:
    """2 TV of N(0, I) and N(0, ratio² I) on R^d: the PAD that no classifier beats.

    The best classifier thresholds |x|², a chi-square variable, where the two densities meet.
    ratio > 0.
    """
    if ratio == 1:
        return 0.0
    v = ratio**2
    cut = d * np.log(v) / (1 - 1 / v)  # |x|² where both densities are equal
    law = stats.chi2(d)
    return float(2 * abs(law.cdf(cut) - law.cdf(cut / v)))


def separable(n: int, d: int) -> float:
    """Probability that n points in general position in R^d, labelled by fair coins, are separable.

    By a hyperplane with an offset: 2^(1 − n) Σ_{k ≤ d} C(n − 1, k); 1 for n <= d + 1, 1/2 at
    n = 2 (d + 1). Source: Cover 1965, theorem 1.
    """
    k = np.arange(min(d, n - 1) + 1)
    log = gammaln(n) - gammaln(k + 1) - gammaln(n - k)
    return float(min(1.0, np.exp(logsumexp(log) - (n - 1) * np.log(2))))


# ----------------------------------------------------------------------------- the classifiers


def byte_statistics(x: Tensor) -> np.ndarray:
    """What a person does not see: per image, (n, 6), of images in [-1, 1] as 8-bit files.

    Share of odd levels; shares of levels 0 and 255; mean; standard deviation; mean absolute
    difference of neighbours.
    """
    levels = torch.from_numpy(images.to_uint8(x)).long().flatten(1)
    flat = x.double().flatten(1)
    rough = (x[..., 1:] - x[..., :-1]).abs().double().mean((1, 2, 3))
    return torch.stack(
        [
            (levels % 2).double().mean(1),
            (levels == 0).double().mean(1),
            (levels == 255).double().mean(1),
            flat.mean(1),
            flat.std(1),
            rough,
        ],
        1,
    ).numpy()


VIEWS: dict[str, Callable[[Tensor], np.ndarray]] = {
    "pixels": lambda x: x.flatten(1).numpy(),
    "features": lambda x: metrics.features(x, batch=8).numpy(),          # fits the cache: faster
    "bytes": byte_statistics,
}


class SmallCNN:
    """Three strided convolutions, pooled, with the interface of scikit-learn; rows are pixels.

    Adam with a one-cycle rate. The result depends on `seed` alone, in any thread.
    """

    def __init__(self, epochs: int = 8, width: int = 16, seed: int = 0):
        self.epochs, self.width, self.seed = epochs, width, seed

    @staticmethod
    def _images(rows: np.ndarray) -> Tensor:
        side = round((rows.shape[1] / 3) ** 0.5)
        return torch.from_numpy(rows).float().reshape(len(rows), 3, side, side)

    def _network(self, gen: torch.Generator) -> nn.Sequential:
        w = self.width
        conv = lambda a, b: [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()]  # noqa: E731
        body = [*conv(3, w), *conv(w, 2 * w), *conv(2 * w, 2 * w)]
        net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * w, 1))
        for p in net.parameters():  # a generator of its own: threads share torch's
            if p.ndim > 1:
                nn.init.kaiming_uniform_(p, a=5**0.5, generator=gen)
            else:
                nn.init.zeros_(p)
        return net

    def fit(self, rows: np.ndarray, y: np.ndarray) -> SmallCNN:
        """Train on pixels (n, 3 side²) with labels (n,) in {0, 1}."""
        gen = torch.Generator().manual_seed(self.seed)
        self.net, x = self._network(gen), self._images(rows)
        target = torch.from_numpy(np.asarray(y)).float()
        weight = torch.tensor((len(y) - y.sum()) / max(y.sum(), 1)).float()
        optimiser = torch.optim.Adam(self.net.parameters(), 1e-2)
        steps = self.epochs * -(-len(x) // 32)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
        for _ in range(self.epochs):
            for i in torch.randperm(len(x), generator=gen).split(32):
                said = self.net(x[i])[:, 0]
                loss = F.binary_cross_entropy_with_logits(said, target[i], pos_weight=weight)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                rate.step()
        return self

    @torch.no_grad()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Labels (n,) in {0, 1} of pixels (n, 3 side²)."""
        return (self.net(self._images(rows))[:, 0] > 0).long().numpy()


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b.T


def _rbf(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The Gaussian kernel of rows a (n, k) and training rows b (m, k); scikit-learn's own width."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.exp(-np.maximum(square, 0) / (b.shape[1] * (b.var() or 1.0)))


def _svm(kernel, C: float):
    """A support vector machine on standardised rows; its kernel in one matrix product: faster."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC(kernel=kernel, C=C, class_weight="balanced"))


# name -> (what it reads, how to make one)
PANEL: dict[str, tuple[str, Callable[[], object]]] = {
    "linear, pixels": ("pixels", lambda: _svm(_dot, 1.0)),
    "RBF, pixels": ("pixels", lambda: _svm(_rbf, 10.0)),
    "small CNN": ("pixels", SmallCNN),
    "linear, features": ("features", lambda: _svm(_dot, 1.0)),
    "RBF, bytes": ("bytes", lambda: _svm(_rbf, 10.0)),
}


# ------------------------------------------------------------------------------ the experiment


def errors(a: np.ndarray, b: np.ndarray, make: Callable[[], object], count: int = 5,
           seed: int = 0, permute: bool = False) -> np.ndarray:
    """Balanced (training, held-out) error of a classifier on random halves, (count, 2).

    a, b: rows (n, k) and (m, k) of the two sets. make: gives an object with fit and predict.
    Balanced: mean of the error on either set, so that sets of unequal size have chance at 1/2.
    permute: labels shuffled first, a control. ValueError with fewer than 4 rows in a set.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedShuffleSplit
    from threadpoolctl import threadpool_limits

    if min(len(a), len(b)) < 4:
        raise ValueError(f"a split needs at least 4 rows of each set, got {len(a)} and {len(b)}")
    X, y = np.concatenate([a, b]), np.r_[np.zeros(len(a), int), np.ones(len(b), int)]
    if permute:
        y = np.random.default_rng(seed).permutation(y)
    out = []
    halves = StratifiedShuffleSplit(count, test_size=0.5, random_state=seed)
    with threadpool_limits(1):  # small fits: threads of their own only wait for each other
        for train, test in halves.split(X, y):
            fitted = make().fit(X[train], y[train])
            said = [(y[i], fitted.predict(X[i])) for i in (train, test)]
            out.append([1 - balanced_accuracy_score(*v) for v in said])
    return np.array(out)


def corrected(values, ratio: float = 1.0, level: float = 0.95) -> float:
    """Half-width of a Student interval for the mean over k >= 2 splits of one sample, values (k,).

    Splits share images, so their mean varies more than k independent ones would: the variance has
    1/k + ratio in place of 1/k, with ratio = test images ÷ training images, 1 for halves. Source:
    Nadeau & Bengio 2003.
    """
    v = np.asarray(values, dtype=np.float64)
    quantile = stats.t.ppf((1 + level) / 2, len(v) - 1)
    return float(quantile * v.std(ddof=1) * np.sqrt(1 / len(v) + ratio))


def interval(values, n_test: int, level: float = 0.95) -> tuple[float, float, float]:
    """(PAD, low, high) from held-out errors (k,) of k random halves with n_test test images each.

    `corrected`, and never narrower than Clopper–Pearson at the mean error on one test half: no
    error in a hundred images is not an error of zero. Cut to [-2, 2].
    """
    e = np.asarray(values, dtype=np.float64)
    mean = float(e.mean())
    half = corrected(e, level=level) if len(e) > 1 else 0.0
    low, high = metrics.proportion(round(mean * n_test), n_test, level)
    low, high = min(low, mean - half, mean), max(high, mean + half, mean)
    return tuple(float(v) for v in pad(np.clip([mean, high, low], 0, 1)))


def _log_odds(X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Log-odds (s, n) of s logistic regressions on rows X (n, k), labels y (n,) in {0, 1}.

    weight (s, n): 1 for the rows that a regression learns from, else 0. Standardised on those, with
    the penalty of scikit-learn (C = 1, not on the offset); by Newton's method, all s at once.
    """
    size = weight.sum(1, keepdims=True)
    Z = X - (weight @ X / size)[:, None]                              # (s, n, k)
    spread = np.sqrt(np.einsum("sn,snk->sk", weight, Z**2) / size)
    Z = np.concatenate([Z / np.where(spread > 0, spread, 1)[:, None], np.ones_like(Z[..., :1])], 2)
    ridge = np.r_[np.ones(X.shape[1]), 0]
    w, sign = np.zeros((len(weight), Z.shape[2], 1)), (1 - 2 * y)[:, None]

    def loss(w):
        cost = np.logaddexp(0, sign * (Z @ w))[..., 0]
        return (weight * cost).sum(1) + (ridge * w[..., 0] ** 2).sum(1) / 2

    for _step in range(50):
        p = expit(Z @ w)[..., 0]
        slope = np.einsum("sn,snk->sk", weight * (p - y), Z) + ridge * w[..., 0]
        bend = (Z * (weight * p * (1 - p))[..., None]).transpose(0, 2, 1) @ Z + np.diag(ridge)
        step = np.linalg.solve(bend, slope[..., None])
        for _half in range(30):                                     # where it overshoots
            worse = loss(w - step) > loss(w) + 1e-9
            if not worse.any():
                break
            step[worse] /= 2
        w = w - step
        if np.abs(step).max() < 1e-8:
            break
    return (Z @ w)[..., 0]


def told_apart(a: np.ndarray, b: np.ndarray, folds: int = 5, repeats: int = 5,
               seed: int = 0) -> tuple[float, float, float]:
    """(AUC, low, high) of logistic regression that tells rows a (n, k) from b (m, k), held out.

    The mean over the folds of repeated cross-validation, `corrected`: an interval for what the
    judge says of *these* rows, not for other draws of them. Scores of different folds are not
    pooled, as `normality.c2st` does: with few rows that puts two samples of one law below 1/2.
    Built in: out_of_distribution.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold

    X, y = np.concatenate([a, b]), np.r_[np.ones(len(a)), np.zeros(len(b))]
    cv = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    held = np.zeros((folds * repeats, len(y)))
    for row, (_, test) in zip(held, cv.split(X, y)):
        row[test] = 1
    each = []
    for score, out in zip(_log_odds(X, y, 1 - held), held > 0):
        pos, neg = score[out & (y == 1)][:, None], score[out & (y == 0)]
        each.append((pos > neg).mean() + (pos == neg).mean() / 2)
    mean, half = float(np.mean(each)), corrected(each, 1 / (folds - 1))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def requantise(x: Tensor) -> Tensor:
    """Images in [-1, 1] rounded to 8 bits: what a file holds."""
    return images.to_float(images.to_uint8(x))


def cross_fade(x: Tensor, other: Tensor, t: float) -> Tensor:
    """(1 − t) x + t other, pairwise, (B, 3, H, W), t in [0, 1], rounded to 8 bits."""
    if not 0 <= t <= 1:
        raise ValueError(f"t must lie in [0, 1], got {t}")
    return requantise((1 - t) * x + t * other)


# ---------------------------------------------------------------------------- other gaps, scores


def neighbour_gap(rows: Tensor, reference: Tensor) -> np.ndarray:
    """Distance of each row (n, k) to its nearest reference (m, k) ÷ the median of that inside it.

    1 is usual for a set of the reference's own law (of which each row finds its nearest other).
    """
    inside = torch.cdist(reference.double(), reference.double()).fill_diagonal_(torch.inf).amin(1)
    return (metrics.nearest(rows, reference)[0] / inside.median()).numpy()


def path_statistics(states: list[Tensor], nodes) -> np.ndarray:
    """Two numbers of an image's way up the ODE, (B, 2), logs: size and change of the noise in it.

    states: x (B, ...) at each node, the first included. In the chart y = x/(α + σ) the ODE is
    dy/dτ = ε̂ − x̂0 and y = (1 − τ) x̂0 + τ ε̂, so that two neighbouring states give
    ε̂ = y + (1 − τ) dy/dτ without another evaluation. First: mean square of ε̂ over the path;
    second: mean square of its change per unit of log-SNR. Source: after Heng et al. 2024.
    """
    y = [n.chart(x).double().flatten(1) for x, n in zip(states, nodes, strict=True)]
    eps, lam = [], []
    for a, b, p, q in zip(y, y[1:], nodes, nodes[1:]):
        slope, tau = (b - a) / (q.tau - p.tau), (p.tau + q.tau) / 2
        eps.append((a + b) / 2 + (1 - tau) * slope)
        lam.append((p.lam + q.lam) / 2)
    change = [((b - a) / (v - u)) ** 2 for a, b, u, v in zip(eps, eps[1:], lam, lam[1:])]
    parts = [e**2 for e in eps], change
    both = [torch.stack([v.mean(1) for v in part]).mean(0) for part in parts]
    return torch.stack(both, 1).log().numpy()
