"""Angles between displacements: closed forms, invariances, an independent implementation."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from difftools import images, zoo
from difftools import parallelism as P


def latents(n=7, d=40, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=gen, dtype=torch.float64)


def between(u, v):
    return math.acos(float(u @ v / (u.norm() * v.norm())))


def naive(name, s, t):
    """Every definition as one would write it first, with loops over latents."""
    n, d = len(s), t - s
    over = [(i, j) for i in range(n) for j in range(i)]
    arc = np.array([between(a, b) for a, b in zip(s, t)])
    if name == "pairwise":
        return np.mean([between(d[i], d[j]) for i, j in over])
    if name == "1 − cosine":
        return np.mean([1 - math.cos(between(d[i], d[j])) for i, j in over])
    if name == "to mean":
        rest = [torch.cat([d[:i], d[i + 1 :]]).mean(0) for i in range(n)]
        return np.mean([between(a, b) for a, b in zip(d, rest)])
    if name == "source-target":
        return arc.mean()
    if name == "arc spread":
        return arc.std(ddof=1)
    if name == "shared base":
        triples = [(i, j, k) for i in range(n) for j in range(n) for k in range(j)
                   if i not in (j, k)]
        return np.mean([between(t[j] - s[i], t[k] - s[i]) for i, j, k in triples])
    if name == "planes":
        plane = [torch.stack(p, 1).numpy() for p in zip(s, t)]
        return np.mean([subspace_angles(plane[i], plane[j]).min() for i, j in over])
    rng, found = np.random.default_rng(0), []
    for _ in range(P.SPLITS):
        order = rng.permutation(n)
        found.append(between(d[order[: n // 2]].mean(0), d[order[n // 2 :]].mean(0)))
    return np.mean(found)


@pytest.mark.parametrize("name", P.DEFINITIONS)
def test_a_definition_from_inner_products_is_the_one_from_latents(name):
    s, t = latents()
    t = s + 0.5 * t + 0.7
    assert P.angle(name, s, t) == pytest.approx(naive(name, s, t), abs=1e-9)


@pytest.mark.parametrize("name", P.DEFINITIONS)
def test_a_definition_sees_neither_rotation_nor_scale_nor_shape(name):
    s, t = latents()
    Q = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(1),
                                    dtype=torch.float64)).Q
    want = P.angle(name, s, t)
    assert P.angle(name, 3 * s @ Q, 3 * t @ Q) == pytest.approx(want, abs=1e-9)
    assert P.angle(name, s.reshape(7, 2, 20), t.reshape(7, 2, 20)) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("name", ["pairwise", "to mean", "halves", "1 − cosine"])
def test_equal_displacements_are_parallel(name):
    s, t = latents()
    assert P.angle(name, s, s + t[:1]) == pytest.approx(0, abs=1e-6)
    away = P.angle(name, s + 5, s + 5 + t[:1])                       # whatever the base points
    assert away == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", P.DEFINITIONS)
def test_random_pairs_give_what_the_table_says(name):
    found = [P.angle(name, *latents(48, 2000, seed).float()) for seed in range(3)]
    tol = 0.05 if name == "halves" else 0.004
    assert np.mean(found) == pytest.approx(P.DEFINITIONS[name].random(2000), abs=tol)


def test_any_points_are_sixty_degrees_apart_seen_from_one_of_them():
    for d in (2, 3, 500):
        z = latents(9, d)[0] ** 3
        p = P.pairs(z, -z)
        assert P.shared_base(P.Pairs(p.ss, p.ss, p.ss)) == pytest.approx(math.pi / 3, abs=1e-9)


def test_common_energy_is_the_squared_length_of_the_mean_direction():
    s, t = latents(2000, 5)
    d = t + 1.0
    u = d / d.norm(dim=1, keepdim=True)
    p = P.pairs(s, s + d)
    n = len(u)
    biased = float(u.mean(0).square().sum())
    assert P.common_energy(p) == pytest.approx((n * biased - 1) / (n - 1), abs=1e-9)
    least, most = P.energy_bounds(P.pairwise(p))
    assert least < P.common_energy(p)


def test_energy_bounds_hold_and_the_lower_one_is_attained():
    theta = np.linspace(1e-3, math.pi, 100_000)
    slope = ((1 - np.cos(theta)) / theta).max()
    assert P.energy_bounds(1.0)[0] == pytest.approx(1 - slope, abs=1e-6)
    assert P.energy_bounds(0.08) == pytest.approx((0.942, 0.9968), abs=1e-4)
    with pytest.raises(ValueError, match="0 to pi/2"):
        P.energy_bounds(2.0)


def test_permuted_pairs_keep_the_latents_and_no_pair():
    s, t = latents(6)
    p, q = P.pairs(s, t), P.pairs(s, t).permuted(3)
    assert np.array_equal(p.ss, q.ss)
    assert sorted(np.diagonal(p.tt)) == sorted(np.diagonal(q.tt))
    assert not set(np.diagonal(p.st)) & set(np.diagonal(q.st))


def test_the_jackknife_of_a_mean_is_students_interval():
    s, t = latents(12)
    p = P.pairs(s, t)
    arc = P._arc(p)
    half = 2.200985 * arc.std(ddof=1) / math.sqrt(12)                # t of 11 degrees of freedom
    low, high = P.jackknife(P.source_target, p)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-5)
    assert (high + low) / 2 == pytest.approx(arc.mean())


def test_bad_pairs_are_refused():
    s, t = latents()
    with pytest.raises(ValueError, match="two equal shapes"):
        P.pairs(s, t[:-1])
    with pytest.raises(ValueError, match="expected 4 or more"):
        P.pairs(s[:3], t[:3])
    with pytest.raises(ValueError, match="NaN"):
        P.pairs(s, t * math.nan)
    with pytest.raises(ValueError, match="pair 2 has its source as target"):
        P.pairs(s, torch.cat([t[:2], s[2:]]))
    with pytest.raises(ValueError, match="unknown definition 'pair'; known: pairwise"):
        P.angle("pair", s, t)


def test_edits_change_what_they_say():
    x, y = P.edited("box", 5)
    assert (y[..., 10:22, 10:22] == 1).all() and torch.equal(x[..., :10, :], y[..., :10, :])
    moved = P.edited("box, moved", 5)[1]
    assert torch.equal(moved[:2], P.edited("box, moved", 2)[1])      # a batch is a loop
    assert not torch.equal(moved[0] == 1, moved[1] == 1)
    big = torch.zeros(2, 3, 64, 64)
    assert (P.EDITS["box"](big)[0, 0] == 1).sum() == 24**2           # in proportion
    assert torch.equal(P.edited("grayscale", 3)[1], images.grayscale(x[:3]))


def test_sunglasses_are_pairs_of_one_person():
    x, y = P.edited("sunglasses", 6)
    other = (x.roll(1, 0) - y).square().mean((1, 2, 3))
    assert ((x - y).square().mean((1, 2, 3)) < 0.5 * other).all()


def test_unknown_edits_and_too_few_images_are_refused():
    with pytest.raises(ValueError, match="unknown edit 'blurr'; known: blur"):
        P.edited("blurr", 2)
    with pytest.raises(ValueError, match="given 2 images, expected 3"):
        P.edited("blur", 3, torch.zeros(2, 3, 8, 8))


def test_moving_by_the_mean_of_equal_displacements_is_the_edit_itself():
    s, t = latents()
    d = t[:1]
    torch.testing.assert_close(P.move(s, s[:3], s[:3] + d), s + d)
    torch.testing.assert_close(P.move(s, s[:3], s[:3] + d, "stretched"), s + d)


def test_ways_of_moving_keep_what_they_promise():
    s, t = latents()
    length = (P.move(s, s[:4], t[:4], "stretched") - s).norm(dim=1)
    assert length == pytest.approx(float((t - s)[:4].norm(dim=1).mean()))
    around = P.move(s, s[:4], t[:4], "great circle")
    phi = [between(a, b) for a, b in zip(s, around)]
    assert phi == pytest.approx([np.mean([between(a, b) for a, b in zip(s[:4], t[:4])])] * 7)
    grown = (t[:4].norm(dim=1) / s[:4].norm(dim=1)).mean()
    torch.testing.assert_close(around.norm(dim=1), s.norm(dim=1) * grown)


def test_an_affine_encoder_moves_by_the_mean_of_pixels():
    x, y = P.edited("box", 10)
    m = zoo.load("zero", steps=2)
    codes = [m.encode(v, range(10)) for v in (x, y)]
    z = P.move(codes[0]["noise"], *(c["noise"][:4] for c in codes))
    back = m.decode(type(codes[0])({"noise": z}, {"noise": "sphere"}, tuple(range(10))))
    torch.testing.assert_close(back, x.double() + (y - x)[:4].mean(0), rtol=0, atol=1e-5)


def test_bad_moves_are_refused():
    s, t = latents()
    with pytest.raises(ValueError, match="unknown way 'lerp'; known: mean"):
        P.move(s, s, t, "lerp")
    with pytest.raises(ValueError, match="must agree"):
        P.move(s[:, :5], s, t)
