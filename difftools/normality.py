"""Are these latents draws from N(0, I)? Tests whose nulls are simulated, so that they hold at d =
3072.

Every statistic is computed per latent; its null distribution is simulated with white noise of the
same shape, so no asymptotic formula is trusted. Textbook multivariate tests (Henze–Zirkler and kin)
have no size there.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import stats
from torch import Tensor

BANDS = {"low": (0, 1 / 16), "mid": (1 / 16, 1 / 8), "fine": (1 / 8, 1 / 4), "high": (1 / 4, 1)}


def _bands(z: np.ndarray) -> dict[str, np.ndarray]:
    """log mean power in octaves of spatial frequency, name -> (B,); about 0 for white noise.

    An octave without a frequency (images below 16 px) is left out.
    """
    power = np.abs(np.fft.fft2(z, norm="ortho")) ** 2  # (B, C, H, W)
    fy, fx = np.meshgrid(*(np.abs(np.fft.fftfreq(n)) for n in z.shape[2:]), indexing="ij")
    r = np.maximum(fy, fx)
    masks = {name: (r >= lo) & (r < hi) for name, (lo, hi) in BANDS.items()}
    return {k: np.log(power[:, :, m].mean((1, 2))) for k, m in masks.items() if m.any()}


def statistics(z: Tensor) -> dict[str, np.ndarray]:
    """Per-latent statistics of z (B, C, H, W) or (B, d), each (B,), named with the value white
    noise has.

    norm: |z|/sqrt(d) (1). mean: average coordinate (0). kurtosis: excess (0). ks: Kolmogorov
    distance of the coordinates to N(0, 1) (about 0). lag1: correlation of neighbouring pixels (0);
    low .. high: log power in four octaves (0). The last five need images.
    """
    a = z.double().numpy() if isinstance(z, Tensor) else np.asarray(z, dtype=np.float64)
    v = a.reshape(len(a), -1)
    out = {
        "norm": np.sqrt((v**2).mean(1)),
        "mean": v.mean(1),
        "kurtosis": stats.kurtosis(v, axis=1),
        "ks": _ks(v),
    }
    if a.ndim == 4:
        c = a - a.mean((2, 3), keepdims=True)
        h = (c[..., 1:] * c[..., :-1]).mean((1, 2, 3)) + (c[:, :, 1:] * c[:, :, :-1]).mean(
            (1, 2, 3)
        )
        out["lag1"] = h / 2 / (c**2).mean((1, 2, 3))
        out |= _bands(a)
    return out


def _ks(v: np.ndarray) -> np.ndarray:
    """Kolmogorov distance of each row's values to the standard normal law."""
    cdf = stats.norm.cdf(np.sort(v, axis=1))
    n = v.shape[1]
    return np.maximum((np.arange(1, n + 1) / n - cdf).max(1), (cdf - np.arange(n) / n).max(1))


@lru_cache(maxsize=8)
def null(shape: tuple[int, ...], n: int = 999, seed: int = 0) -> dict[str, np.ndarray]:
    """The same statistics for n white-noise latents of one shape: the simulated null."""
    rng = np.random.default_rng(seed)
    return statistics(rng.standard_normal((n, *shape)))


def battery(
    z: Tensor, n_null: int = 999, seed: int = 0
) -> dict[str, dict[str, float | np.ndarray]]:
    """Test each latent against N(0, I), statistic by statistic.

    z: (B, C, H, W) or (B, d). Returns name -> {median, low, high (2.5 % and 97.5 % of the null), p
    (B,), rejected (share of latents with p < 0.05)}; the entry "any" tests the smallest p,
    Bonferroni corrected, so that its size is at most 0.05. Smallest possible p: 2 / (n_null + 1)
    per statistic. Built in: hypersphere.
    """
    got, ref = statistics(z), null(tuple(z.shape[1:]), n_null, seed)
    out = {}
    for name, x in got.items():
        y = np.sort(ref[name])
        below = np.searchsorted(y, x, side="right")
        above = len(y) - np.searchsorted(y, x, side="left")
        p = np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (len(y) + 1))
        lo, hi = np.quantile(y, [0.025, 0.975])
        out[name] = {
            "median": float(np.median(x)),
            "low": float(lo),
            "high": float(hi),
            "p": p,
            "rejected": float((p < 0.05).mean()),
        }
    p = np.minimum(1.0, len(got) * np.min([v["p"] for v in out.values()], axis=0))
    out["any"] = {
        "median": float(np.median(p)),
        "low": 0.0,
        "high": 1.0,
        "p": p,
        "rejected": float((p < 0.05).mean()),
    }
    return out


def c2st(
    a: Tensor,
    b: Tensor,
    features: str = "statistics",
    folds: int = 5,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    """Classifier two-sample test: held-out AUC of telling latents a from latents b, with its
    interval.

    a, b: (n, C, H, W) or (n, d). features: "statistics" (the battery's) or "raw" (coordinates).
    Logistic regression, out-of-fold scores; AUC 0.5 means that this classifier sees no difference.
    Interval: bootstrap over latents. Source: Lopez-Paz & Oquab 2017. Built in: prior_holes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if features not in ("statistics", "raw"):
        raise ValueError(f"features must be 'statistics' or 'raw', got {features!r}")
    table = lambda z: (
        np.stack(list(statistics(z).values()), 1)
        if features == "statistics"
        else z.flatten(1).numpy()
    )  # noqa: E731
    X = np.concatenate([table(a), table(b)])
    y = np.r_[np.ones(len(a)), np.zeros(len(b))]
    solver = "newton-cholesky" if X.shape[1] < len(X) else "lbfgs"  # the first is d³
    model = make_pipeline(StandardScaler(), LogisticRegression(solver=solver, max_iter=2000))
    cv = StratifiedKFold(folds, shuffle=True, random_state=seed)
    score = cross_val_predict(model, X, y, cv=cv, method="decision_function")
    return auc(score[y == 1], score[y == 0], seed=seed, level=level)


def auc(
    pos: np.ndarray, neg: np.ndarray, seed: int = 0, level: float = 0.95, draws: int = 999
) -> tuple[float, tuple[float, float]]:
    """P(pos > neg) + P(tie)/2 with a bootstrap interval over both samples."""
    wins = (pos[:, None] > neg[None]) + 0.5 * (pos[:, None] == neg[None])
    rng = np.random.default_rng(seed)
    i = rng.integers(len(pos), size=(draws, len(pos)))
    j = rng.integers(len(neg), size=(draws, len(neg)))
    times = [
        np.stack([np.bincount(row, minlength=len(v)) for row in k])
        for k, v in ((i, pos), (j, neg))
    ]
    boot = ((times[0] @ wins) * times[1]).sum(1) / wins.size
    lo, hi = np.quantile(boot, [(1 - level) / 2, (1 + level) / 2])
    return float(wins.mean()), (float(lo), float(hi))
