"""Descents on the sphere through a decoder, and how straight they are."""

import math

import numpy as np
import pytest
import torch

from difftools import data, sphere, zoo
from difftools import descent as D


def points(n=3, d=12, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=gen, dtype=torch.float64)


def same(z):
    return z


def test_a_quadratic_on_the_sphere_is_walked_along_the_great_circle():
    a, b = points()
    b = sphere.project(b, 1.0) * sphere.norm(a)[:, None]
    path = D.descend(same, a, lambda z: (z - b).square().sum(1), 200)
    assert (path.straightness > 1 - 1e-6).all() and (path.detour < 1e-4).all()
    assert (sphere.angle(path.z[-1], b) < 1e-3).all()
    torch.testing.assert_close(sphere.norm(path.z[-1]), sphere.norm(a))


def test_a_batch_is_a_loop():
    a, b = points()
    loss = lambda k: lambda z: (z - b[k]).square().sum(1)  # noqa: E731
    whole = D.descend(same, a, loss([0, 1, 2]), 15)
    for i in range(3):
        one = D.descend(same, a[i : i + 1], loss([i]), 15)
        torch.testing.assert_close(one.z[:, 0], whole.z[:, i])


def test_an_ill_conditioned_loss_bends_the_path():
    a, b = points(4, 12)
    b = sphere.project(b, 1.0) * sphere.norm(a)[:, None]
    w = torch.tensor([1.0] * 6 + [200.0] * 6).double()
    path = D.descend(same, a, lambda z: (w * (z - b).square()).sum(1), 60)
    assert (path.straightness < 0.9).all() and (path.detour > 0.05).all()


def test_straightness_and_detour_of_known_paths():
    u = torch.linspace(0, math.pi / 2, 101).double()
    circle = torch.stack([u.cos(), u.sin(), 0 * u], 1)[:, None]      # a quarter of the equator
    path = D.Path(circle, torch.zeros(101, 1))
    assert float(path.straightness) == pytest.approx(1) and float(path.detour) < 1e-6
    corner = torch.eye(3).double()[[0, 2, 1]][:, None]               # by the pole
    path = D.Path(corner, torch.zeros(3, 1))
    assert float(path.straightness) == pytest.approx(0.5)
    assert float(path.detour) == pytest.approx(1)                    # π/2 off, π/2 apart


def test_a_path_ends_at_its_lowest_loss():
    z = torch.arange(4.0).reshape(4, 1, 1) + 1
    path = D._until_best(z, torch.tensor([[3.0], [1.0], [2.0], [5.0]]))
    assert path.z.flatten().tolist() == [1, 2, 2, 2] and float(path.loss[-1]) == 1


def test_a_loss_that_is_not_finite_stops_the_descent():
    a, _ = points()
    with pytest.raises(FloatingPointError, match="not finite"):
        D.descend(same, a, lambda z: z.sum(1) * math.nan, 2)
    with pytest.raises(ValueError, match="expected 1 or more"):
        D.descend(same, a, lambda z: z.sum(1), 0)


def test_a_jump_has_rank_correlation_root_three_over_two_at_most():
    jumps = np.array([[float(i > k) for k in range(8)] for i in range(9)])
    rho = D.rank_correlation(jumps)
    assert rho.max() == pytest.approx(math.sqrt(3) / 2)
    p = np.arange(1, 9) / 9
    assert rho == pytest.approx(np.sqrt(3 * p * (1 - p)) / math.sqrt(1 - 1 / 81))
    assert D.rank_correlation(np.zeros((9, 1)))[0] == 0
    assert D.rank_correlation(np.arange(9.0)[:, None] ** 3)[0] == pytest.approx(1)


def test_evenness_of_a_line_and_of_a_jump():
    u = np.linspace(0, 1, 9)
    value = np.stack([5 - 3 * u, (u > 0.45).astype(float), 0 * u], 1)
    assert D.evenness(value)[:2] == pytest.approx([1, 0.5])
    assert np.isnan(D.evenness(value)[2])


def test_the_traced_decoder_gives_the_same_pictures_and_true_gradients():
    m = zoo.load("gaussian-vehicles32", steps=3)
    x = data.domain("horses", 2)
    code = m.encode(x)
    decode = D.decoder(m, code.seeds)
    torch.testing.assert_close(decode(code["noise"]), m.decode(code))
    z = code["noise"].clone().requires_grad_()
    (g,) = torch.autograd.grad(decode(z).square().sum(), z)
    step = 1e-4 * g / g.norm()
    with torch.no_grad():
        up, down = (decode(code["noise"] + k * step).square().sum() for k in (1, -1))
    assert float(up - down) / 2 == pytest.approx(float(1e-4 * g.norm()), rel=1e-4)


