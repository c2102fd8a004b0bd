"""The battery has its nominal size on white noise and power against everything that it names."""

import numpy as np
import pytest
import torch

from difftools import normality as N
from difftools.code import noise

SHAPE = (3, 32, 32)
Z = noise(range(400), SHAPE, "prior", torch.float64)


def test_size_on_white_noise_at_d_3072():
    got = N.battery(Z)
    for name, v in got.items():
        assert v["rejected"] < 0.05 + 4 * np.sqrt(0.05 * 0.95 / len(Z)), name
    p = got["norm"]["p"]
    assert abs(p.mean() - 0.5) < 0.08  # p values of a continuous statistic are uniform


@pytest.mark.parametrize(
    "name, bend",
    [
        ("norm", lambda z: 1.05 * z),
        ("mean", lambda z: z + 0.1),
        ("kurtosis", lambda z: z * (1 + 0.5 * z.abs()) / 1.6),
        ("ks", lambda z: z.sign() * z.abs() ** 1.2),
        ("lag1", lambda z: (z + 0.2 * z.roll(1, -1)) / 1.02),
        ("low", lambda z: z + 0.2 * noise(range(len(z)), (3, 1, 1), "forward", torch.float64)),
        ("high", lambda z: (z - 0.2 * z.roll(1, -1)) / 1.02),
    ],
)
def test_each_statistic_sees_its_own_departure(name, bend):
    assert N.battery(bend(Z))[name]["rejected"] > 0.5


def test_statistics_of_a_batch_equal_those_of_single_latents():
    whole = N.statistics(Z[:5])
    for k, v in whole.items():
        np.testing.assert_allclose(
            v, np.concatenate([N.statistics(Z[i : i + 1])[k] for i in range(5)]), rtol=1e-12
        )


def test_vectors_have_no_image_statistics():
    assert set(N.statistics(Z[:2].flatten(1))) == {"norm", "mean", "kurtosis", "ks"}


@pytest.mark.parametrize("features", ["statistics", "raw"])
def test_c2st_finds_nothing_between_draws_of_one_law(features):
    value, (lo, hi) = N.c2st(Z[:200], Z[200:], features)
    assert lo < 0.5 < hi and abs(value - 0.5) < 0.12


def test_c2st_finds_two_percent_of_scale():
    value, (lo, _) = N.c2st(1.02 * Z[:200], Z[200:])
    assert lo > 0.5 and value > 0.8


def test_c2st_refuses_unknown_features():
    with pytest.raises(ValueError, match="statistics"):
        N.c2st(Z[:10], Z[10:20], "deep")


def test_auc_against_closed_form():
    from scipy import stats

    rng = np.random.default_rng(0)
    value, (lo, hi) = N.auc(rng.normal(1, 1, 500), rng.normal(0, 1, 500))
    assert lo < stats.norm.cdf(1 / np.sqrt(2)) < hi and lo < value < hi
