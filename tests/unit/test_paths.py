"""Roads between codes: ends, laws and the closed forms that they obey."""

import math

import pytest
import torch
from scipy import stats

from difftools import data, paths, sphere, zoo
from difftools.code import Code, noise

GEOMETRY = {"noise": "sphere", "w": "flat"}
ROADS = {"lerp": paths.LERP, "slerp": paths.SLERP, "lol": paths.LOL,
         "on the sphere": paths.UNIT_SLERP,
         "centred": paths.centred({"w": torch.full((5,), 2.0), "noise": torch.ones(3, 4, 4)})}


def code(first, n=4, scale=1.0):
    """A code with a part on a sphere and a flat one."""
    draw = lambda shape, s: scale * noise(range(s, s + n), shape, dtype=torch.float64)  # noqa: E731
    return Code({"noise": draw((3, 4, 4), first), "w": draw((5,), first + 50)}, GEOMETRY,
                tuple(range(n)))


@pytest.mark.parametrize("name", [k for k in ROADS if k != "on the sphere"])
def test_a_road_starts_and_ends_at_its_ends(name):
    a, b = code(0), code(100, scale=1.7)
    assert paths.misses(ROADS[name], a, b).max() < 1e-12
    assert ROADS[name](a, b, 0.3).seeds is None


def test_the_road_on_the_sphere_has_one_radius_and_moves_its_ends():
    a, b = code(0), code(100, scale=1.7)
    for u in (0.0, 0.4, 1.0):
        r = sphere.norm(paths.UNIT_SLERP(a, b, u)["noise"])
        torch.testing.assert_close(r, torch.full_like(r, math.sqrt(48)))
    assert paths.misses(paths.UNIT_SLERP, a, b).min() > 0.01


@pytest.mark.parametrize("name", ROADS)
def test_pairs_do_not_see_their_batch_and_the_way_back_is_the_way(name):
    a, b, way = code(0), code(100), ROADS[name]
    all_ = way(a, b, 0.3)
    for i in range(4):
        one = way(a.select([i]), b.select([i]), 0.3)
        back = way(b.select([i]), a.select([i]), 0.7)
        for k in GEOMETRY:
            torch.testing.assert_close(one[k][0], all_[k][i])
            torch.testing.assert_close(back[k], one[k])


def test_curved_parts_curve_and_flat_parts_do_not():
    a, b = code(0), code(100)
    c = paths.SLERP(a, b, 0.5)
    torch.testing.assert_close(c["w"], (a["w"] + b["w"]) / 2)
    torch.testing.assert_close(sphere.norm(c["noise"]), (sphere.norm(a["noise"])
                                                        + sphere.norm(b["noise"])) / 2)


def test_the_great_circle_turns_with_its_ends():
    """A rotation of both ends rotates the road: nothing but the angle decides."""
    a, b = (noise(range(s, s + 5), (48,), dtype=torch.float64) for s in (0, 100))
    Q = torch.linalg.qr(noise([7], (48, 48), dtype=torch.float64)[0]).Q
    for mix in (sphere.slerp, paths.unit_variance, paths.straight, paths.on_sphere):
        torch.testing.assert_close(mix(a @ Q, b @ Q, 0.3), mix(a, b, 0.3) @ Q)


def test_the_printed_formula_is_a_great_circle_of_unit_vectors_and_no_other():
    a, b = (noise(range(s, s + 5), (48,), dtype=torch.float64) for s in (0, 100))
    u, v = sphere.project(a, 1.0), sphere.project(b, 1.0)
    torch.testing.assert_close(paths.printed(u, v, 0.3), sphere.slerp(u, v, 0.3))
    long = paths.printed(10 * u, 10 * u, 0.5)
    assert long.isnan().all()  # an inner product of 100 has no arccos
    axis = torch.eye(3).double()
    assert paths.printed(axis, axis, 0.5).isnan().all()  # φ = 0: 0/0
    loose = paths.printed(0.5 * u, 0.9 * v, 0.5)
    assert loose.isfinite().all()
    assert not torch.allclose(loose, sphere.slerp(0.5 * u, 0.9 * v, 0.5), rtol=1e-2)


@pytest.mark.parametrize("d", [2, 16, 100, 784])
def test_the_share_of_pairs_with_a_value_is_the_closed_form(d):
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(40_000, d, generator=g, dtype=torch.float64) for _ in "ab")
    share = float(paths.printed(a, b, 0.5).isfinite().all(1).double().mean())
    p = paths.defined(d)
    assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 40_000))


def test_the_share_falls_as_the_root_of_the_dimension():
    for d in (768, 3072, 196608):
        near = 2 * stats.norm.cdf(d**-0.5) - 1
        assert paths.defined(d) == pytest.approx(near, rel=2 / d + 1e-3)
        assert paths.defined(d) == pytest.approx(math.sqrt(2 / (math.pi * d)), rel=2e-3)
    with pytest.raises(ValueError, match="dimension"):
        paths.defined(0)