def test_a_traced_network_gives_the_same_pictures_as_the_frozen_one():
    m = zoo.load("ddpm-vehicles32", steps=2)
    code = m.encode(data.domain("horses", 1))
    found = D.decoder(m, code.seeds)(code["noise"].requires_grad_())
    assert found.requires_grad
    torch.testing.assert_close(found.detach(), m.decode(code), rtol=0, atol=1e-5)


def test_shifted_pictures():
    x = data.domain("horses", 2)
    moved = D.shift(x, 5)
    assert torch.equal(moved[..., 5:], x[..., :-5]) and torch.equal(D.shift(x, 0), x)
    assert (moved[..., :5] == x[..., :1]).all()
    with pytest.raises(ValueError, match="expected 0 to 31"):
        D.shift(x, 32)


def test_each_kind_has_its_loss_near_zero_where_the_manipulation_is_done():
    x, other = data.domain("horses", 3).double(), data.domain("animals", 3).double()
    done = {"low-level": D.images.grayscale(x), "geometric": D.shift(x, 8), "random target": other}
    for name, y in done.items():
        kind = D.KINDS[name](x, other)
        left = D.IDENTITY * D.identity(x)(y) if name == "geometric" else 0
        assert float((kind.loss(y) - left).abs().max()) < 1e-10 < float(kind.loss(x).min())
        assert (kind.loss(y) < 0.2 * kind.loss(x)).all()
        assert (kind.seen(y) > kind.seen(x)).all()
        assert kind.reached(y).all() and not kind.reached(x).any()
    pose = D.KINDS["geometric"](x, other).seen
    for k in range(9):
        assert (pose(D.shift(x, k)) == k).all()
        assert (D.geometric(x).reached(D.shift(x, k)) == (k >= 4)).all()
    near = D.semantic(x)
    assert torch.equal(near.loss(x) == 0, near.seen(x) >= D.MARGIN)


def test_half_of_the_colour_is_half_of_its_amplitude():
    x = data.domain("horses", 3).double()
    grey = D.images.grayscale(x)
    for left, reached in ((0.49, True), (0.51, False)):
        assert (D.colour(x).reached(grey + left * (x - grey)) == reached).all()
    near = D.semantic(x)
    assert torch.equal(near.reached(x), D._margin(x) >= 0)


def test_identity_sees_who_it_is_and_not_where():
    x, other = data.domain("horses", 8).double(), data.domain("animals", 8).double()
    same = D.identity(x)
    assert float(same(x).abs().max()) < 1e-6
    assert (same(D.shift(x, 8)) < same(other)).all()
    assert D.identity(torch.zeros(2, 3, 64, 64))(torch.ones(2, 3, 64, 64)).shape == (2,)


def test_the_true_shift_is_inverted_and_not_descended():
    m, x = zoo.load("zero", steps=2), data.domain("horses", 2)
    path, kind = D.truly_shifted(m, x)
    torch.testing.assert_close(path.z[1], m.encode(D.shift(x, 8))["noise"])
    assert path.loss.shape == (2, 2) and (path.loss[1] < path.loss[0]).all()
    with torch.no_grad():
        assert (kind.seen(D.decoder(m, range(2))(path.z[1])) == 8).all()


def test_the_margin_is_that_of_the_classifier():
    x = data.domain("animals", 4)
    logits = zoo.classifier()(x)
    want = [v[D.TARGET] - max(u for k, u in enumerate(v) if k != D.TARGET) for v in logits.tolist()]
    assert D._margin(x).tolist() == pytest.approx(want, abs=1e-5)
    assert D._margin(torch.zeros(2, 3, 64, 64)).shape == (2,)


def test_a_kind_that_is_unknown_is_refused():
    m = zoo.load("zero", steps=2)
    x = data.domain("horses", 1)
    with pytest.raises(ValueError, match="unknown kind 'pose'; known: low-level"):
        D.found(m, x, x, "pose", 1)


def test_a_descent_through_the_zero_network_is_one_in_pixels():
    m, x = zoo.load("zero", steps=2), data.domain("horses", 2)
    path, kind = D.found(m, x, data.domain("animals", 2), "low-level", 40)
    assert (path.loss[-1] < 0.3 * path.loss[0]).all()
    value, rho = D.gradation(D.decoder(m, range(2)), path.z[0], path.z[-1], kind.seen)
    assert value.shape == (9, 2) and (rho > 0.99).all()
