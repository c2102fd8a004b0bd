"""Combs have the hole and the divergences of the theorem; certificates find the holes that are
there, and no other.
"""

import numpy as np
import pytest
import torch
from difftools import holes as H
from difftools.code import noise
from scipy import stats

PRIORS = {"normal": stats.norm(), "t3": stats.t(3), "laplace": stats.laplace()}


def test_kl_bernoulli_of_known_pairs():
    assert H.kl_bernoulli(0.3, 0.3) == 0
    assert H.kl_bernoulli(0.0, 0.49) == pytest.approx(-np.log(0.51))
    assert H.kl_bernoulli(0.01, 0.49) == pytest.approx(0.6177, abs=1e-4)
    with pytest.raises(ValueError, match="b in"):
        H.kl_bernoulli(0.1, 1.0)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("width", [2.0, 0.25])
def test_comb_has_the_hole_and_the_least_divergence(name, width):
    got = H.divergences(H.comb(PRIORS[name], width, 0.01, 0.49))
    assert got["p(S)"] == pytest.approx(0.49, abs=1e-4) and got["q(S)"] == pytest.approx(
        0.01, abs=1e-5
    )
    assert got["KL(q‖p)"] == pytest.approx(H.kl_bernoulli(0.01, 0.49), rel=1e-4)
    assert got["KL(p‖q)"] == pytest.approx(H.kl_bernoulli(0.49, 0.01), rel=1e-4)
    assert got["TV"] == pytest.approx(0.48, abs=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_w2_of_a_comb_shrinks_with_its_cells(name):
    w2 = [H.w2_comb(H.comb(PRIORS[name], width, 0.01, 0.49)) for width in (1.0, 0.5, 0.25)]
    assert w2[0] > w2[1] > w2[2] > 0 and all(
        v < w for v, w in zip(w2, (1.0, 0.5, 0.25), strict=True)
    )


def test_w2_against_sorted_draws():
    c = H.comb(stats.norm(), 1.0, 0.05, 0.4)
    x = stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    k = np.searchsorted(c.edges, x) - 1
    q = np.where(x < c.cuts[k], *c.ratios)
    cum = np.cumsum(q) / q.sum()
    u = (np.arange(400_000) + 0.5) / 400_000
    assert np.sqrt(np.mean((np.interp(u, cum, x) - x) ** 2)) == pytest.approx(
        H.w2_comb(c), rel=2e-3
    )


@pytest.mark.parametrize(
    "eps, delta, width", [(0.5, 0.4, 1.0), (0.0, 0.4, 1.0), (0.1, 1.0, 1.0), (0.1, 0.4, 0.0)]
)
def test_comb_refuses_what_is_no_hole(eps, delta, width):
    with pytest.raises(ValueError, match="eps < delta"):
        H.comb(stats.norm(), width, eps, delta)


Z = noise(range(300), (3, 16, 16), "prior", torch.float64)
FRESH = noise(range(1000, 1300), (3, 16, 16), "prior", torch.float64)


def test_no_hole_between_draws_of_one_law():
    value, low, high = H.certificate(H.table(Z), H.table(FRESH))["hole"]
    assert low < 0 < high and abs(value) < 0.15


@pytest.mark.parametrize("scale", [1.15, 0.85])
def test_hole_of_a_scaled_law(scale):
    got = H.certificate(H.table(Z), H.table(scale * FRESH))
    assert got["hole"][1] > 0.4 and got["p"][1] > got["q"][2]


def test_a_region_may_be_a_shell():
    both = torch.cat(
        [1.2 * FRESH[:150], 0.8 * FRESH[150:]]
    )  # right on average, wrong on either side
    assert H.certificate(H.table(Z), H.table(both))["hole"][1] > 0.4


def test_certificate_is_chosen_on_other_latents():
    (a, b), (c, d) = H.halves(10, 0), H.halves(10, 0)
    assert sorted([*a, *b]) == list(range(10)) and list(a) == list(c) and list(b) == list(d)
    with pytest.raises(ValueError, match="at least 4"):
        H.halves(3)


def test_certify_is_clopper_pearson():
    got = H.certify(np.r_[np.ones(50), np.zeros(50)] > 0, np.zeros(40) > 0)
    ci = stats.binomtest(50, 100).proportion_ci(0.975)
    assert got["p"] == (0.5, ci.low, ci.high) and got["q"][1] == 0
    assert got["hole"] == (0.5, ci.low - got["q"][2], ci.high)


def test_random_half_spaces_of_the_prior_and_of_a_shifted_law():
    value, low, high = H.random_half_spaces(Z)["hole"]
    assert low < 0 < high
    assert H.random_half_spaces(Z + 5)["hole"][1] > 0.2


def test_every_finite_sample_has_a_trivial_hole_that_fresh_draws_do_not_share():
    got = H.trivial_hole(Z, FRESH)
    assert got["hole"][1] > 0.98 and got["q"] == (0.0, 0.0, 0.0)
    assert H.trivial_hole(Z, Z)["hole"][0] == 0


def test_regions_that_nobody_chose_find_nothing_in_one_law_and_shifts_in_another():
    rng = np.random.default_rng(0)
    p, q = rng.random((4000, 16)) < 0.5, rng.random((300, 16)) < 0.5
    value, low, high = H.random_regions(p, q)["hole"]
    assert low < 0.01 and abs(value) < 0.03
    told = H.random_regions(p, rng.random((300, 16)) < np.r_[[0.2] * 8, [0.8] * 8])
    assert told["hole"][1] > 0.25 and (told["each"] > 0.2).all()
    value, low, _ = H.random_regions(~p, q)["hole"]  # a region or its complement: all the same
    assert abs(value) < 0.03 and low < 0.01
