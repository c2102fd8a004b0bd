"""Metrics against torchmetrics, scipy and closed forms."""

import numpy as np
import pytest
import torch

from difftools import metrics as M
from difftools.code import noise


def test_psnr_is_minus_ten_log_mse_per_image_and_capped():
    x = noise(range(4), (3, 32, 32), "data").clamp(-1, 1)
    y = x + torch.tensor([0.1, 0.01, 1e-4, 0.0]).view(4, 1, 1, 1)
    got = M.psnr(
        x.double(), x.double() + torch.tensor([0.1, 0.01, 1e-4, 0.0]).double().view(4, 1, 1, 1)
    )
    np.testing.assert_allclose(
        got[:3], 10 * np.log10(4 / np.array([0.1, 0.01, 1e-4]) ** 2), rtol=1e-6
    )
    assert float(got[3]) == M.PSNR_CAP
    torch.testing.assert_close(M.psnr(x, y)[1], M.psnr(x[1:2], y[1:2])[0])


def test_psnr_of_a_broken_reconstruction_is_the_lowest_and_not_nan():
    x = torch.zeros(2, 3, 8, 8)
    y = x.clone()
    y[0] += float("nan")
    y[1] += float("inf")
    assert M.psnr(x, y).tolist() == [-M.PSNR_CAP, -M.PSNR_CAP]


def test_ssim_is_one_for_equal_images_and_batch_equals_loop():
    x = noise(range(3), (3, 32, 32), "data").clamp(-1, 1)
    y = (x + 0.1 * noise(range(3), (3, 32, 32), "start")).clamp(-1, 1)
    torch.testing.assert_close(M.ssim(x, x), torch.ones(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        M.ssim(x, y), torch.cat([M.ssim(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    )


def clouds(n, m, d=16, shift=0.3):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g, dtype=torch.float64), torch.randn(
        m, d, generator=g, dtype=torch.float64
    ) + shift


def test_kid_equals_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    a, b = clouds(60, 60)
    assert M.kid(a, b)[0] == pytest.approx(float(poly_mmd(a, b)), rel=1e-9)


def test_kid_interval_covers_the_truth_under_the_null():
    g = torch.Generator().manual_seed(1)
    inside = 0
    for _ in range(60):
        a, b = (torch.randn(80, 16, generator=g, dtype=torch.float64) for _ in range(2))
        lo, hi = M.kid(a, b)[1]
        inside += lo <= 0 <= hi
    assert inside >= 51  # 95 % nominal, 4 standard errors of slack


def test_fd_of_gaussians_is_the_closed_form():
    from difftools import gaussians as G

    a, b = clouds(4000, 4000, d=8, shift=0.5)
    fitted = [G.fit(v, "full") for v in (a, b)]
    assert M.fd(a, b, 8) == pytest.approx(G.w2(*fitted) ** 2, rel=0.01)
    assert M.fd(a, a) == pytest.approx(0, abs=1e-9)


def test_intervals():
    rng = np.random.default_rng(0)
    lo, hi = M.bootstrap(rng.normal(3, 1, 200))
    assert lo < 3 < hi and hi - lo < 0.6
    assert M.bootstrap([2.0, 2.0, 2.0]) == (2.0, 2.0)
    lo, hi = M.proportion(0, 50)
    assert lo == 0 and hi == pytest.approx(1 - 0.025 ** (1 / 50), rel=1e-9)
    lo, hi = M.t_interval([1.0, 2.0, 3.0])
    assert lo == pytest.approx(2 - 4.302652729911275 / np.sqrt(3), rel=1e-9)


def test_features_are_batch_independent_and_finite():
    x = noise(range(3), (3, 32, 32), "data").clamp(-1, 1)
    f = M.features(x)
    assert f.shape == (3, 1280) and f.dtype == torch.float64 and bool(f.isfinite().all())
    torch.testing.assert_close(f[1:2], M.features(x[1:2]), rtol=1e-3, atol=1e-4)


def test_nearest_finds_itself():
    a, _ = clouds(10, 10)
    d, i = M.nearest(a[[3, 7]], a)
    assert i.tolist() == [3, 7] and float(d.max()) < 1e-6
