import numpy as np
import pytest

from difftools.diffusion import schedule as S


@pytest.mark.parametrize("name", S.SCHEDULES)
def test_every_schedule_falls_from_image_to_noise(name):
    s = S.SCHEDULES[name]()
    assert s.lam[0] > 2 and s.lam[-1] < -2 and np.all(np.diff(s.lam) < 0)


@pytest.mark.parametrize("name", S.SCHEDULES)
def test_time_and_log_snr_are_inverse(name):
    s = S.SCHEDULES[name]()
    lam = np.linspace(s.lam[0], s.lam[-1], 301)
    np.testing.assert_allclose(s.lam_of(s.t_of(lam)), lam, atol=1e-9)


def test_alpha_bar_is_the_product_of_one_minus_beta():
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(S.linear().alpha_bar, np.cumprod(1 - betas), rtol=1e-12)


def test_alpha_sigma_are_on_the_unit_circle_and_give_back_lam():
    lam = np.linspace(-30, 30, 61)
    a, s = S.alpha_sigma(lam)
    np.testing.assert_allclose(a**2 + s**2, 1, rtol=1e-15)
    np.testing.assert_allclose(np.log(a / s), lam, atol=1e-12)


@pytest.mark.parametrize("spacing", ["log_snr", "time"])
def test_grid_has_the_schedule_s_ends_and_is_its_own_reverse(spacing):
    s = S.linear()
    g = S.grid(s, 7, spacing)
    assert len(g) == 8
    assert g[0].lam == pytest.approx(s.lam[0]) and g[-1].lam == pytest.approx(s.lam[-1])
    assert g[0].t == pytest.approx(0, abs=1e-9) and g[-1].t == pytest.approx(999)
    assert all(a.tau < b.tau for a, b in zip(g, g[1:]))
    step = np.diff([n.lam for n in g] if spacing == "log_snr" else [n.t for n in g])
    np.testing.assert_allclose(step, step[0], rtol=1e-6)


def test_chart_and_back():
    n = S.node(S.linear(), 0.3)
    assert n.unchart(n.chart(1.7)) == pytest.approx(1.7, rel=1e-15)
    assert n.tau == pytest.approx(n.sigma / (n.alpha + n.sigma))


@pytest.mark.parametrize(
    "bad", [dict(steps=0), dict(steps=5, spacing="karras"), dict(steps=5, start=-9.0)]
)
def test_bad_grids_are_refused(bad):
    with pytest.raises(ValueError):
        S.grid(S.linear(), **bad)


def test_bad_betas_are_refused():
    with pytest.raises(ValueError, match="in \\(0, 1\\)"):
        S.from_betas("x", [0.1, 1.2])