def test_lol_keeps_a_gaussian_and_lerp_loses_half_of_it():
    g = torch.Generator().manual_seed(1)
    mean = torch.tensor([3.0, -1.0]).double()
    root = torch.tensor([[2.0, 0.0], [1.0, 0.5]]).double()
    a, b = (mean + torch.randn(200_000, 2, generator=g, dtype=torch.float64) @ root.T
            for _ in "ab")
    for u in (0.2, 0.5):
        z = paths.unit_variance(a, b, u, mean)
        torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.02)
        torch.testing.assert_close(torch.cov(z.T), root @ root.T, rtol=0, atol=0.04)
    half = torch.cov(paths.straight(a, b, 0.5).T)
    torch.testing.assert_close(half, root @ root.T / 2, rtol=0, atol=0.03)


def test_w2_of_mid_points_in_closed_form_and_by_draws():
    assert paths.w2_mid_point(3072, "lerp") == pytest.approx(16.234, abs=1e-3)
    assert paths.w2_mid_point(3072, "lol") == 0
    limit = (1 - 2**-0.5) * 2**-0.5  # chi near a normal law of variance 1/2, its mean of two 1/4
    for d in (768, 3072):
        assert paths.w2_mid_point(d, "slerp") == pytest.approx(limit, abs=0.01)
    with pytest.raises(ValueError, match="'lerp', 'slerp' or 'lol'"):
        paths.w2_mid_point(3, "fade")


def test_only_moves_one_part():
    a, b = code(0), code(100)
    c = paths.only("noise")(a, b, 0.5)
    assert torch.equal(c["w"], a["w"]) and not torch.equal(c["noise"], a["noise"])
    with pytest.raises(ValueError, match="no part 'semantic'; it has noise, w"):
        paths.only("semantic")(a, b, 0.5)


def test_bad_input_gets_a_clear_error():
    a, b = code(0), code(100)
    for way in (*ROADS.values(), paths.ALGORITHM_1):
        with pytest.raises(ValueError, match="same parts and size"):
            way(a, b.select([0, 1]), 0.5)
        with pytest.raises(ValueError, match="same parts and size"):
            way(a, b.drop("w"), 0.5)
        with pytest.raises(ValueError, match=r"u must lie in \[0, 1\], got 1.5"):
            way(a, b, 1.5)
    with pytest.raises(ValueError, match="no part v"):
        paths.centred({"v": torch.zeros(5)})(a, b, 0.5)


@pytest.fixture(scope="module")
def exact():
    """The exact Gaussian and the codes of two pairs of images."""
    m, x = zoo.load("gaussian-vehicles32", steps=40), data.domain("vehicles", 4)
    return m, paths.ends(m.encode(x[:2])), paths.ends(m.encode(x[2:], (2, 3)))


def test_high_up_the_road_along_the_ode_is_the_great_circle(exact):
    m, a, b = exact
    far = paths.along_ode(m, -99.0)(a, b, 0.5)["noise"]
    near = paths.SLERP(a, b, 0.5)["noise"]
    low = paths.along_ode(m, 99.0)(a, b, 0.5)["noise"]
    gap = lambda x, y: float((sphere.norm(x - y) / sphere.norm(y)).max())  # noqa: E731
    assert gap(far, near) < 0.05 < gap(low, near)


def test_low_down_it_is_a_cross_fade(exact):
    m, a, b = exact
    x, y = m.decode(a), m.decode(b)
    fade = (x + y) / 2
    gap = lambda v: float((m.decode(paths.along_ode(m, v)(a, b, 0.5)) - fade)  # noqa: E731
                          .square().mean().sqrt())
    assert gap(99.0) < 0.03 < gap(-99.0)


def test_the_road_along_the_ode_ends_at_its_ends(exact):
    m, a, b = exact
    assert paths.misses(paths.along_ode(m), a, b).max() < 0.01


def test_it_serves_systems_with_more_than_noise_and_refuses_others():
    m, x = zoo.load("d2c-vehicles32", steps=4), data.domain("vehicles", 2)
    a, b = (paths.ends(m.encode(v[None])) for v in x)
    c = paths.along_ode(m)(a, b, 0.5)
    assert c["noise"].shape == a["noise"].shape and m.decode(c).isfinite().all()
    m = zoo.load("dae-vehicles32", steps=3)
    a, b = (paths.ends(m.encode(v[None])) for v in x)
    c = paths.along_ode(m)(a, b, 0.5)
    torch.testing.assert_close(c["semantic"], (a["semantic"] + b["semantic"]) / 2)
    with pytest.raises(ValueError, match="needs a diffusion model"):
        paths.along_ode(zoo.load("stylegan2-vehicles32", steps=1))
    two = zoo.load("zero", stepper="reversible_heun", steps=4)
    c = two.encode(x)
    with pytest.raises(ValueError, match="expected codes of noise"):
        paths.along_ode(two)(c, c, 0.5)
    assert two.decode(paths.SLERP(c, c, 0.5)).isfinite().all()
