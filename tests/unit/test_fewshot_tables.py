"""What is made of ten images, and the measures of samples: against closed forms and other code."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import linalg, optimize
from scipy.spatial import distance
from sklearn.neighbors import NearestNeighbors

from difftools import data, geodesic_tables, metrics, paths, perceptual, results, sphere, zoo
from difftools import fewshot_tables as T
from difftools.code import Code


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def codes():
    parts = {"noise": normal(10, 3, 8, 8), "semantic": normal(10, 6, seed=1)}
    return Code(parts, {"noise": "sphere", "semantic": "flat"}, tuple(range(10)))


def test_draws_take_every_road_once_and_every_place_as_often():
    pairs, places = T.draws(10, 45, 3)
    assert sorted(pairs) == [(i, j) for i in range(10) for j in range(i + 1, 10)]
    assert {places.count(u) for u in T.PLACES} == {9}
    assert T.draws(10, 45, 3) == (pairs, places) != T.draws(10, 45, 4)
    many, _ = T.draws(3, 7, 0)
    assert sorted(many.count(p) for p in set(many)) == [2, 2, 3]


def test_between_is_the_road_of_each_pair(codes):
    pairs, places = T.draws(10, 12, 5)
    found = T.between(paths.SLERP, codes, 12, 5)
    for k, ((i, j), u) in enumerate(zip(pairs, places)):
        one = paths.SLERP(*(paths.ends(codes.select([end])) for end in (i, j)), u)
        for part in codes.tensors:
            torch.testing.assert_close(found[part][k], one[part][0])
    assert found.seeds is None and len(found) == 12


def test_cross_fades_are_straight_lines_of_pixels():
    x = normal(4, 3, 8, 8)
    (i, j), u = T.draws(4, 6, 1)[0][2], T.draws(4, 6, 1)[1][2]
    torch.testing.assert_close(T.cross_fades(x, 6, 1)[2], (1 - u) * x[i] + u * x[j])


def test_copies_are_shots_and_jitter_only_mirrors_and_moves():
    x = normal(5, 3, 16, 16)
    for v in T.copies(x, 30, 2):
        assert any(torch.equal(v, s) for s in x)
    flat = torch.stack([torch.full((3, 16, 16), float(k)) for k in range(5)])
    assert torch.equal(T.jittered(flat, 30, 2), T.copies(flat, 30, 2))
    moved = T.jittered(x, 30, 2)
    inner = moved[..., 4:12, 4:12]  # every value is some value of its shot
    assert all(np.isin(v.numpy(), s.numpy()).all()
               for v, s in zip(inner, T.copies(x, 30, 2)))
    assert not torch.equal(moved, T.copies(x, 30, 2))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_weights_are_uniform_over_the_simplex_of_k(k):
    w = T.weights(10, k, 4000, 0)
    torch.testing.assert_close(w.sum(1), torch.ones(4000, dtype=torch.float64))
    assert ((w > 0).sum(1) == k).all()
    # Dirichlet(1, …, 1): E sum of squares is 2 / (k + 1)
    assert float(w.square().sum(1).mean()) == pytest.approx(2 / (k + 1), rel=0.03)


def test_convex_combinations_of_two_are_the_road_between_them(codes):
    pairs, places = T.draws(10, 20, 5)
    w = torch.zeros(20, 10, dtype=torch.float64)
    for k, ((i, j), u) in enumerate(zip(pairs, places)):
        w[k, i], w[k, j] = 1 - u, u
    found, road = T.convex(codes, w), T.between(paths.SLERP, codes, 20, 5)
    for part in codes.tensors:
        torch.testing.assert_close(found[part], road[part])
    corners = T.convex(codes, torch.eye(10, dtype=torch.float64))
    torch.testing.assert_close(corners["noise"], codes["noise"])


def test_convex_combinations_do_not_see_order_or_rotation(codes):
    w, turn = T.weights(10, 4, 6), torch.randperm(10, generator=torch.Generator().manual_seed(1))
    found = T.convex(codes, w)
    again = T.convex(codes.select(turn), w[:, turn])
    torch.testing.assert_close(found["noise"], again["noise"])
    q = torch.linalg.qr(normal(192, 192)).Q
    rotate = lambda v: (v.flatten(1) @ q).reshape(v.shape)  # noqa: E731
    rotated = Code(codes.tensors | {"noise": rotate(codes["noise"])}, codes.geometry)
    torch.testing.assert_close(T.convex(rotated, w)["noise"], rotate(found["noise"]))
    torch.testing.assert_close(sphere.norm(found["noise"]), w @ sphere.norm(codes["noise"]))


def test_a_spherical_mean_is_where_scipy_finds_the_least_sum_of_squares():
    points = torch.nn.functional.normalize(normal(4, 3) + torch.tensor([2.0, 0, 0]), dim=1)
    w = T.weights(4, 4, 1, 3)

    def cost(v):
        z = torch.from_numpy(v / np.linalg.norm(v))[None].expand(4, 3)
        return float((w[0] * sphere.angle(z, points).square()).sum())

    best = optimize.minimize(cost, np.ones(3), tol=1e-14, options={"gtol": 1e-9}).x
    mine = T.spherical_mean(points, w)[0].numpy()
    assert mine == pytest.approx(best / np.linalg.norm(best), abs=1e-5)


def test_bad_input_of_the_samplers_is_refused(codes):
    with pytest.raises(ValueError, match="needs two ends, got 1 shot"):
        T.draws(1, 4, 0)
    with pytest.raises(ValueError, match="given k = 11, expected 1 to 10"):
        T.weights(10, 11)
    for w in (torch.full((2, 10), 0.2), torch.full((2, 9), 1 / 9), -T.weights(10, 3, 2)):
        with pytest.raises(ValueError, match=r"expected weights \(B, 10\) >= 0 that add up to 1"):
            T.convex(codes, w)
    with pytest.raises(RuntimeError, match="no spherical mean after 3 steps"):
        T.spherical_mean(torch.tensor([[1.0, 0], [-0.9, 0.1]]).double(),
                         torch.tensor([[0.5, 0.5]]).double(), steps=3, tol=0)
    with pytest.raises(ValueError, match="tiny: given 20 images, expected 28 or more"):
        T.target("tiny", torch.zeros(20, 3, 8, 8))
    with pytest.raises(data.DataError, match="expected 1 to 8"):
        T.members(8, 0)


def test_frechet_is_that_of_a_matrix_square_root_and_of_metrics():
    a, b = normal(90, 12), 2 + 1.5 * normal(80, 12, seed=1)
    ca, cb = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = np.real(linalg.sqrtm(ca @ cb))
    want = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(ca + cb - 2 * root)
    assert T.frechet(a, b) == pytest.approx(want, rel=1e-6)
    assert T.frechet(a, b, 5) == pytest.approx(metrics.fd(a, b, 5), rel=1e-9)
    assert T.frechet(b, b) == pytest.approx(0, abs=1e-6)


def test_frechet_extrapolated_is_nearer_to_the_truth():
    """Samples of one law: 0 is the truth, few samples are far from it, and the line is not."""
    b, many = normal(4000, 6, seed=1), [normal(40, 6, seed=s) for s in range(100, 130)]
    plain, line = (np.mean([f(a, b) for a in many]) for f in (T.frechet, T.frechet_infinite))
    assert plain > 0.3 and abs(line) < plain / 3
    with pytest.raises(ValueError, match="a line needs two sizes up to 10"):
        T.frechet_infinite(many[0][:10], b)


def test_precision_and_recall_are_those_of_scikit_learn():
    a, b = normal(30, 5), normal(40, 5, seed=1) + 0.7
    unit = [torch.nn.functional.normalize(v, dim=1).numpy() for v in (a, b)]

    def inside(x, y):
        near = NearestNeighbors(n_neighbors=4).fit(y)
        radius = near.kneighbors(y)[0][:, 3]
        d = np.linalg.norm(x[:, None] - y[None], axis=2)
        return (d <= radius + 1e-12).any(1).mean()

    assert T.precision_recall(a, b) == pytest.approx((inside(*unit), inside(*unit[::-1])))
    assert T.precision_recall(a, b) == T.precision_recall(3 * a, b)
    assert T.precision_recall(b, b) == (1, 1)
    assert T.precision_recall(a, b) == T.precision_recall(b, a)[::-1]
    with pytest.raises(ValueError, match="3 neighbours need 4 images or more, got 3 and 40"):
        T.precision_recall(a[:3], b)


def test_spread_of_copies_is_one_less_in_n():
    f = normal(10, 20)
    assert T.spread(f) == pytest.approx(distance.pdist(f.numpy(), "cosine").mean())
    gen = torch.Generator().manual_seed(0)
    many = [T.spread(f[torch.randint(10, (200,), generator=gen)]) for _ in range(20)]
    assert np.mean(many) / T.spread(f) == pytest.approx(0.9, abs=0.01)


def test_lpips_is_taken_to_the_nearest_shot():
    x = normal(6, 3, 32, 32, seed=1).float().clamp(-1, 1)
    assert T.lpips_nearest(x[[2, 4, 4]], x) == pytest.approx(0, abs=1e-6)
    one = [[float(perceptual.lpips(a[None], b[None])) for b in x[3:]] for a in x[:3]]
    assert T.lpips_nearest(x[:3], x[3:]) == pytest.approx(sorted(map(min, one))[1], abs=1e-5)


def test_kid_of_copies_is_their_mean_over_sets():
    f = normal(400, 30) + 1
    shots = [f[torch.randperm(200, generator=torch.Generator().manual_seed(i))[:10]]
             for i in range(60)]
    gen = torch.Generator().manual_seed(0)
    draw = lambda s: s[torch.randint(10, (60,), generator=gen)]  # noqa: E731
    found = [metrics.kid(draw(s), f[200:])[0] for s in shots]
    low, high = metrics.t_interval(found, 0.999)
    assert low <= T.kid_of_copies(f[200:]) <= high
    once = metrics.t_interval([metrics.kid(s, f[200:])[0] for s in shots], 0.999)
    assert once[0] <= 0 <= once[1]


@pytest.fixture(scope="module")
def small():
    return T.target("horses", data.domain("horses", 60))


def test_pool_and_reference_share_no_image():
    for t in T.targets():
        seen = {v.numpy().tobytes() for v in t.pool} & {v.numpy().tobytes() for v in t.reference}
        assert not seen, t.name
        assert len(t.pool) >= 125 and len(t.reference) >= 125


def test_controls_are_what_they_are_called(small):
    rows = T.Part(T.CONTROLS, T.Controls(), small, 1, 16).run().set_index("row")
    assert list(rows.index) == [T.REAL, T.ONCE, T.COPIES, T.JITTER, T.FADE]
    assert rows.loc[[T.ONCE, T.COPIES], ["nearest", "pixel"]].abs().max(axis=None) < 1e-6
    assert rows.nearest.idxmax() == T.REAL and rows.pixel[T.FADE] < rows.pixel[T.REAL]
    x = small.pool[T.members(30, 1)]
    f, judge = metrics.features(T.cross_fades(x, 16, 1)), small.judge
    assert rows.kid[T.FADE] == pytest.approx(metrics.kid(f, judge)[0], abs=1e-4)
    assert math.isnan(rows.fd_inf[T.ONCE]) and rows.fd[T.FADE] == pytest.approx(
        T.frechet(f, judge), abs=1e-3)


def test_a_row_of_a_system_is_decoded_from_the_road(small):
    s = T.System("gaussian-vehicles32", {"steps": 4}, ("great circle", "convex, 3"))
    rows = T.Part("Gaussian", s, small, 2, 8).run().set_index("row")
    at = T.members(30, 2)
    m = zoo.load("gaussian-vehicles32", steps=4)
    c = m.encode(small.pool[at], at)
    x = m.decode(T.between(paths.SLERP, c, 8, 2))
    f = metrics.features(x)
    assert rows.kid["Gaussian, great circle"] == pytest.approx(
        metrics.kid(f, small.judge)[0], abs=1e-3)
    assert rows.spread["Gaussian, great circle"] == pytest.approx(T.spread(f), abs=1e-3)
    assert rows.kid["Gaussian, convex, 3"] != rows.kid["Gaussian, great circle"]


def test_another_seed_keeps_the_shots_and_draws_other_samples(small):
    one, two = (T.Part(T.CONTROLS, T.Controls(), small, 1, 8, seed=s).run().set_index("row")
                for s in (None, 5))
    assert one.kid[T.ONCE] == two.kid[T.ONCE] and one.kid[T.REAL] == two.kid[T.REAL]
    assert one.kid[T.FADE] != two.kid[T.FADE] and set(two.image) == {5}


def test_rivals_see_the_shots_of_their_set(small, monkeypatch):
    seen = []
    real = T.fewshot.ojha
    monkeypatch.setattr(T.fewshot, "ojha", lambda g, d, x, *a: seen.append(x) or real(g, d, x, *a))
    row = T.Part(T.OJHA, T.ojha(0), small, 3, 6).run()
    assert torch.equal(seen[0], small.pool[T.members(30, 3)])
    again = T.Part(T.OJHA, T.ojha(0), small, 4, 6).run()
    assert row.kid[0] != again.kid[0]  # other latents


def test_the_key_of_a_part_knows_its_images_recipe_and_code(small, monkeypatch):
    part = T.Part(T.OJHA, T.ojha(3), small, 0)
    others = [T.Part(T.OJHA, T.ojha(4), small, 0), T.Part(T.OJHA, T.ojha(3), small, 1),
              T.Part(T.OJHA, T.ojha(3), T.Target("horses", small.pool, -small.reference), 0),
              T.Part(T.OJHA, T.ojha(3), small, 0, 12), T.Part(T.OJHA, T.ojha(3), small, 0, seed=7)]
    assert len({part.key, *(p.key for p in others)}) == 6
    before = part.key
    monkeypatch.setattr(results, "code_version", lambda *what: "other")
    assert part.key != before


def test_the_plan_has_each_label_once_and_only_known_roads():
    todo = T.parts()
    assert len({p.label for p in todo}) == len(todo)
    sets = {t.name: sum(p.target.name == t.name and p.name == T.DAE for p in todo)
            for t in T.targets()}
    assert min(sets.values()) >= 20
    m = zoo.load("dae-vehicles32", steps=1)
    c = m.prior(4)
    for road in (r for p in todo for r in getattr(p.method, "roads", ())):
        if not road.startswith("convex, "):
            assert geodesic_tables.road(road, m, c)


@pytest.fixture()
def looks():
    """Three sets: one rival falls by 1 ± 1 at its last look, the other rises at it by 0.5 ± 0."""
    kid = {"Ojha et al., 60 steps": (3, 3, 3), "Ojha et al., 125 steps": (2, 2, 2),
           "Ojha et al., 250 steps": (-1, 1, 3), "Latent Learner, 5 iterations": (1, 2, 3),
           "Latent Learner, 25 iterations": (1.5, 2.5, 3.5)}
    rows = [{"row": r, "domain": "horses", "image": i, "kid": k}
            for r, v in kid.items() for i, k in enumerate(v)]
    rows.append({"row": "Ojha et al., 500 steps", "domain": "horses", "image": 0, "kid": -9})
    return pd.DataFrame([*rows, {"row": T.LEARNER, "domain": "horses", "image": 101, "kid": -9},
                         {"row": T.OJHA, "domain": "icons", "image": 0, "kid": 4},
                         {"row": "FS-DAE, convex, 3", "domain": "horses", "image": 0, "kid": -9}])


def test_a_rival_is_its_look_with_the_lowest_mean_over_sets(looks):
    ways = T.ways(looks)
    assert len(ways) == 17 and set(ways.n) == {5, 25, 30, 60, 125, 250, 500}
    found = T.chosen(ways)
    assert found[found.domain == "icons"].n.tolist() == [30]  # a brief training, its only look
    found = found[found.domain == "horses"]
    assert found[found.row == T.OJHA].kid.tolist() == [-1, 1, 3]
    assert found[found.row == T.LEARNER].kid.tolist() == [1, 2, 3] and len(found) == 6


def test_a_rival_has_fallen_when_the_last_look_is_lower_set_by_set(looks):
    by = T.falls(T.ways(looks)).set_index("rival")
    assert by.loc[T.OJHA, "fall"] == 1 and by.loc[T.OJHA, "n"] == 250
    assert by.loc[T.OJHA, "error"] == pytest.approx(2 / math.sqrt(3))
    assert by.loc[T.LEARNER, ["fall", "error"]].tolist() == [-0.5, 0]


def test_noise_is_a_share_whose_interval_holds_the_truth():
    gen = np.random.default_rng(0)
    many = [T.noise(pd.Series(gen.normal(5, 0.3, 8)), 5.0) for _ in range(400)]
    assert np.mean([low <= 0.06 <= high for _, low, high in many]) == pytest.approx(0.95, abs=0.04)
    assert T.noise(pd.Series([1.0, 3.0, np.nan]), 2.0)[0] == pytest.approx(math.sqrt(2) / 2)


def test_rivals_that_decide_train_on_five_sets_and_each_once():
    long = [p for p in T.more_parts() if p.target.name in T.FEW and p.seed is None]
    steps = [(p.target.name, p.index, p.method.recipe.steps) for p in long if p.name == T.OJHA]
    assert len({s[:2] for s in steps}) == len(steps) == 10
    assert min(s for _, _, s in steps) == T.fewshot.OJHA.steps
    full = [p for p in long if p.name == f"{T.LEARNER}, {T.ITERATIONS} iterations"]
    assert len(full) == 10
    assert full[0].method.recipe == T.fewshot.LATENT_LEARNER
