"""Sphere geometry as mathematical properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftools import sphere
from difftools.code import Code, noise


def pair(seed, d=64):
    z = noise([seed, seed + 1], (d,), "data", torch.float64)
    return z[:1], z[1:]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_slerp_keeps_to_the_great_circle(seed, u):
    a, b = pair(seed)
    c = sphere.slerp(a, b, u)
    phi = sphere.angle(a, b)
    torch.testing.assert_close(sphere.angle(a, c), u * phi, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        sphere.norm(c), (1 - u) * sphere.norm(a) + u * sphere.norm(b), rtol=1e-9, atol=0
    )


def test_slerp_ends_and_symmetry():
    a, b = pair(3)
    torch.testing.assert_close(sphere.slerp(a, b, 0.0), a)
    torch.testing.assert_close(sphere.slerp(a, b, 1.0), b)
    torch.testing.assert_close(sphere.slerp(a, b, 0.3), sphere.slerp(b, a, 0.7))
    torch.testing.assert_close(sphere.slerp(a, a, 0.5), a)


def test_slerp_agrees_with_scipy():
    from scipy.spatial import geometric_slerp

    a, b = (sphere.project(v, 1.0) for v in pair(5))
    ref = geometric_slerp(a[0].numpy(), b[0].numpy(), [0.2, 0.9])
    for r, u in zip(ref, (0.2, 0.9)):
        torch.testing.assert_close(
            sphere.slerp(a, b, u)[0], torch.from_numpy(r), rtol=1e-9, atol=1e-12
        )


def test_batch_equals_loop_with_a_parameter_per_row():
    z = noise(range(6), (3, 4, 4), "data", torch.float64)
    u = torch.linspace(0, 1, 3).double()
    rows = torch.cat([sphere.slerp(z[i : i + 1], z[i + 3 : i + 4], float(u[i])) for i in range(3)])
    torch.testing.assert_close(sphere.slerp(z[:3], z[3:], u), rows)


def test_angle_is_accurate_at_both_ends():
    a, b = pair(1)
    tiny = sphere.project(a, 1.0) + 1e-9 * sphere.project(b - (a @ b.T) / (a @ a.T) * a, 1.0)
    assert float(sphere.angle(a, tiny)) == pytest.approx(1e-9, rel=1e-4)
    assert float(sphere.angle(a, -a)) == pytest.approx(math.pi)


def test_undefined_geometry_is_refused():
    a, _ = pair(2)
    with pytest.raises(ValueError, match="antipodal"):
        sphere.slerp(a, -2 * a, 0.5)
    with pytest.raises(ValueError, match="zero vector"):
        sphere.project(torch.zeros(1, 4))


def test_uniform_has_its_radius_and_no_direction():
    x = sphere.uniform(4000, 16, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sphere.norm(x), torch.full((4000,), 4.0).double())
    assert float(x.mean(0).abs().max()) < 5 / math.sqrt(4000)


def test_gaussian_draws_are_0_7071_from_their_sphere_in_any_high_dimension():
    assert sphere.w2_to_uniform(2) == pytest.approx(math.sqrt(4 - 2 * math.sqrt(math.pi)))
    assert sphere.w2_to_uniform(196608) == pytest.approx(math.sqrt(0.5), rel=1e-5)
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(800, 2, generator=gen, dtype=torch.float64)
    assert sphere.w2_samples(x, sphere.uniform(800, 2, gen)) == pytest.approx(
        sphere.w2_to_uniform(2), rel=0.05
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 100))
def test_w2_of_samples_is_a_distance_that_scales_with_space(seed, c):
    a, b, e = noise([seed, seed + 1, seed + 2], (6, 4), "data", torch.float64)
    assert sphere.w2_samples(c * a, c * b) == pytest.approx(c * sphere.w2_samples(a, b))
    assert sphere.w2_samples(a, b) == pytest.approx(sphere.w2_samples(b.flip(0), a))
    assert sphere.w2_samples(a, e) <= sphere.w2_samples(a, b) + sphere.w2_samples(b, e) + 1e-12
    assert sphere.w2_samples(a, a.flip(0)) == pytest.approx(0, abs=1e-6)
    a, b = sphere.project(a, c), sphere.project(b, c)
    assert sphere.w2_samples(a, b) <= 2 * c * (1 + 1e-9)


def test_contrast_is_the_log_of_the_ratio_of_extremes():
    x = torch.tensor([[0.0], [1.0], [4.0]])
    assert sphere.contrast(x) == pytest.approx(math.log(4))
    assert sphere.contrast(torch.eye(5)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="equal"):
        sphere.contrast(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="equal size"):
        sphere.w2_samples(x, x[:2])


def test_noise_depends_on_seed_and_stream_only():
    a = noise([4, 5, 6], (3, 8, 8))
    torch.testing.assert_close(a[1], noise([5], (3, 8, 8))[0], rtol=0, atol=0)
    assert not torch.equal(a, noise([4, 5, 6], (3, 8, 8), "start"))


def test_code_select_map_and_drop():
    c = Code(
        {"noise": torch.arange(6.0).view(3, 2), "auxiliary": torch.zeros(3, 2)},
        {"noise": "sphere", "auxiliary": "flat"},
        (7, 8, 9),
    )
    assert c.select([2, 0]).seeds == (9, 7) and c.select(slice(1, None))["noise"].tolist() == [
        [2, 3],
        [4, 5],
    ]
    assert c.drop("auxiliary").tensors.keys() == {"noise"} and c.drop("auxiliary").seeds == (
        7,
        8,
        9,
    )
    moved = c.map(lambda t, geometry: -t if geometry == "sphere" else t)
    assert moved["noise"][2, 1] == -5 and moved.seeds is None
